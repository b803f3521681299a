"""Both targets of the digits, found, verified and lent; one tuning is shared by most tests."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from raydvae.config import PurifyConfig, RateLossConfig, StageConfig, load_toml
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.errors import ConfigError
from raydvae.purify.algorithm import purify, training
from raydvae.training.checkpoint import load_model
from raydvae.training.job import Progress, TrainJob
from raydvae.tuning.experiment import Here, TuneConfig, Tuned, full_store, leap_advice, lend, rows, tune
from raydvae.tuning.fidelity import bits_per_pixel, correction
from raydvae.tuning.trial import Trials, is_plateau
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes

SETTINGS = TuneConfig(trials=8, fraction=0.5, epochs=6, concurrency=2)


def config(first: tuple[float, float], second: tuple[float, float], epochs: int = 8) -> PurifyConfig:
    """Small, and with enough steps that PSNR depends on the KLD target."""

    def stage(base: StageConfig, window: tuple[float, float]) -> StageConfig:
        return dataclasses.replace(base, psnr_window=window, train=dataclasses.replace(base.train, batch_size=8))

    base = small_config(epochs=epochs)
    return dataclasses.replace(base, stage1=stage(base.stage1, first), stage2=stage(base.stage2, second))


CONFIG = config((16.0, 18.5), (17.5, 20.5))


@dataclasses.dataclass
class Done:
    tuned: Tuned
    folder: Path


@pytest.fixture(scope="module")
def done(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    data = open_dataset(str(digits_folder), CONFIG.data)
    folder = tmp_path_factory.mktemp("tuned")
    return Done(tune(data, find_classes(data), Store(str(folder)), CONFIG, SETTINGS, InProcess(1), Here(1)), folder)


def test_both_targets_are_verified_inside_of_their_windows(done: Done) -> None:
    for name, window in (("stage1", (16.0, 18.5)), ("stage2", (17.5, 20.5))):
        stage = done.tuned.stages[name]
        assert window[0] <= stage.psnr <= window[1]
        assert len(stage.trials) <= 8
        last = stage.verifications[-1]
        assert (last["psnr"], last["epochs"], last["selected"]) == (stage.psnr, 8, 180), "the full training"
        assert {t["selected"] for t in stage.trials} == {90}
        psnrs = [t["psnr"] for t in sorted(stage.trials, key=lambda t: t["kld_target"]) if t["epochs"] == 6]
        assert psnrs[-1] > psnrs[0], "PSNR rises with the target"
        assert stage.estimated > 0, "a full training has more steps"
        assert stage.measured > 0


def test_toml_table_and_json_tell_the_targets(done: Done) -> None:
    config = load_toml((done.folder / "purify.toml").read_text())
    stages = done.tuned.stages
    assert config == done.tuned.config
    assert config.stage1.loss.kld_target == stages["stage1"].kld_target
    assert config.stage2.loss.kld_target == stages["stage2"].kld_target
    with (done.folder / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == done.tuned.trials + sum(len(stage.verifications) for stage in stages.values())
    assert [line["kind"] for line in table].count("half") == 2, "one a stage, for the correction"
    assert [{k: str(v) for k, v in row.items()} for row in rows(done.tuned)] == table
    kept = json.loads((done.folder / "_raydvae/tuning.json").read_text())
    assert kept["kld1"] == stages["stage1"].kld_target


def test_the_same_call_trains_nothing_again(done: Done, digits_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something is trained again")

    monkeypatch.setattr("raydvae.tuning.experiment.run_job", fail)
    monkeypatch.setattr(InProcess, "train", fail)
    monkeypatch.setattr(InProcess, "map", lambda self, work, units: fail() if units else iter(()))
    again = tune(
        digits_data, find_classes(digits_data), Store(str(done.folder)), CONFIG, SETTINGS, InProcess(1), Here(1)
    )
    assert again == done.tuned


@pytest.mark.parametrize("damage", ["", "{}"])
def test_damaged_records_are_made_again(damage: str, done: Done, digits_data: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(done.folder, folder)
    for pattern in ("full/stage1/*/verified.json", "full/stage2/*/verified.json", "trials/stage1/*/*/trial.json"):
        next(folder.joinpath("_raydvae").glob(pattern)).write_text(damage)
    for name in ("seconds.json", "tuning.json"):
        (folder / "_raydvae" / name).write_text(damage)
    again = tune(digits_data, find_classes(digits_data), Store(str(folder)), CONFIG, SETTINGS, InProcess(1), Here(1))
    assert untimed(again) == untimed(done.tuned)
    assert json.loads((folder / "_raydvae/tuning.json").read_text())["kld1"] == again.stages["stage1"].kld_target


def untimed(tuned: Tuned) -> list[object]:
    records = [r for stage in tuned.stages.values() for r in (*stage.trials, *stage.verifications)]
    return [tuned.config, *({**record, "seconds": 0} for record in records)]


def test_the_verified_models_are_those_that_a_purification_trains(
    done: Done, digits_data: Dataset, tmp_path: Path
) -> None:
    classes, out = find_classes(digits_data), Store(str(tmp_path / "lent"))
    lend(done.tuned, Run(Store(str(done.folder))), Run(out))
    purify(digits_data, classes, out, done.tuned.config, InProcess(1))
    purify(digits_data, classes, Store(str(tmp_path / "own")), done.tuned.config, InProcess(1))
    assert hashes(tmp_path / "lent") == hashes(tmp_path / "own")
    for stage in ("stage1", "stage2"):
        lent, own = (load_model(Store(str(tmp_path / name / "_raydvae" / stage)))[0] for name in ("lent", "own"))
        assert lent.keys() == own.keys()
        assert all(torch.equal(lent[name], own[name]) for name in own)


def test_a_killed_tuning_ends_the_same_and_repeats_no_finished_trial(
    done: Done, digits_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in its third trial, between two epochs, again and again until stage 1 is over."""
    from raydvae.tuning import experiment

    begun: list[tuple[str, int]] = []
    real = experiment.run_job

    class Killed(BaseException):
        pass

    def run_job(job: TrainJob, device: object, threads: int, progress: Progress) -> None:
        begun.append((job.store.uri, len(job.metrics())))

        def follow(metrics: dict[str, float]) -> None:
            progress(metrics)
            if len(begun) == 3 and metrics["epoch"] == 2:
                raise Killed

        real(job, device, threads, progress=follow)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "run_job", run_job)
    classes = find_classes(digits_data)
    only = dataclasses.replace(CONFIG, stage2=dataclasses.replace(CONFIG.stage2, psnr_window=CONFIG.stage1.psnr_window))
    with pytest.raises(Killed):
        tune(digits_data, classes, Store(str(tmp_path)), only, SETTINGS, InProcess(1), Here(1))

    class Over(Exception):
        pass

    def p1(self: object, *_: object) -> None:
        raise Over

    monkeypatch.setattr(experiment._Experiment, "p1", p1)
    with pytest.raises(Over):
        tune(digits_data, classes, Store(str(tmp_path)), only, SETTINGS, InProcess(1), Here(1))
    names = [uri for uri, _ in begun]
    assert begun[3] == (begun[2][0], 3), "the killed trial goes on from its last epoch"
    assert len(set(names)) == len(names) - 1, "no other is begun twice"
    target = done.tuned.stages["stage1"].kld_target
    mine, other = (load_model(full_store(Run(Store(str(p))), "stage1", target))[0] for p in (tmp_path, done.folder))
    assert all(torch.equal(mine[name], other[name]) for name in other), "the same weights as undisturbed"


