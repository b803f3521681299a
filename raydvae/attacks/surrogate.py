"""Surrogates: the classifiers that attacks craft noise against, and their training as a task of the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.attacks.configs import EMConfig, REMConfig, SEPConfig, SurrogateConfig, TAPConfig
from raydvae.errors import ConfigError
from raydvae.models.classifiers import ResNet18, SmallNet, TinyNet
from raydvae.models.losses import Parts
from raydvae.training.tasks import random_crop, random_flip

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
    """Train a surrogate on clean images, for TAP and SEP; for other attacks, subclasses put noise into its inputs."""

    kind: ClassVar[str] = "surrogate"

    config: TAPConfig | SEPConfig | EMConfig | REMConfig
    num_classes: int

    def build(self) -> nn.Module:
        """Return a new model."""
        return build_surrogate(self.config.surrogate, self.num_classes)

    def inputs(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the surrogate learns from in place of images ``x`` (B, 3, H, W): random views of them."""
        training = self.config.surrogate
        x = random_crop(x, training.crop_padding, generator) if training.crop_padding else x
        return random_flip(x, generator) if training.flip else x

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward on the slice's `inputs`."""
        logits = model(self.inputs(model, x, y, generator))
        accuracy = (logits.detach().argmax(dim=1) == y).float().mean()
        return {"cross_entropy": F.cross_entropy(logits, y), "accuracy": accuracy}

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the cross-entropy."""
        return parts["cross_entropy"]
