"""The paper's recipes, as numbers."""

from __future__ import annotations

import pytest

from raydvae.errors import ConfigError
from raydvae.evaluation.presets import classify_preset
from raydvae.training.loop import learning_rate


@pytest.mark.parametrize(
    ("preset", "model", "defense", "net", "epochs", "lr", "decay"),
    [
        ("cifar10", "resnet18", None, "resnet18", 60, 0.1, 5e-4),
        ("cifar10", "densenet121", None, "densenet121", 60, 0.1, 5e-4),
        ("cifar10", "resnet18", "cutmix", "resnet18", 60, 0.1, 5e-4),
        ("cifar10", "resnet18", "at", "resnet18", 100, 0.1, 5e-4),
        ("cifar10", "resnet18", "ueraser", "resnet18", 200, 0.01, 5e-4),
        ("cifar100", "resnet18", None, "resnet18", 100, 0.1, 5e-4),
        ("cifar100", "resnet50", None, "resnet50", 100, 0.1, 5e-5),
        ("cifar100", "densenet121", None, "densenet121", 100, 0.1, 5e-5),
        ("cifar100", "mobilenetv2", None, "mobilenetv2", 100, 0.1, 5e-4),
        ("cifar100", "resnet18", "ueraser", "resnet18", 300, 0.01, 5e-4),
        ("imagenet100", "resnet18", None, "resnet18-224", 100, 0.1, 5e-4),
        ("imagenet100", "resnet50", None, "resnet50-224", 100, 0.1, 5e-5),
        ("imagenet100", "mobilenetv2", None, "mobilenetv2", 100, 0.1, 5e-5),
    ],
)
def test_presets(preset: str, model: str, defense: str | None, net: str, epochs: int, lr: float, decay: float) -> None:
    config = classify_preset(preset, model, defense)
    train = config.train
    assert (config.model, train.epochs, train.lr, train.weight_decay) == (net, epochs, lr, decay)
    assert (train.optimizer, train.momentum, train.batch_size, train.clip_norm) == ("sgd", 0.9, 128, 5.0)
    large = preset == "imagenet100"
    assert (config.crop, config.image_size) == (("resized", 256) if large else ("padded", 0))
    assert config.hard_epochs == (50 if preset == "cifar10" else 30)


def test_the_fast_recipe_is_short_and_its_learning_rate_a_triangle() -> None:
    config = classify_preset("fast")
    train = config.train
    assert (config.model, train.epochs, train.batch_size, config.label_smoothing) == ("resnet9", 24, 512, 0.2)
    assert classify_preset("fast", "tiny").model == "tiny"
    rates = [learning_rate(train, epoch, step / 10) for epoch in range(24) for step in range(10)]
    top = rates.index(max(rates))
    assert 0.15 < top / len(rates) < 0.25
    assert max(rates) == pytest.approx(0.4, rel=0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.003


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="cifar10, cifar100, imagenet100"):
        classify_preset("mnist")
