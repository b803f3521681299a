"""An attack with a surrogate, streamed through two actors: the bytes of one process.

That trainings have the same bits on two Ray workers is shown by tests/ray/test_parity.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import Engine, InProcess
from raydvae.training.job import Progress, TrainJob
from tests.attacks.stopped import SMALL_CONFIGS
from tests.purify.test_algorithm import hashes

pytestmark = pytest.mark.ray


def make(data: Dataset, out: Path, engine: Engine) -> dict[str, str]:
    run = Run(Store(str(out)))
    poison(Recipe(SMALL_CONFIGS["tap"], 32, 10, run.home), data, find_classes(data), run, engine)
    return hashes(out)


class StreamsOnRay(RayEngine):
    """Trains in this process: two Ray Train workers would take longer to start than all the rest."""

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        InProcess().train(job, progress)


def test_ray_poisons_to_the_bytes_of_one_process(digits_data: Dataset, tmp_path: Path, ray_cluster: None) -> None:
    alone = make(digits_data, tmp_path / "alone", InProcess())
    with StreamsOnRay(2) as engine:
        assert make(digits_data, tmp_path / "ray", engine) == alone
