"""Detection as a whole: partly poisoned digits are found, clean ones are called clean, and it goes on when stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.cli.main import run as cli
from raydvae.config import ClassifyConfig, DataConfig, DVAEConfig, PurifyConfig, StageConfig, TrainConfig, digits
from raydvae.data import damage
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.flags import parse_flags, read_flags
from raydvae.data.manifest import Run
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.detection.configs import DetectConfig, Rule
from raydvae.detection.detecting import Detection, detect
from raydvae.engine import InProcess
from raydvae.errors import ConfigError
from raydvae.models.classifiers import TinyNet
from raydvae.purify.inference import load_dvae
from raydvae.training.checkpoint import load_model
from raydvae.training.job import Progress, TrainJob
from tests.conftest import small_config
from tests.data.helpers import as_bytes, struct_table, write
from tests.purify.test_algorithm import Dies

SIDE, ROWS, RATIO = 8, 300, 0.4
LIMITS = DataConfig(unit_rows=100)


def config(rule: Rule = "shortcut") -> DetectConfig:
    """Small nets and few epochs; latents at their mean, so that tests can compute the same."""
    base: PurifyConfig = digits()
    stage = StageConfig(
        model=DVAEConfig(width=4, image_size=SIDE), train=TrainConfig(epochs=6, batch_size=32, slices=2)
    )
    train = TrainConfig(epochs=3, batch_size=32, optimizer="sgd", lr=0.1, slices=2)
    return DetectConfig(
        rule=rule,
        purify=dataclasses.replace(base, stage1=stage, stage2=stage, data=LIMITS, sample_z=False),
        classifier=ClassifyConfig(model="tiny", train=train, crop_padding=0, flip=False),
    )


def find(folder: Path, work: Path, rule: Rule = "shortcut", engine: InProcess | None = None) -> Detection:
    data = open_dataset(str(folder), LIMITS)
    return detect(data, find_classes(data, 10), Run(Store(str(work))), config(rule), engine or InProcess())


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of low contrast at 8 px."""
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.images))[:ROWS]
    small = (96 + np.rint(source.images[order] * (255 / 16)) // 4).astype(np.uint8)
    images = small[..., None].repeat(3, axis=3)
    labels = [int(label) for label in source.target[order]]
    return write(tmp_path_factory.mktemp("clean"), struct_table([as_bytes(image) for image in images], labels))


@pytest.fixture(scope="module")
def mixed(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The same with LSP on 40 % of the rows, and which these are."""
    out = tmp_path_factory.mktemp("mixed")
    data, run = open_dataset(str(clean), LIMITS), Run(Store(str(out)))
    recipe = Recipe(LSPConfig(patch=2, norm=2.0), SIDE, 10, run.home)
    poison(recipe, data, find_classes(data, 10), run, InProcess(), ratio=RATIO)
    table = pq.read_table(out / "_raydvae/poison.parquet")
    return out, set(table.filter(table["poisoned"])["row_id"].to_pylist())


@pytest.fixture(scope="module")
def found(mixed: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Detection, Path]:
    work = tmp_path_factory.mktemp("work")
    return find(mixed[0], work), work


def images_of(data: Dataset) -> tuple[Array, np.ndarray]:
    rows = [decode_rows(data, unit, data.read(unit), find_classes(data, 10), SIDE) for unit in data.units()]
    return np.concatenate([r.images for r in rows]), np.concatenate([r.labels for r in rows])


def test_partly_poisoned_digits_are_found(found: tuple[Detection, Path], mixed: tuple[Path, set[str]]) -> None:
    folder, poisoned = mixed
    flags = pq.read_table(pa.BufferReader(found[0].flags))
    assert flags.column_names == ["row_id", "label", "score", "flagged"]
    assert len(flags) == ROWS
    truth = np.array([row_id in poisoned for row_id in flags["row_id"].to_pylist()])
    flagged = flags["flagged"].to_numpy()
    assert (flagged & truth).sum() / truth.sum() >= 0.95
    assert (flagged & truth).sum() / flagged.sum() >= 0.95
    score = flags["score"].to_numpy()
    assert ((score >= 0) & (score <= 1)).all() and (flagged == (score > 0.5)).all()
    assert found[0].judged.share == pytest.approx(RATIO, abs=0.03)
    data = open_dataset(str(folder), LIMITS)
    assert parse_flags(found[0].flags, "F", data).flagged == flagged.sum()


def test_clean_digits_are_called_clean(clean: Path, tmp_path: Path) -> None:
    judged = find(clean, tmp_path).judged
    assert judged.verdict == "clean"
    assert not judged.flagged.any()


@torch.no_grad()
def test_the_papers_rule_equals_a_computation_of_its_own(
    found: tuple[Detection, Path], mixed: tuple[Path, set[str]]
) -> None:
    folder, work = mixed[0], found[1]
    by_rule = find(folder, work, "paper", NeverTrains())  # the same answers, judged in another way
    x, labels = images_of(open_dataset(str(folder), LIMITS))
    judge = TinyNet(10)
    judge.load_state_dict(load_model(Store(str(work / "_raydvae/judge")))[0])
    predicted = judge.eval()(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255).argmax(dim=1).numpy()
    assert (by_rule.judged.flagged == (predicted == labels)).mean() > 0.99  # near a tie rounding may decide
    assert by_rule.judged.share == pytest.approx((predicted == labels).mean(), abs=0.01)


class NeverTrains(InProcess):
    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        raise AssertionError("this must not train")


class Looks(InProcess):
    """Keeps the images that the judge is trained on, and dies."""

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        if job.name == "judge":
            self.seen = images_of(job.data)
            raise KeyboardInterrupt
        super().train(job, progress)


def test_the_judge_learns_from_images_with_the_estimate_added(mixed: tuple[Path, set[str]], tmp_path: Path) -> None:
    engine = Looks()
    with pytest.raises(KeyboardInterrupt):
        find(mixed[0], tmp_path, "paper", engine)
    x, labels = images_of(open_dataset(str(mixed[0]), LIMITS))
    images = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    model = load_dvae(Store(str(tmp_path / "_raydvae/stage1")), config().purify.stage1.model)
    p_hat = model(images, torch.from_numpy(labels), None).p_hat.detach()
    expected = ((images + p_hat).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert (engine.seen[1] == labels).all()
    assert np.abs(engine.seen[0] - expected).max() <= 1
    assert (engine.seen[0] != expected).mean() < 1e-3


def test_stopped_again_and_again_it_goes_on_to_the_same_flags(
    found: tuple[Detection, Path], mixed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    # The D-VAE is there when it is stopped; its training has tests of its own.
    shutil.copytree(found[1] / "_raydvae/stage1", tmp_path / "_raydvae/stage1")
    for step in ("added", "judge", "score", "suspects-1"):
        with pytest.raises(KeyboardInterrupt):
            find(mixed[0], tmp_path, engine=Dies(step, after=1))
    again = find(mixed[0], tmp_path)
    assert again.flags == found[0].flags
    assert not (tmp_path / "_raydvae/work").exists()


def test_another_seed_is_another_run(found: tuple[Detection, Path], mixed: tuple[Path, set[str]]) -> None:
    data = open_dataset(str(mixed[0]), LIMITS)
    other = config()
    other = dataclasses.replace(other, purify=dataclasses.replace(other.purify, seed=5))
    with pytest.raises(ConfigError, match="seed = 0, now it is 5"):
        detect(data, find_classes(data, 10), Run(Store(str(found[1]))), other, InProcess())


def test_the_command_line_writes_flags_and_a_page(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raydvae.distributed.engine import RayEngine

    for name in ("map", "train"):  # this is not of Ray
        monkeypatch.setattr(
            RayEngine, name, lambda self, *args, name=name, **more: getattr(InProcess(), name)(*args, **more)
        )
    small = ["--preset", "digits", "--width", "4", "--epochs", "1", "--model", "tiny", "--model-epochs", "1"]
    out = tmp_path / "flags.parquet"
    assert cli(["detect", str(digits_folder), "--out", str(out), "--rule", "paper", "--json", *small]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.keys() >= {"rows", "flagged", "share", "share_error", "verdict", "seconds"}
    flagged = pq.read_table(out)["flagged"].to_pylist()
    assert (told["rows"], told["flagged"]) == (180, sum(flagged))
    assert told["share"] == pytest.approx(sum(flagged) / 180, abs=1e-4)
    page = (tmp_path / "flags.html").read_text()
    assert "180" in page and "<svg" not in page
    if any(flagged):
        assert read_flags(str(out), open_dataset(str(digits_folder), small_config().data)).flagged == sum(flagged)
    assert cli(["detect", str(digits_folder), "--out", str(tmp_path / "flags")]) == 2
    assert "ends in .parquet" in capsys.readouterr().err


def test_damaged_answers_are_asked_for_again(
    found: tuple[Detection, Path], mixed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    work = Path(shutil.copytree(found[1], tmp_path / "work"))
    answers = sorted((work / "_raydvae/answers").rglob("*.parquet"))
    first, last = answers[0], answers[-1]
    kept = first.read_bytes(), last.read_bytes()
    first.unlink()
    last.write_bytes(kept[1][: len(kept[1]) // 2] + b"?" + kept[1][len(kept[1]) // 2 + 1 :])
    assert find(mixed[0], work).flags == found[0].flags
    assert (first.read_bytes(), last.read_bytes()) == kept


def test_damage_to_what_the_judge_learns_from_is_mended(
    found: tuple[Detection, Path], mixed: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "CHEAP", 10)
    with pytest.raises(KeyboardInterrupt):
        find(mixed[0], tmp_path, engine=Dies("judge", after=1))
    part = sorted((tmp_path / "_raydvae/work/added").glob("*.parquet"))[1]
    data = part.read_bytes()
    part.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    assert find(mixed[0], tmp_path).flags == found[0].flags
