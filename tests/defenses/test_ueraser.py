"""UEraser: its views are kornia's, and it learns from the hardest of them."""

from __future__ import annotations

import kornia.augmentation as kornia_augmentation
import pytest
import torch
from kornia.augmentation.auto.rand_augment import ops
from torch import Tensor

from raydvae.config import ClassifyConfig
from raydvae.defenses import ueraser
from raydvae.defenses.recipes import UEraserTask, find_recipe
from raydvae.errors import ConfigError


def images(rows: int = 6) -> Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_each_images_highest_over_five_views_and_then_that_of_one() -> None:
    task = UEraserTask("tiny", 3, crop_padding=2, hard_epochs=4)
    torch.manual_seed(0)
    model, x, y = task.build().train(), images(), torch.arange(6) % 3
    hard = task.measure(model, x, y, generator(), 3)
    lite = task.measure(model, x, y, generator(), 4)

    draws = generator()
    seen = task.views(x, draws)
    rows = []
    for _ in range(5):
        logits = model(ueraser.erased(seen, draws)).detach().double()
        rows.append([float(row.logsumexp(0) - row[label]) for row, label in zip(logits, y, strict=True)])
    highest = [max(row[index] for row in rows) for index in range(6)]
    assert len({max(range(5), key=lambda view: rows[view][index]) for index in range(6)}) > 1, "views win in turns"
    assert hard["cross_entropy"].item() == pytest.approx(sum(highest) / 6, rel=1e-5)
    assert lite["cross_entropy"].item() == pytest.approx(sum(rows[0]) / 6, rel=1e-5)
    assert hard["cross_entropy"].requires_grad


def test_views_are_images_and_leave_the_global_generator_alone() -> None:
    before, x = torch.get_rng_state(), images()
    views = [ueraser.erased(x, generator(seed)) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(view.shape == x.shape and view.min() >= 0 and view.max() <= 1 for view in views)
    assert all(torch.equal(view, ueraser.erased(x, generator(seed))) for seed, view in enumerate(views))
    assert not any(torch.equal(view, x) for view in views)


def test_plasma_does_what_kornias_augmentations_do() -> None:
    x, draws = images(), generator()
    params = {"batch_prob": torch.ones(6), "roughness": torch.full((6,), 0.5), "plasma": ueraser.plasma(x, generator())}
    contrast = kornia_augmentation.RandomPlasmaContrast(p=1.0)(x, params=params)
    assert torch.allclose(ueraser.plasma_contrast(x, generator()), contrast, atol=1e-6)

    params |= {"intensity": 0.5 + 0.5 * torch.rand(6, generator=draws), "plasma": ueraser.plasma(x, draws)}
    brightness = kornia_augmentation.RandomPlasmaBrightness(p=1.0)(x, params=params)
    assert torch.allclose(ueraser.plasma_brightness(x, generator()), brightness, atol=1e-6)
    assert params["plasma"].std(dim=(2, 3)).min() > 0.02, "a map varies over the image"


def test_channels_are_only_reordered() -> None:
    out = ueraser.shuffled_channels(images(64), generator())
    assert torch.equal(out.sort(dim=1).values, images(64).sort(dim=1).values)
    assert 0.05 < (out == images(64)).flatten(1).all(dim=1).float().mean() < 0.4, "one order of six is the old one"


@pytest.mark.parametrize("name", ueraser.OPERATIONS)
def test_operations_and_ranges_are_those_of_kornias_trivial_augment(name: str) -> None:
    x, low_high = images(), ueraser.OPERATIONS[name]
    theirs = {"shear_x": (-0.3, 0.3), "shear_y": (-0.3, 0.3)}.get(name, low_high)
    torch.manual_seed(0)
    operation = getattr(ops, name)(*theirs)
    params = operation.forward_parameters(x.shape)
    factor = operation._factor_name
    magnitude = params[factor].float() if factor else torch.zeros(6)
    if name.startswith("translate"):
        magnitude = magnitude / 16
    assert magnitude.min() >= low_high[0] and magnitude.max() <= low_high[1]
    assert torch.allclose(ueraser.augmented(x, name, magnitude), operation(x, params).detach(), atol=1e-5)
    drawn = torch.cat([ueraser._uniform(*low_high, x, generator(seed)) for seed in range(200)])
    assert drawn.min() == pytest.approx(low_high[0], abs=0.02 * (low_high[1] - low_high[0]) + 1e-9)


def test_the_settings_come_from_the_configuration() -> None:
    task = find_recipe("ueraser").of(ClassifyConfig(model="tiny", hard_epochs=30, flip=False), 7)
    assert task == UEraserTask("tiny", 7, crop_padding=4, flip=False, hard_epochs=30, hard_views=5)


def test_without_kornia_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ueraser, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'raydvae\[ueraser\]'"):
        find_recipe("ueraser")
