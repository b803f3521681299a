"""The engine that works on a Ray cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from raydvae.data.units import Unit
from raydvae.distributed.environment import IO_CORES
from raydvae.engine import InProcess, Record, Resources, UnitWork, scan, this_machine
from raydvae.machine import available_cores
from raydvae.training.job import Progress, TrainJob, pick_device

FEW_UNITS = 4  # that one worker on this machine does itself


class RayEngine:
    """Passes as Ray Data streams, and trainings on Ray Train or, with one worker on this machine, in this process.

    A one-worker Ray Train fit takes 30 to 70 s to start on a small machine, and gives the same bytes. So does a stream,
    in 20 to 30 s, which reading ahead of a few units does not gain back. Ray itself is imported and started only when
    there is something for it to do.
    """

    def __init__(
        self, workers: int = 1, address: str | None = None, fewest: int | None = None, wait: float = 0
    ) -> None:
        self.workers = workers
        self.fewest = fewest or workers
        self.wait = wait
        self.address = address or os.environ.get("RAY_ADDRESS")  # a submitted job finds its cluster there
        self.device = pick_device()
        self._open = ExitStack()

    def __enter__(self) -> RayEngine:
        if self.address is not None:
            self.connect()
            from raydvae.distributed.session import cluster_resources

            # This process may be on a head node without a GPU: what counts is what the cluster has.
            there = cluster_resources(self.fewest, self.wait)
            self.device = torch.device("cuda" if there.gpus else "cpu")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def connect(self) -> None:
        """Be connected to Ray from now on."""
        from raydvae.distributed.environment import prepare

        prepare(self.address)
        from raydvae.distributed.session import session

        self._open.enter_context(session(self.workers, self.address))

    @property
    def io_cores(self) -> float:
        """See `Engine`."""
        return IO_CORES if self.address is None else max(1.0, self.resources().cpus - self.workers)

    @property
    def pass_cores(self) -> int:
        """See `Engine`. On a cluster an actor takes one core, which fits anywhere: more workers use more cores."""
        return max(1, available_cores() // self.workers) if self.address is None else 1

    def cores(self, slices: int) -> float:
        """See `Engine.cores`."""
        share = math.ceil(slices / self.workers)
        if self.address is None:
            return max(1, min(share, available_cores() // self.workers))
        if self.device.type == "cuda":
            return 1
        return max(1, min(share, (self.resources().cpus - IO_CORES) // self.workers))

    def asks(self, cores: float, memory: int) -> Resources:
        """See `Engine.asks`; one core more has to be left for reading and committing."""
        workers = self.fewest
        return Resources(workers * cores + 1, workers if self.device.type == "cuda" else 0, workers * memory)

    def resources(self) -> Resources:
        """See `Engine.resources`."""
        if self.address is None:
            here = this_machine()
            return replace(here, cpus=max(here.cpus, self.workers) + IO_CORES)
        from raydvae.distributed.session import cluster_resources

        return cluster_resources()

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """See `Engine.call`."""
        if self.address is None:
            return work(*args, self.device)
        from raydvae.distributed.session import call

        return call(work, *args, use_gpu=self.device.type == "cuda")

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        """See `Engine.train`."""
        if job.finished or (self.workers == 1 and self.address is None):
            InProcess().train(job, progress)
            return
        self.connect()
        scan(self, job)
        from raydvae.distributed.train import train, train_alone

        if self.workers == 1:
            train_alone(job, self.device.type == "cuda", int(self.cores(job.config.slices)), progress)
            return
        train(
            job, (self.fewest, self.workers), self.device.type == "cuda", int(self.cores(job.config.slices)), progress
        )

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        """See `Engine.map`."""
        if not units:
            return iter(())
        if self.workers == 1 and self.address is None and len(units) <= FEW_UNITS:
            return InProcess().map(work, units)
        self.connect()
        from raydvae.distributed.passes import elastic_stream, stream

        use_gpu = self.device.type == "cuda"
        if self.fewest == self.workers:
            return stream(work, units, self.workers, use_gpu, cores=self.pass_cores)
        return elastic_stream(work, units, self._there, use_gpu, self.pass_cores)

    def _there(self) -> int:
        """Return for how many workers the cluster has room now, between the fewest and all."""
        now = self.resources()
        room = now.gpus if self.device.type == "cuda" else now.cpus - 1
        return max(self.fewest, min(self.workers, int(room)))
