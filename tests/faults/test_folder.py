"""Two drivers on one folder, and a source that changes between start and resume. Without Ray."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from raydvae.cli.main import run
from raydvae.config import PurifyConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.purify.algorithm import purify
from raydvae.training.job import Progress, TrainJob
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes

SETTINGS = ["--preset", "digits", "--width", "4", "--epochs", "2", "--batch", "32", "--unit-rows", "40"]


def start(source: Path, out: Path, engine: InProcess | None = None, config: PurifyConfig | None = None) -> None:
    config = config or small_config()
    data = open_dataset(str(source), config.data)
    purify(data, find_classes(data), Store(str(out)), config, engine)


def test_of_two_drivers_on_one_folder_one_is_refused(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, go_on = threading.Event(), threading.Event()

    class Waits(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            training.set()
            assert go_on.wait(300)
            super().train(job, progress)

    first = threading.Thread(target=start, args=(digits_folder, tmp_path / "out", Waits()))
    first.start()
    assert training.wait(60)
    code = run(["purify", str(digits_folder), str(tmp_path / "out"), *SETTINGS])
    go_on.set()
    first.join()
    assert code == 4
    assert "Another driver is at work" in capsys.readouterr().err
    start(digits_folder, tmp_path / "alone")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "alone")


def test_a_shard_that_changed_between_start_and_resume_is_refused_by_name(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(digits_folder, source)

    class Stops(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            if job.name == "stage2":
                raise KeyboardInterrupt
            super().train(job, progress)

    with pytest.raises(KeyboardInterrupt):
        start(source, out, Stops())
    first, second, _ = sorted(source.glob("*.parquet"))
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    code = run(["purify", str(source), str(out), *SETTINGS])
    assert code == 3
    assert f"{second.name} has changed since this run began" in capsys.readouterr().err
    second.write_bytes(kept)
    start(source, out)
    start(digits_folder, tmp_path / "straight")
    assert hashes(out) == hashes(tmp_path / "straight")
