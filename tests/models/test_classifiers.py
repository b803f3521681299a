"""Classifiers: the published sizes, and that the training loop can train them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from raydvae.config import ClassifierName, TrainConfig
from raydvae.errors import ConfigError
from raydvae.models.classifiers import (
    CLASSIFIERS,
    SMALLEST,
    SeededDropout,
    build_classifier,
    check_side,
    seed_dropout,
)
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train
from raydvae.training.tasks import ClassifierTask


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet50", 10, 23_520_842),
        ("densenet121", 10, 6_956_298),
        ("mobilenetv2", 1000, 3_504_872),
        ("resnet18-224", 1000, 11_689_512),
        ("resnet50-224", 1000, 25_557_032),
        ("densenet121-224", 1000, 7_978_856),
        ("resnet9", 10, 6_573_130),
    ],
)
def test_parameters_are_as_many_as_published(name: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = build_classifier(name, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_logits_at_any_size(name: str) -> None:
    model = build_classifier(name, 7)
    assert [model(torch.rand(2, 3, size, size)).shape for size in (32, 64)] == [(2, 7), (2, 7)]


def test_nets_for_small_images_keep_them_large_and_have_torchs_initial_weights() -> None:
    for name, channels, side in (("resnet50", 2048, 4), ("densenet121", 1024, 4)):
        model = build_classifier(name, 10).eval()
        seen: list[torch.Size] = []
        last = model.layer4 if name == "resnet50" else model.features
        last.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.shape))  # type: ignore[union-attr, operator]
        model(torch.rand(1, 3, 32, 32))
        assert seen == [(1, channels, side, side)]
        for weight in (p for p in model.parameters() if p.ndim == 4):
            limit = weight[0].numel() ** -0.5  # uniform in 1 / sqrt(fan in)
            assert 0.9 * limit < weight.abs().max() <= limit


def test_an_unknown_classifier_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="resnet18, resnet50, .*small"):
        build_classifier("vgg", 10)


def test_the_command_lines_offer_what_there_is() -> None:
    assert get_args(ClassifierName) == tuple(CLASSIFIERS)


@pytest.mark.parametrize("name", ["densenet121", "mobilenetv2"])
def test_training_has_the_same_bits_on_two_threads(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data, config = ImageSet(images, torch.arange(8) % 3), TrainConfig(epochs=1, batch_size=8, optimizer="sgd", slices=2)
    one, two = (train(ClassifierTask(name, 3), data, config, seed=0, threads=threads) for threads in (1, 2))
    assert all(torch.equal(value, two.model[key]) for key, value in one.model.items())


def test_dropout_is_drawn_from_the_generator_it_is_given() -> None:
    dropout, x, before = SeededDropout(0.2), torch.ones(4000), torch.get_rng_state()
    outs = []
    for seed in (0, 0, 1):
        seed_dropout(dropout, torch.Generator().manual_seed(seed))
        outs.append(dropout(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    assert set(outs[0].tolist()) == {0.0, 1.25} and outs[0].mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "side"), SMALLEST.items())
def test_too_small_images_are_refused(name: str, side: int) -> None:
    check_side(name, side)
    assert build_classifier(name, 3).eval()(torch.rand(1, 3, side, side)).shape == (1, 3)
    with pytest.raises(ConfigError, match=f"images of {side - 1} px and needs {side}"):
        check_side(name, side - 1)
