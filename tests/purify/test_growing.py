"""New shards and borrowed models: purifying without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.errors import ConfigError, DataError
from raydvae.purify.algorithm import Summary, purify
from raydvae.training.job import Progress, TrainJob
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes


class NeverTrains(InProcess):
    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        raise AssertionError("this must not train")


def run(
    source: Path, out: Path, engine: InProcess | None = None, models: Path | None = None, **changes: object
) -> Summary:
    data = open_dataset(str(source), small_config().data)
    taken = Run(Store(str(models))) if models else None
    return purify(data, find_classes(data, 10), Store(str(out)), small_config(**changes), engine, models=taken)


@pytest.fixture
def shards(digits_folder: Path, tmp_path: Path) -> list[Path]:
    files = sorted(digits_folder.glob("*.parquet"))
    (tmp_path / "source").mkdir()
    for file in files[:2]:
        shutil.copy(file, tmp_path / "source")
    return files


def test_new_shards_are_purified_with_the_models_of_the_old_ones(shards: list[Path], tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    first = run(source, out)
    before = hashes(out)
    assert first.rows_in == 120
    model = (out / "_raydvae/stage1/model.safetensors").read_bytes()

    shutil.copy(shards[2], source)
    second = run(source, out, NeverTrains())
    after = hashes(out)
    assert (second.rows_in, second.rows_out, second.complete) == (180, 180, True)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    assert (out / "_raydvae/stage1/model.safetensors").read_bytes() == model
    assert not (out / "_raydvae/work").exists()
    assert run(source, out, NeverTrains()).rows_in == 180

    (source / shards[0].name).write_bytes(shards[1].read_bytes())
    with pytest.raises(DataError, match=f"{shards[0].name} has changed"):
        run(source, out)
    (source / shards[0].name).unlink()
    with pytest.raises(DataError, match=f"{shards[0].name} is gone"):
        run(source, out)
    assert hashes(out) == after


def test_a_shard_that_comes_before_the_models_are_trained_is_refused(shards: list[Path], tmp_path: Path) -> None:
    class Stops(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "source", tmp_path / "out", Stops())
    shutil.copy(shards[2], tmp_path / "source")
    with pytest.raises(DataError, match=f"{shards[2].name} is new.*models are trained"):
        run(tmp_path / "source", tmp_path / "out")


def test_models_of_another_run_are_applied_without_training(shards: list[Path], tmp_path: Path) -> None:
    """The new rows come out as they would have if they had been added to the source of the models."""
    trained, out, grown = tmp_path / "trained", tmp_path / "out", tmp_path / "grown"
    run(tmp_path / "source", trained)
    (tmp_path / "new").mkdir()
    shutil.copy(shards[2], tmp_path / "new")
    summary = run(tmp_path / "new", out, NeverTrains(), models=trained)
    assert (summary.rows_in, summary.rows_out) == (60, 60)
    assert summary.history["stage1"][-1]["psnr"] > 0
    shutil.copytree(trained, grown)
    shutil.copy(shards[2], tmp_path / "source")
    run(tmp_path / "source", grown, NeverTrains())
    new = hashes(out)
    assert new == {name: value for name, value in hashes(grown).items() if name in new}
    known = json.loads((out / "_raydvae/run.json").read_text())
    assert known["models"]["run"] == str(trained)


def test_models_that_are_not_trained_are_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trained model of stage1"):
        run(tmp_path / "source", tmp_path / "out", models=tmp_path / "nothing")


def test_training_on_a_sample_purifies_all_rows(digits_folder: Path, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    class Counts(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            from raydvae.training.job import load_images

            seen[job.name] = len(load_images(job.source))
            super().train(job, progress)

    summary = run(digits_folder, tmp_path / "out", Counts(), train_rows=60)
    assert seen == {"stage1": 60, "stage2": 60}
    assert summary.rows_out == 180
    with pytest.raises(ConfigError, match="train_rows"):
        run(digits_folder, tmp_path / "out", train_rows=90)
    with pytest.raises(ConfigError, match="between 10 and 180"):
        run(digits_folder, tmp_path / "other", train_rows=500)


def test_streamed_stages_end_with_the_same_bytes_after_a_stop(digits_folder: Path, tmp_path: Path) -> None:
    settings = DataConfig(unit_rows=40, memory_gib=1e-4)

    class Stops(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            assert job.streamed

            def stop(metrics: dict[str, float]) -> None:
                raise KeyboardInterrupt

            super().train(job, stop)

    def streamed(out: Path, engine: InProcess | None = None) -> None:
        data = open_dataset(str(digits_folder), settings)
        purify(data, find_classes(data), Store(str(out)), small_config(data=settings), engine)

    streamed(tmp_path / "straight")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            streamed(tmp_path / "stopped", Stops())
    streamed(tmp_path / "stopped")
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "straight")


def test_a_run_can_end_after_a_step_and_lend_its_models(digits_folder: Path, tmp_path: Path) -> None:
    data, lent = open_dataset(str(digits_folder), small_config().data), tmp_path / "lent"
    for step, commits in (("stage1", 0), ("pass1", 6), ("stage2", 6)):
        summary = purify(data, find_classes(data), Store(str(lent)), small_config(), until=step)
        assert not summary.complete
        assert len(list((lent / "_raydvae").glob("commits/pass1/*"))) == commits
    assert not list(lent.glob("*.parquet"))
    run(digits_folder, tmp_path / "out", NeverTrains(), models=lent)
    run(digits_folder, lent)
    assert hashes(tmp_path / "out") == hashes(lent)