def test_a_window_out_of_reach_names_what_is_in_reach(digits_data: Dataset, tmp_path: Path) -> None:
    far = config((60.0, 62.0), (63.0, 64.0), epochs=2)
    settings = dataclasses.replace(SETTINGS, epochs=1, fraction=0.5, concurrency=4)
    with pytest.raises(ConfigError, match=r"60.00 to 62.00 dB cannot be reached.*Full training gave.*Reachable.* dB"):
        tune(digits_data, find_classes(digits_data), Store(str(tmp_path)), far, settings, InProcess(1), Here(1))


def test_the_leap_of_the_official_rule_is_told_of() -> None:
    found = {0.9: 21.7, 1.0: 23.9}
    assert "0.99" in leap_advice(RateLossConfig(), found)
    assert leap_advice(RateLossConfig(rate_weight=0.1), found) == "", "one weight for all targets leaps nowhere"
    assert leap_advice(RateLossConfig(), {1.0: 23.9, 3.0: 25.0}) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fraction": 0.0}, "above 0"),
        ({"fraction": 1.5}, "up to 1"),
        ({"trials": 1}, "at least 2"),
        ({"epochs": -1}, "epochs"),
        ({"concurrency": 0}, "at least one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TuneConfig(**changes)  # type: ignore[arg-type]


def test_a_plateau_is_flat_for_all_that_is_left() -> None:
    rising = [20 + 0.05 * n for n in range(20)]
    assert not is_plateau(rising, 40)
    assert is_plateau([*rising, *[21.0] * 6], 40)
    assert not is_plateau([21.0] * 40, 40), "it has ended anyway"
    assert not is_plateau([21.0] * 4, 40), "too early to tell"


def test_a_trial_that_ends_on_a_plateau_says_so(
    digits_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydvae.tuning.trial.PLATEAU", 1e9)
    monkeypatch.setattr("raydvae.tuning.trial.PATIENCE", 1)
    engine = InProcess(1)
    trials = Trials.of("stage1", digits_data, find_classes(digits_data), CONFIG, 0.3, 5, Store(str(tmp_path)), engine)
    record = trials.run(1.0, lambda job, progress: engine.train(job, progress))
    assert (record["epochs"], record["plateau"]) == (2, True)
    assert not list(tmp_path.rglob("*.safetensors")), "weights of trials are not kept"


def test_trials_share_rows_and_seed(digits_data: Dataset, tmp_path: Path) -> None:
    classes = find_classes(digits_data)
    trials = Trials.of("stage1", digits_data, classes, CONFIG, 0.5, 2, Store(str(tmp_path)), InProcess(1))
    first, second = trials.job(1.0), trials.job(2.0)
    assert first.selection == second.selection
    assert (
        first.seed
        == second.seed
        != training(Store(str(tmp_path)), "stage1", CONFIG.stage1, digits_data, classes, CONFIG).seed
    )
    assert first.store.uri != second.store.uri
    counts = [0] * 10
    for unit in digits_data.units():
        labels = classes.numbers(digits_data.read(unit, columns=[digits_data.schema.label]).column(0))
        assert first.selection is not None
        for label in labels[first.selection.mask(unit.row_ids(), labels)]:
            counts[label] += 1
    assert counts == [9] * 10, "each class in proportion"


def test_the_correction_is_that_of_a_square_root() -> None:
    def psnr(steps: int) -> float:
        return 30 - 40 / steps**0.5

    assert correction(psnr(100), psnr(50), short_steps=100, half_steps=50, full_steps=1600) == pytest.approx(
        psnr(1600) - psnr(100)
    )
    assert correction(20.0, 19.0, short_steps=100, half_steps=50, full_steps=100) == 0
    assert correction(19.0, 20.0, short_steps=100, half_steps=50, full_steps=200) == 0, "noise takes nothing away"


def test_bits_per_pixel_of_the_paper() -> None:
    assert bits_per_pixel(3.0, halvings=1) == pytest.approx(1.082, abs=1e-3)
    assert bits_per_pixel(1.5, halvings=3) == pytest.approx(0.0338, abs=1e-4)
