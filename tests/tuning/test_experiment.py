from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from raydvae.config import PurifyConfig
from raydvae.data.dataset import find_classes
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.tuning.experiment import Here, TuneConfig, Tuned, tune
from tests.conftest import small_config

SETTINGS = TuneConfig(trials=8, fraction=0.5, epochs=2, concurrency=2)


def windows(config: PurifyConfig, first: tuple[float, float], second: tuple[float, float]) -> PurifyConfig:
    return dataclasses.replace(
        config,
        stage1=dataclasses.replace(config.stage1, psnr_window=first),
        stage2=dataclasses.replace(config.stage2, psnr_window=second),
    )


CONFIG = windows(small_config(epochs=4), (12.0, 13.5), (13.0, 15.0))


@dataclasses.dataclass
class Done:
    tuned: Tuned
    folder: Path


@pytest.fixture(scope="module")
def done(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    from raydvae.data.dataset import open_dataset

    data = open_dataset(str(digits_folder), CONFIG.data)
    folder = tmp_path_factory.mktemp("tuned")
    return Done(tune(data, find_classes(data), Store(str(folder)), CONFIG, SETTINGS, InProcess(1), Here(1)), folder)


def test_print(done: Done) -> None:
    from raydvae.tuning.experiment import result, rows

    for r in rows(done.tuned):
        print(r)
    print(result(done.tuned), {n: (s.estimated, s.measured) for n, s in done.tuned.stages.items()})
    assert 0
