"""The two kinds of work of this project, and how they are done in one process.

Algorithms are written against `Engine`; `raydvae.distributed` has the engine that does the same on a Ray cluster, with
the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from raydvae import stopping
from raydvae.data.damage import mend
from raydvae.data.dataset import Dataset
from raydvae.data.lease import Lease
from raydvae.data.manifest import Run
from raydvae.data.rows import Rows
from raydvae.data.units import Unit
from raydvae.machine import available_cores, available_memory
from raydvae.training.job import Progress, TrainJob, pick_device, run_job

Record = dict[str, Any]
T = TypeVar("T")
V = TypeVar("V")


class UnitWork(Protocol):
    """What is done to each unit of a data set, in three parts: input, computation on a device, output.

    Picklable. ``load`` is called once a process before ``compute``; the three others may run in different processes.
    """

    name: str

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        ...

    def load(self, device: torch.device) -> None:
        """Load the models."""
        ...

    def compute(self, rows: Rows) -> Any:
        """Turn rows into results, on the device."""
        ...

    def commit(self, rows: Rows, result: Any) -> Record:
        """Publish the results and return the commit record; on a cluster ``rows`` come without their pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What is asked for, or what there is; ``memory`` in bytes."""

    cpus: float
    gpus: float
    memory: int
    where: str = ""


class Engine(Protocol):
    """Where work is done. ``io_cores`` read and commit units beside the workers."""

    workers: int
    device: torch.device

    @property
    def io_cores(self) -> float:
        """Cores that read and commit units."""
        ...

    @property
    def pass_cores(self) -> int:
        """Cores on which each worker computes a unit."""
        ...

    def cores(self, slices: int) -> float:
        """Cores of each worker in a training whose batches have ``slices`` slices."""
        ...

    def asks(self, cores: float, memory: int) -> Resources:
        """Return what workers with so many cores and bytes of decoded images each take together."""
        ...

    def resources(self) -> Resources:
        """Return what there is."""
        ...

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """Return ``work(*args, device)``, called where a worker would be."""
        ...

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        """Run a training to its end; a finished one returns at once."""
        ...

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        """Do ``work`` on all ``units``, in any order, and yield each one's record once it is committed."""
        ...


class Watch(Protocol):
    """Told of progress: a context for each step, in which the given function is called with the work done."""

    def step(self, name: str, total: int, unit: str) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
        """Begin a step of ``total`` epochs or rows; the function takes an epoch's metrics or a commit record."""
        ...


class Silent:
    """A watch that says nothing."""

    def step(self, name: str, total: int, unit: str) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
        """See `Watch.step`."""
        return nullcontext(lambda _: None)


@contextmanager
def held(run: Run, watch: Watch, kind: str, *sources: Dataset) -> Iterator[tuple[Run, Watch]]:
    """Have the run's folder to oneself: yield the run to write to, and a watch that notes progress there too.

    The run's stores are fenced, wherever they are sent: whoever lost the folder writes nothing more (see `Lease`).
    Raises as `Run.check` does, before anything is written. What drivers that were killed have left half written is
    deleted at the end.
    """
    run.check(kind, *sources)
    left = run.store.leftovers()  # before the lease, which writes, too
    with Lease(run.home) as lease:
        yield Run(run.store.fenced(lease.term)), _Noted(watch, lease)
        for name in left:
            run.store.delete(name)


class _Noted:
    """A watch that passes everything on and notes it in the run's lease."""

    def __init__(self, watch: Watch, lease: Lease) -> None:
        self.watch, self.lease = watch, lease

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        with self.watch.step(name, total, unit) as advance:
            self.lease.begin(name, total, unit)

            def both(event: dict[str, Any]) -> None:
                self.lease.check()
                done = event["epoch"] + 1 if "epoch" in event else self.lease.note["done"] + event["rows_in"]
                self.lease.advance(done)
                advance(event)

            yield both


def units_left(run: Run, step: str, data: Dataset, verify: bool = False, spare: str = "") -> list[Unit]:
    """Return the units of ``data`` that ``step`` has not committed, or whose files are damaged by now.

    With ``verify`` their sums are compared whatever that costs; ``spare`` is that of `raydvae.data.damage.examine`.
    """
    good = mend(run, step, verify or None, spare).good
    return [unit for unit in data.units() if unit.id not in good]


def apply_to_units(
    engine: Engine,
    run: Run,
    work: UnitWork,
    data: Dataset,
    watch: Watch | None = None,
    left: Sequence[Unit] | None = None,
) -> tuple[int, float]:
    """Do ``work`` on the units of ``data`` that are left to do; return their rows and the seconds it took.

    ``left`` are those units where the caller knows them, by `units_left`.
    """
    left = units_left(run, work.name, data) if left is None else left
    if not left:
        return 0, 0.0
    rows = sum(unit.rows for unit in left)
    started = time.monotonic()
    with (watch or Silent()).step(work.name, rows, "rows") as advance:
        for record in engine.map(work, left):
            advance(record)
            stopping.check()
    return rows, time.monotonic() - started


def scan(engine: Engine, job: TrainJob) -> None:
    """Find out which rows of a streamed training can be used, where that is not known yet."""
    if work := job.scan:
        for _ in engine.map(work, work.left()):
            pass
        work.counts()  # says now, and not in a worker, if too many cannot be used


class InProcess:
    """Everything here and now, on this machine's cores or its GPU."""

    workers = 1

    def __init__(self, threads: int | None = None) -> None:
        self.device = pick_device()
        self.threads = threads or available_cores()

    @property
    def io_cores(self) -> float:
        """See `Engine`."""
        return 1

    @property
    def pass_cores(self) -> int:
        """See `Engine`."""
        return self.threads

    def cores(self, slices: int) -> float:
        """See `Engine.cores`."""
        return min(self.threads, slices)

    def asks(self, cores: float, memory: int) -> Resources:
        """See `Engine.asks`."""
        return Resources(cores, 1 if self.device.type == "cuda" else 0, memory)

    def resources(self) -> Resources:
        """See `Engine.resources`."""
        return this_machine()

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """See `Engine.call`."""
        return work(*args, self.device)

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        """See `Engine.train`."""
        scan(self, job)
        run_job(job, self.device, self.threads, progress=progress)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        """See `Engine.map`."""
        work.load(self.device)
        for unit in units:
            stopping.check()
            rows = work.read(unit)
            with one_thread(self.device, self.threads):
                result = work.compute(rows)
            yield work.commit(rows, result)


class one_thread:  # noqa: N801 - reads as a statement
    """Compute with one thread an operator on a CPU, so that no sum depends on the number of cores.

    To use more ``cores`` than one, work is cut into parts that are the same on any number of them: see `each`.
    """

    def __init__(self, device: torch.device, cores: int = 1) -> None:
        self.limit = device.type == "cpu"
        self.cores = cores if self.limit else 1

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.limit:
            torch.set_num_threads(1)  # also of threads that begin from now on
        self.pool = ThreadPoolExecutor(self.cores) if self.cores > 1 else None
        self.outer = _POOL.set(self.pool)

    def __exit__(self, *_: object) -> None:
        _POOL.reset(self.outer)
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.before)


_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


def each(work: Callable[[T], V], parts: Iterable[T]) -> list[V]:
    """Return ``work`` of each part, in order; within `one_thread`, as many parts at once as it has cores."""
    pool = _POOL.get()
    return [work(part) for part in parts] if pool is None else list(pool.map(work, parts))


def this_machine() -> Resources:
    """Return what this machine has for this process."""
    return Resources(available_cores(), torch.cuda.device_count(), available_memory(), "this machine")
