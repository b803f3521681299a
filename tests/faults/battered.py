"""A purification on a two-node cluster that is hit in every place: run by test_cluster.py in a process of its own.

    python -c "from tests.faults.battered import main; main()" SOURCE OUT MARKS EPOCHS

A pass actor, a commit task and a Train worker end themselves by SIGKILL, each once, in the middle of their work; a node is
taken away while it trains and, after another has joined, while it computes. Stage 2 is trained without the cluster.
MARKS gets a file for each hit and a line for each unit that was computed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ray.cluster_utils import Cluster
from torch import Tensor, nn

from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.distributed.engine import RayEngine
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.models.losses import Parts
from raydvae.purify.algorithm import purify
from raydvae.training.job import Progress, TrainJob
from raydvae.training.loop import Task
from tests.conftest import small_config
from tests.faults.hits import Hit, die_once

STORE = 150 * 2**20


@dataclass(frozen=True)
class HitTask:
    """A training whose worker dies in the middle of its last epoch, after the node was lost."""

    task: Task
    marks: str  # a folder; what is stored of a task is JSON
    epoch: int

    def build(self) -> nn.Module:
        return self.task.build()

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        return self.task.measure(model, x, y, generator, epoch)

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        if epoch == self.epoch:
            die_once(Path(self.marks) / "train-worker")
        return self.task.total(parts, means, epoch)


class Battered(RayEngine):
    """An engine on a cluster that loses what it works with."""

    def __init__(self, cluster: Cluster, marks: Path) -> None:
        super().__init__(2, cluster.address, fewest=1)
        self.cluster, self.marks, self.other = cluster, marks, cluster.add_node(num_cpus=3, object_store_memory=STORE)

    def take_node(self, mark: str) -> None:
        self.cluster.remove_node(self.other, allow_graceful=False)
        (self.marks / mark).touch()

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        if job.name == "stage2":
            InProcess().train(job, progress)
            return
        job = dataclasses.replace(job, task=HitTask(job.task, str(self.marks), job.config.epochs - 1))

        def follow(metrics: dict[str, float]) -> None:
            if metrics["epoch"] == 0:
                self.take_node("node-in-training")
            if progress is not None:
                progress(metrics)

        super().train(job, follow)
        self.other = self.cluster.add_node(num_cpus=3, object_store_memory=STORE)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        for record in super().map(Hit(work, self.marks), units):
            yield record
            if work.name == "pass3" and not (self.marks / "node-in-pass").exists():
                self.take_node("node-in-pass")


def main() -> None:
    source, out, marks, epochs = sys.argv[1:]
    config = small_config(int(epochs))
    data = open_dataset(source, config.data)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3,
            "object_store_memory": STORE,
            "include_dashboard": False,
            # Notice a dead node in ten seconds instead of a minute.
            "_system_config": {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000},
        },
    )
    try:
        with Battered(cluster, Path(marks)) as engine:
            purify(data, find_classes(data), Store(out), config, engine)
    finally:
        cluster.shutdown()
