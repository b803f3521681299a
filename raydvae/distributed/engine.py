"""The engine that works on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch

from raydvae.data.dataset import Unit
from raydvae.engine import InProcess, Record, UnitWork, available_cores
from raydvae.training.job import Progress, TrainJob, pick_device


class RayEngine:
    """Passes as Ray Data streams, and trainings on Ray Train or, with one worker on this machine, in this process.

    A one-worker Ray Train fit takes 30 to 70 s to start on a small machine, and gives the same bytes. Ray itself is
    imported and started only when there is something for it to do.
    """

    def __init__(self, workers: int = 1, address: str | None = None) -> None:
        self.workers = workers
        self.address = address or os.environ.get("RAY_ADDRESS")  # a submitted job finds its cluster there
        self.device = pick_device()
        self._open = ExitStack()

    def __enter__(self) -> RayEngine:
        if self.address is not None:
            self.connect()
            import ray

            # This process may be on a head node without a GPU: what counts is what the cluster has.
            self.device = torch.device("cuda" if ray.cluster_resources().get("GPU", 0) >= self.workers else "cpu")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def connect(self) -> None:
        """Be connected to Ray from now on."""
        from raydvae.distributed.environment import prepare

        prepare(self.address)
        from raydvae.distributed.session import session

        self._open.enter_context(session(self.workers, self.address))

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        """See `Engine.train`."""
        if job.finished or (self.workers == 1 and self.address is None):
            InProcess().train(job, progress)
            return
        self.connect()
        from raydvae.distributed.train import train

        cores = max(1, available_cores() // self.workers) if self.address is None else 1
        train(job, self.workers, self.device.type == "cuda", cores, progress)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        """See `Engine.map`."""
        if not units:
            return iter(())
        self.connect()
        from raydvae.distributed.passes import stream

        return stream(work, units, self.workers, self.device.type == "cuda")
