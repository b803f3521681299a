"""What files call attacks, defenses, trainings and steps: words that outlive the names of classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.em import EMTask
from raydvae.attacks.registry import ATTACKS
from raydvae.attacks.rem import REMTask
from raydvae.attacks.surrogate import SurrogateTask
from raydvae.config import DVAEConfig, RateLossConfig, described
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.defenses.avatar import ScoreTask
from raydvae.defenses.configs import DEFENSES
from raydvae.defenses.purifiers import AETask
from raydvae.defenses.recipes import AdversarialTask, CutMixTask, CutoutTask, MixupTask, UEraserTask
from raydvae.errors import ConfigError
from raydvae.evaluation import partial, purifying, steps
from raydvae.training.tasks import ClassifierTask, VAETask
from tests.data.helpers import as_bytes, random_images, struct_table, write

TASKS = [
    VAETask, ClassifierTask, ScoreTask, AETask, CutoutTask, MixupTask, CutMixTask, AdversarialTask, UEraserTask,
    SurrogateTask, EMTask, REMTask,
]  # fmt: skip
STEPS = (
    "source poisoned defended diffusion diffused classified scored compared detected mended few grown joined model "
    "subtracted purified twice reconstructed rebuilt"
)


def test_attacks_and_defenses_are_called_as_on_the_command_line() -> None:
    assert {name: config.kind for name, (config, _) in ATTACKS.items()} == {name: name for name in ATTACKS}
    assert {name: config.kind for name, config in DEFENSES.items()} == {name: name for name in DEFENSES}


def test_no_two_trainings_are_called_alike() -> None:
    assert [task.kind for task in TASKS] == [
        "vae", "classifier", "score", "ae", "cutout", "mixup", "cutmix", "at", "ueraser", "surrogate", "em", "rem",
    ]  # fmt: skip


def test_steps_keep_the_words_that_their_folders_begin_with() -> None:
    found = {
        value.kind
        for module in (steps, partial, purifying)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, steps.Step) and value is not steps.Step
    }
    assert sorted(found) == sorted(STEPS.split())


def test_a_key_is_of_words_and_settings_and_not_of_classes() -> None:
    source = steps.Source("digits", "train", 5, ("f",))
    assert source.key == "source-838742bcc83875a1"  # no processor changes it, and old folders are found by it

    class Renamed(steps.Source):
        pass

    assert Renamed("digits", "train", 5, ("f",)).key == source.key


def test_what_is_stored_of_a_training() -> None:
    task = VAETask(DVAEConfig(width=8, image_size=32), RateLossConfig(kld_target=1.0))
    stored = json.loads(json.dumps(described(task)))
    assert stored["kind"] == "vae"
    assert stored["model"]["width"] == 8
    assert stored["loss"]["kld_target"] == 1.0
    other = dataclasses.replace(task, model=DVAEConfig(width=16, image_size=32))
    assert described(other) != described(task)
    assert described(LSPConfig())["kind"] == "lsp"


def test_a_run_of_an_older_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    table = struct_table([as_bytes(image) for image in random_images(3)], [0, 1, 2])
    data = open_dataset(str(write(tmp_path / "in", table)))
    run = Run(Store(str(tmp_path / "out")))
    run.open("defend", {}, data, {})
    known = run.read()
    run.home.write_json("run.json", known | {"format": 1})
    assert run.read()["kind"] == "defend"  # it can still be looked at, and its models taken
    with pytest.raises(ConfigError, match=r"begun by an older version.*format 1, now 2\). End it with that version"):
        run.check("defend", data)
