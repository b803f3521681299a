"""The paper's recipes for classifiers (section 4.1, appendix E; the official code where they are silent)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from raydvae.config import ClassifyConfig, DataConfig, TrainConfig, check_choice

ClassifyPreset = Literal["cifar10", "cifar100", "imagenet100", "fast"]
WEAK_DECAY = 5e-5
# What a defense that is a training recipe has of its own: epochs by preset, and the learning rate.
RECIPE_EPOCHS = {
    "at": {"cifar10": 100, "cifar100": 100, "imagenet100": 100},
    "ueraser": {"cifar10": 200, "cifar100": 300, "imagenet100": 300},
}
RECIPE_LR = {"ueraser": 0.01}


def classify_preset(name: str, model: str | None = None, defense: str | None = None) -> ClassifyConfig:
    """Return how the paper trains ``model`` (by default ResNet-18) on that data set, by a defense or as usual.

    CIFAR-10 takes 60 epochs, the others 100. Deeper nets decay their weights less on CIFAR-100, all but ResNet-18 do on
    ImageNet, where images are read at 256 px and the 224 px nets are taken. "fast" is not the paper's, see `_fast`.
    `ConfigError` for an unknown preset.
    """
    check_choice("preset", name, ClassifyPreset)
    if name == "fast":
        return _fast(model or "resnet9")
    model = model or "resnet18"
    config = ClassifyConfig()
    epochs, decay = 100, config.train.weight_decay
    if name == "cifar10":
        epochs = 60
    elif name == "cifar100" and model in ("resnet50", "densenet121"):
        decay = WEAK_DECAY
    elif name == "imagenet100":
        decay = decay if model.startswith("resnet18") else WEAK_DECAY
        model = f"{model}-224" if model in ("resnet18", "resnet50", "densenet121") else model
        data = DataConfig(size_policy="resize", unit_rows=256)
        config = dataclasses.replace(config, image_size=256, crop="resized", data=data)
    train = dataclasses.replace(
        config.train,
        epochs=RECIPE_EPOCHS.get(defense or "", {}).get(name, epochs),
        lr=RECIPE_LR.get(defense or "", config.train.lr),
        weight_decay=decay,
    )
    return dataclasses.replace(config, model=model, train=train, hard_epochs=50 if name == "cifar10" else 30)


def _fast(model: str) -> ClassifyConfig:
    """Return a recipe for sweeps in the manner of Page's CIFAR-10 record: 24 epochs of large batches, for small images.

    Nesterov's momentum, a learning rate that rises over the first fifth and falls to nothing, and smoothed labels; the
    same for defenses.
    """
    train = TrainConfig(
        optimizer="sgd", epochs=24, batch_size=512, lr=0.4, weight_decay=5e-4, schedule="triangle", nesterov=True
    )
    return dataclasses.replace(ClassifyConfig(), model=model, train=train, label_smoothing=0.2, hard_epochs=6)
