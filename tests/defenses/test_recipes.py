"""Training recipes as tasks of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import ClassifyConfig, TrainConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.defenses.recipes import RECIPES, AdversarialTask, attacked, find_recipe
from raydvae.engine import InProcess
from raydvae.errors import ConfigError
from raydvae.evaluation.protocol import classify
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train
from raydvae.training.tasks import ClassifierTask

NORM, STEP = 8 / 255, 1.6 / 255


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, 3, 8, 8, generator=generator), torch.arange(rows) % 3


def seeded_model(task: ClassifierTask) -> nn.Module:
    torch.manual_seed(0)
    return task.build().train()


def test_the_attack_has_the_published_radius_step_and_length() -> None:
    task = AdversarialTask("tiny", 3)
    assert (task.norm, task.step, task.steps) == (NORM, STEP, 10)


def test_the_attack_stays_in_its_ball_and_raises_the_loss() -> None:
    task = AdversarialTask("tiny", 3, crop_padding=0, flip=False)
    model, (x, y) = seeded_model(task), batch()
    out, labels = task.examples(model, x, y, torch.Generator().manual_seed(1))
    assert torch.equal(labels, y) and not out.requires_grad
    assert (out - x).abs().max() <= NORM + 1e-6
    assert (out - x).abs().max() > NORM - 1e-6, "ten steps of a fifth of the radius reach its border"
    assert out.min() >= 0 and out.max() <= 1
    start = (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1) * NORM
    at_start = attacked(model, x, y, start, NORM, STEP, 0)
    with torch.no_grad():
        clean, random, worst = (F.cross_entropy(model(z), y) for z in (x, at_start, out))
    assert worst > 1.05 * max(clean, random)
    assert all(p.grad is None for p in model.parameters())


def test_one_step_goes_up_the_sign_of_the_gradient() -> None:
    """Against a linear model, whose gradient is written down by hand."""
    weights = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    model[1].weight.data = weights  # type: ignore[union-attr]
    x = torch.full((1, 3, 2, 2), 0.5)
    out = attacked(model, x, torch.tensor([0]), torch.zeros_like(x), NORM, STEP, 1)
    assert torch.allclose(out - x, (STEP * (weights[1] - weights[0]).sign()).reshape(x.shape), atol=1e-7)


@pytest.mark.parametrize("name", [None, *RECIPES])
def test_all_randomness_is_the_slices_generators(name: str | None) -> None:
    task = find_recipe(name)("tiny", 3, 1, True)
    model, (x, y) = seeded_model(task), batch()

    def parts(seed: int, other: int) -> list[float]:
        torch.manual_seed(other)
        return [value.item() for value in task.measure(model, x, y, torch.Generator().manual_seed(seed), 0).values()]

    assert parts(0, 1) == parts(0, 2)
    assert len({tuple(parts(seed, 1)) for seed in range(6)}) > 1
    assert all(0 <= parts(seed, 1)[1] <= 1 for seed in range(3))


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_training_is_a_straight_one(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=generator)
    data = ImageSet(images, torch.arange(24) % 3)
    task = RECIPES[name]("tiny", 3, 1, True)
    config = TrainConfig(epochs=2, batch_size=12, optimizer="sgd", lr=0.02, slices=2)
    states = []
    straight = train(task, data, config, seed=0, threads=1, on_epoch=lambda state, _: states.append(state))
    resumed = train(task, data, config, seed=0, threads=2, resume=states[0])
    assert all(torch.equal(value, resumed.model[key]) for key, value in straight.model.items())
    usual = train(ClassifierTask("tiny", 3, 1, True), data, config, seed=0)
    assert any(not torch.equal(value, usual.model[key]) for key, value in straight.model.items())


def test_a_classifiers_folder_belongs_to_one_recipe(digits_data: Dataset, tmp_path: Path) -> None:
    training = TrainConfig(epochs=1, batch_size=60, optimizer="sgd", lr=0.05, slices=2)
    config = ClassifyConfig(model="tiny", train=training, flip=False)
    classes, store = find_classes(digits_data), Store(str(tmp_path))

    def run(name: str | None) -> float:
        recipe = find_recipe(name)
        return classify(digits_data, digits_data, classes, 32, config, store, InProcess(1), recipe=recipe).test_acc

    assert 0 <= run("mixup") == run("mixup") <= 100
    with pytest.raises(ConfigError):
        run(None)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of cutout, cutmix, mixup, at"):
        find_recipe("prayer")
