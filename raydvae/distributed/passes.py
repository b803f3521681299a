"""Work on the units of a data set as a Ray Data stream: read and decode, compute on a device, encode and commit.

Each stage scales on its own: reading and committing are CPU tasks, computing is a fixed pool of actors that hold the
model. A unit is one row of the stream from end to end, so it is retried whole, and the driver sees only its record.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from raydvae.data.dataset import Unit
from raydvae.engine import Record, UnitWork, one_thread
from raydvae.errors import RaydvaeError

Batch = dict[str, npt.NDArray[Any]]


def stream(work: UnitWork, units: Sequence[Unit], workers: int, use_gpu: bool) -> Iterator[Record]:
    """Do ``work`` on ``units`` with ``workers`` actors; yield each unit's record once it is committed."""
    if not units:
        return
    blob = pickle.dumps(work)
    listed = ray.put(list(units))
    stages = (
        ray.data.range(len(units), override_num_blocks=len(units))
        .map_batches(_Read(blob, listed), batch_size=1, num_cpus=0.5)
        .map_batches(
            _Compute,
            fn_constructor_args=(blob,),
            batch_size=1,
            compute=ActorPoolStrategy(size=min(workers, len(units))),
            num_cpus=0 if use_gpu else 1,
            num_gpus=1 if use_gpu else 0,
        )
        .map_batches(_Commit(blob), batch_size=1, num_cpus=0.5)
    )
    try:
        for row in stages.iter_rows():
            yield json.loads(row["record"])
    except ray.exceptions.RayError as error:
        raise _cause(error) from None


class _Read:
    """A stage: unit numbers in, decoded rows out. Rows travel pickled within the cluster, never to storage."""

    def __init__(self, work: bytes, units: Any) -> None:
        self.work, self.units = work, units

    def __call__(self, batch: Batch) -> pa.Table:
        work: UnitWork = pickle.loads(self.work)
        units: list[Unit] = ray.get(self.units)
        return _packed([pickle.dumps(work.read(units[int(number)])) for number in batch["id"]])


class _Compute:
    """The actor that holds the model."""

    def __init__(self, work: bytes) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.work: UnitWork = pickle.loads(work)
        self.work.load(self.device)

    def __call__(self, batch: Batch) -> pa.Table:
        out = []
        with one_thread(self.device):
            for value in batch["data"]:
                rows = pickle.loads(value)
                out.append(pickle.dumps((rows, self.work.compute(rows))))
        return _packed(out)


class _Commit:
    """A stage: results in, committed records out."""

    def __init__(self, work: bytes) -> None:
        self.work = work

    def __call__(self, batch: Batch) -> Batch:
        work: UnitWork = pickle.loads(self.work)
        records = [work.commit(*pickle.loads(value)) for value in batch["data"]]
        return {"record": np.array([json.dumps(record) for record in records], dtype=object)}


def _packed(values: list[bytes]) -> pa.Table:
    return pa.table({"data": pa.array(values, pa.large_binary())})


def _cause(error: BaseException) -> Exception:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaydvaeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return RaydvaeError(f"The stream failed on the cluster: {error}. Run the same command again to go on.")
