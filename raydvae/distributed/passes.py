"""Work on the units of a data set as a Ray Data stream: read and decode, compute on a device, encode and commit.

Each stage scales on its own: reading and committing are CPU tasks, computing is a fixed pool of actors that hold the
model. A unit is one block of the stream from end to end, so it is retried whole, and the driver sees only its record.

This module is imported in every worker process, so it does not import torch: only the actors need it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError

from raydvae.data.units import Unit
from raydvae.distributed import metrics
from raydvae.errors import RaydvaeError

if TYPE_CHECKING:
    import torch

    from raydvae.engine import Record, UnitWork

log = logging.getLogger("raydvae.stream")

IO_CPUS = 0.5  # logical cores of a reading or committing task: they wait for storage part of the time
UNITS_PER_TASK = 64  # a reading task streams this many units: the driver plans tasks, not units
TASKS_PER_SLOT = 4  # but so many tasks for each that can run at once, so that none is left with the rest
UNITS_PER_ACTOR = 8  # in flight: Ray Data gives half of them to its three stages in equal parts; with 4, actors waited
UNITS_PER_STREAM = 10_000  # at least; and for many actors, for which that is soon done:
UNITS_PER_STREAM_AND_ACTOR = 2000
RETRIES = 3  # of one unit whose process dies; Ray Data's default is for ever
QUIET_SECONDS = 60.0  # without a committed unit, then the log says what is waited for
TIMEOUT_SECONDS = 3600.0  # without any movement at all, then the stream ends
ELASTIC_TIMEOUT_SECONDS = 900.0  # the same where it may go on with fewer workers
LARGE = 2**16  # bytes from which a buffer travels beside its pickle


class StreamBroken(RaydvaeError):
    """A stream ended before its units did, because of the cluster and not of the work."""


def elastic_stream(
    work: UnitWork, units: Sequence[Unit], workers: Callable[[], int], use_gpu: bool, cores: int = 1
) -> Iterator[Record]:
    """Do as `stream` does, with as many actors as ``workers`` says now, and again when the stream breaks.

    It ends with the error after `RETRIES` breaks between which nothing was committed.
    """
    left = {unit.id: unit for unit in units}
    breaks = 0
    while left:
        try:
            for record in stream(work, list(left.values()), workers(), use_gpu, ELASTIC_TIMEOUT_SECONDS, cores):
                del left[record["unit"]]
                breaks = 0
                yield record
        except StreamBroken as error:
            breaks += 1
            if breaks > RETRIES:
                raise
            log.warning("%s Going on with the %d units that are left and what the cluster has now.", error, len(left))


def stream(
    work: UnitWork,
    units: Sequence[Unit],
    workers: int,
    use_gpu: bool,
    timeout: float = TIMEOUT_SECONDS,
    cores: int = 1,
) -> Iterator[Record]:
    """Do ``work`` on ``units`` with ``workers`` actors of ``cores`` each; yield a unit's record once it is committed.

    Raises what ``work`` raises if that is a `RaydvaeError`, and else a `StreamBroken` that says what Ray saw: also
    when the process that works on one unit died `RETRIES` + 1 times, or nothing moved for ``timeout`` seconds.
    """
    if not units:
        return
    try:
        with _Waiting(work.name, len(units), workers, use_gpu) as waiting:
            for plan in plans(work, units, workers, use_gpu, timeout, cores):
                for row in plan.iter_rows():
                    waiting.done += 1
                    yield json.loads(row["record"])
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        raise _cause(error, work.name) from None


def plans(
    work: UnitWork,
    units: Sequence[Unit],
    workers: int,
    use_gpu: bool,
    timeout: float = TIMEOUT_SECONDS,
    cores: int = 1,
) -> Iterator[ray.data.Dataset]:
    """Yield the streams to run one after the other, nothing of which has run; their rows are the records, as JSON.

    Mostly it is one. Ray Data keeps some 4 KB about each block that it ever moved, which is freed with the stream, so
    that a stream of millions of units would fill the driver.
    """
    shared = _Shared(ray.put(work), work.name)
    workers = min(workers, len(units))
    slots = _io_slots(0 if use_gpu else workers * cores)
    # Decoded units in flight. Ray Data's own limit is half of the object store: gigabytes would pile up before the
    # actors, the slowest stage. More than this keeps no process busier: each task holds one, each actor has its next.
    flight = UNITS_PER_ACTOR * workers + slots
    limit = flight * _decoded_bytes(shared, units) if len(units) > flight else None
    size = max(UNITS_PER_STREAM, UNITS_PER_STREAM_AND_ACTOR * workers)
    for at in range(0, len(units), size):
        source = _source(units[at : at + size], slots)
        context = source.context
        context.target_max_block_size = 1  # what a stage yields is a block as it is: never several units in one
        context.execution_no_progress_timeout_s = timeout
        context.raise_original_map_exception = True  # Ray Data's own wrapper loses the cause on its way from an actor
        if limit is not None:
            limits = context.execution_options.resource_limits
            context.execution_options.resource_limits = limits.copy(object_store_memory=limit)
        yield _stages(source, shared, workers, slots, use_gpu, cores)


def _source(units: Sequence[Unit], slots: int) -> ray.data.Dataset:
    """Return blocks of one row each, a list of units: what one reading task does."""
    size = max(1, min(UNITS_PER_TASK, len(units) // (TASKS_PER_SLOT * slots)))
    return ray.data.from_arrow([_listed(units[at : at + size]) for at in range(0, len(units), size)])


def _stages(
    source: ray.data.Dataset, shared: _Shared, workers: int, slots: int, use_gpu: bool, cores: int
) -> ray.data.Dataset:
    with _no_warnings():
        return (
            source.map_batches(
                _Read(shared),
                batch_size=None,
                batch_format="pyarrow",
                # Half of the slots: paused readers, whose units nobody takes yet, never keep committers from running.
                compute=TaskPoolStrategy(size=max(1, min(slots // 2, source.num_blocks()))),
                num_cpus=IO_CPUS,
                max_retries=RETRIES,
            )
            .map_batches(
                _Compute,
                fn_constructor_args=(shared, cores),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=workers),
                num_cpus=0 if use_gpu else cores,
                num_gpus=1 if use_gpu else 0,
                max_task_retries=RETRIES,
            )
            .map_batches(_Commit(shared), batch_size=1, batch_format="pyarrow", num_cpus=IO_CPUS, max_retries=RETRIES)
        )


@contextmanager
def _no_warnings() -> Iterator[None]:
    # The limits of retries can be set in no other way, though Ray announces that this one will go.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _io_slots(taken: int) -> int:
    """Return how many reading and committing tasks can run at once beside actors that take so many cores."""
    free = ray.cluster_resources().get("CPU", 0.0) - taken
    return max(2, int(free / IO_CPUS))


def _decoded_bytes(shared: _Shared, units: Sequence[Unit]) -> int:
    """Return the bytes of the longest unit when it is read, by reading it: no driver decodes images."""
    longest = max(units, key=lambda unit: unit.rows)
    measure = ray.remote(_measure).options(num_cpus=IO_CPUS, max_retries=RETRIES)
    return int(ray.get(measure.remote(shared, longest)))


def _measure(shared: _Shared, unit: Unit) -> int:
    return int(_pack(shared.work().read(unit)).nbytes)


@dataclass(frozen=True, slots=True)
class _Shared:
    """The work, sent once to each node and unpickled once in each process."""

    ref: Any
    step: str

    def work(self) -> UnitWork:
        key = self.ref.hex()
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = ray.get(self.ref)
        return _LOADED[key]


_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
_LOADED: dict[str, UnitWork] = {}


class _Read:
    """A stage: lists of units in, one block of decoded rows a unit out."""

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        work = self.shared.work()
        for listed in batch.column(0):
            for unit in pickle.loads(zlib.decompress(listed.as_buffer())):
                with _own_words(), metrics.timed(work.name, "read"):
                    packed = _pack(work.read(unit))
                metrics.retries.tell(work.name)
                yield packed


class _Compute:
    """The actor that holds the model."""

    def __init__(self, shared: _Shared, cores: int) -> None:
        self.shared, self.cores = shared, cores
        self.device: torch.device | None = None

    def _load(self) -> torch.device:
        # In the first call, not in the constructor: only there retries are counted, and errors arrive as themselves.
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shared.work().load(device)
        return device

    def __call__(self, batch: pa.Table) -> pa.Table:
        from raydvae.engine import one_thread

        work = self.shared.work()
        with _own_words():
            self.device = self.device or self._load()
        with _own_words(), metrics.timed(work.name, "compute"), one_thread(self.device, self.cores):
            rows = _unpack(batch)
            result = work.compute(rows)
            # Pixels that came in are not committed: they stay behind, the count of rows goes on.
            return _pack((dataclasses.replace(rows, images=rows.images[:, :0, :0]), result))


class _Commit:
    """A stage: results in, committed records out."""

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared

    def __call__(self, batch: pa.Table) -> pa.Table:
        work = self.shared.work()
        with _own_words(), metrics.timed(work.name, "commit"):
            record = work.commit(*_unpack(batch))
        metrics.committed(work.name, record)
        metrics.retries.tell(work.name)
        return pa.table({"record": [json.dumps(record)]})


@contextmanager
def _own_words() -> Iterator[None]:
    # Ray Data adds advice of its own to the text of an exception; its attributes it leaves alone.
    try:
        yield
    except RaydvaeError as error:
        error.__dict__["said"] = str(error)
        raise


class _Waiting:
    """Says in the log what is waited for when no unit was committed for a while."""

    def __init__(self, step: str, units: int, workers: int, use_gpu: bool) -> None:
        self.step, self.units, self.workers, self.kind = step, units, workers, "GPU" if use_gpu else "CPU"
        self.done = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _Waiting:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join()

    def _follow(self) -> None:
        seen, since = 0, time.monotonic()
        while not self.end.wait(QUIET_SECONDS):
            if self.done != seen:
                seen, since = self.done, time.monotonic()
            else:
                log.warning("%s", self.message(time.monotonic() - since))

    def message(self, seconds: float) -> str:
        """Return one sentence on what is there and what is needed."""
        has, free = ray.cluster_resources(), ray.available_resources()
        kinds = ", ".join(f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return (
            f"{self.step}: no unit was committed for {seconds:.0f} s ({self.done} of {self.units} are). Waiting for "
            f"{self.workers} actors with one {self.kind} each, and for reading and committing with {IO_CPUS} CPUs a "
            f"task; free are {kinds}. If they are computing, units are slow: smaller ones (data.unit_rows) show more."
        )


def _listed(units: Sequence[Unit]) -> pa.Table:
    """Return a list of units as one row: names repeat, so it is small; a million units are some 20 MB."""
    return pa.table({"units": pa.array([zlib.compress(pickle.dumps(list(units)), 1)], pa.large_binary())})


def _pack(value: Any) -> pa.Table:
    """Return ``value`` as a table of one cell, its large buffers copied once. It never goes to storage."""
    large: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= LARGE:
            large.append(raw)
        return raw.nbytes < LARGE

    head = pickle.dumps(value, protocol=5, buffer_callback=beside)
    parts: list[bytes | memoryview] = [head, *large]
    sizes = struct.pack(f"<{1 + len(parts)}q", len(parts), *(len(part) for part in parts))
    cell = b"".join([sizes, *parts])
    offsets = pa.py_buffer(struct.pack("<2q", 0, len(cell)))
    array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(cell)])
    return pa.table({"data": array})


def _unpack(table: pa.Table) -> Any:
    """Return what `_pack` was given. Arrays are copies: what lies in the object store must not be written to."""
    cell = memoryview(table.column("data")[0].as_buffer())
    (count,) = struct.unpack_from("<q", cell)
    at = 8 * (1 + count)
    parts: list[memoryview] = []
    for size in struct.unpack_from(f"<{count}q", cell, 8):
        parts.append(cell[at : at + size])
        at += size
    return pickle.loads(parts[0], buffers=[bytearray(part) for part in parts[1:]])


def _cause(error: BaseException, step: str) -> Exception:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaydvaeError) and not isinstance(seen, ray.exceptions.RayTaskError):
            return type(seen)(getattr(seen, "said", str(seen)))
        if isinstance(seen, _DEATHS):
            return StreamBroken(
                f"{step}: processes that worked on one unit died {RETRIES + 1} times, the last time: {seen}. "
                "Mostly that is memory that ran out: make data.unit_rows or pass_batch smaller, or use fewer workers. "
                "What was committed is kept; run the same command again to go on."
            )
        if isinstance(seen, ExecutionTimeoutError):
            return StreamBroken(
                f"{step}: nothing moved for a long time. Are there as many free CPUs or GPUs as workers? "
                f"Run the same command again to go on. Ray says: {seen}"
            )
        seen = getattr(seen, "cause", None) or seen.__cause__
    return StreamBroken(f"The stream failed on the cluster: {error}. Run the same command again to go on.")
