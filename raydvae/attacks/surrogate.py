"""Surrogates: the classifiers that attacks craft noise against, and their clean training as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydvae.attacks.configs import SurrogateConfig
from raydvae.errors import ConfigError
from raydvae.models.classifiers import ResNet18, SmallNet, TinyNet
from raydvae.models.losses import Parts
from raydvae.training.tasks import ClassifierTask

SURROGATES: dict[str, Callable[[int, int], nn.Module]] = {"resnet18": ResNet18, "small": SmallNet, "tiny": TinyNet}


def build_surrogate(config: SurrogateConfig, num_classes: int) -> nn.Module:
    """Return a new surrogate of the configured kind and width."""
    if config.model not in SURROGATES:
        raise ConfigError(f"There is no surrogate {config.model!r}; choose one of {', '.join(SURROGATES)}.")
    if num_classes < 2:
        raise ConfigError(f"This attack moves images between classes, and there is {num_classes}; it needs at least 2.")
    return SURROGATES[config.model](num_classes, config.width)


@dataclass(frozen=True, slots=True)
class SurrogateTask:
    """Train a surrogate on clean images, for TAP and SEP."""

    config: SurrogateConfig
    num_classes: int

    def build(self) -> nn.Module:
        """Return a new model."""
        return build_surrogate(self.config, self.num_classes)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Parts:
        """Run forward on augmented images."""
        task = ClassifierTask(self.config.model, self.num_classes, self.config.crop_padding, self.config.flip)
        return task.measure(model, x, y, generator)

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the cross-entropy."""
        return parts["cross_entropy"]
