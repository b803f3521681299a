"""The two kinds of work of this project, and how they are done in one process.

Algorithms are written against `Engine`; `raydvae.distributed` has the engine that does the same on a Ray cluster, with
the same bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from raydvae.data.dataset import Dataset, Rows, Unit
from raydvae.data.manifest import Run
from raydvae.training.job import Progress, TrainJob, pick_device, run_job

Record = dict[str, Any]


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
        """Publish the results and return the commit record."""
        ...


class Engine(Protocol):
    """Where work is done."""

    workers: int
    device: torch.device

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


def apply_to_units(
    engine: Engine, run: Run, work: UnitWork, data: Dataset, watch: Watch | None = None
) -> tuple[int, float]:
    """Do ``work`` on the units of ``data`` that are not committed yet; return their rows and the seconds it took."""
    done = run.done(work.name)
    left = [unit for unit in data.units() if unit.id not in done]
    rows = sum(unit.rows for unit in left)
    started = time.monotonic()
    with (watch or Silent()).step(work.name, rows, "rows") as advance:
        for record in engine.map(work, left):
            advance(record)
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

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        """See `Engine.train`."""
        scan(self, job)
        run_job(job, self.device, self.threads, progress=progress)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        """See `Engine.map`."""
        work.load(self.device)
        for unit in units:
            rows = work.read(unit)
            with one_thread(self.device):
                result = work.compute(rows)
            yield work.commit(rows, result)


class one_thread:  # noqa: N801 - reads as a statement
    """Compute with one thread a worker on a CPU, so that no sum depends on the number of cores."""

    def __init__(self, device: torch.device) -> None:
        self.limit = device.type == "cpu"

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.limit:
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def available_cores() -> int:
    """Return the cores that this process may run on."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
