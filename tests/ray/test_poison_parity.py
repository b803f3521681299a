"""An attack with a surrogate, trained on two Ray workers and streamed through two actors: the bytes of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.data.dataset import Dataset, find_classes
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import Engine, InProcess
from tests.attacks.stopped import SMALL_CONFIGS
from tests.purify.test_algorithm import hashes

pytestmark = pytest.mark.ray


def make(data: Dataset, out: Path, engine: Engine) -> dict[str, str]:
    run = Run(Store(str(out)))
    poison(Recipe(SMALL_CONFIGS["tap"], 32, 10, run.home), data, find_classes(data), run, engine)
    return hashes(out)


def test_ray_poisons_to_the_bytes_of_one_process(digits_data: Dataset, tmp_path: Path, ray_cluster: None) -> None:
    alone = make(digits_data, tmp_path / "alone", InProcess())
    with RayEngine(2) as engine:
        assert make(digits_data, tmp_path / "ray", engine) == alone
