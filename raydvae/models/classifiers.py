"""Classifiers: the CIFAR ResNet-18 that the paper reports (He et al. 2016), and one for small machines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raydvae.errors import ConfigError
from raydvae.models.dvae import ResidualBlock


class Classifier(nn.Module):
    """Convolutions ``features``, their mean over the image, and a linear ``head``."""

    def __init__(self, layers: list[nn.Module], channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def features_of(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to what the last layer sees, (B, channels)."""
        features: Tensor = self.features(x).mean(dim=(2, 3))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, C)."""
        logits: Tensor = self.head(self.features_of(x))
        return logits


class ResNet18(Classifier):
    """ResNet-18 for small images: 3x3 stem, no pooling, four stages of two blocks; 11,173,962 parameters for C = 10."""

    def __init__(self, num_classes: int, width: int = 64) -> None:
        layers = _conv(3, width, 1)
        channels = width
        for stage in range(4):
            out = width * 2**stage
            layers += [ResidualBlock(channels, out, stride=1 if stage == 0 else 2), ResidualBlock(out, out)]
            channels = out
        super().__init__(layers, channels, num_classes)


class SmallNet(Classifier):
    """Seven convolutions in four stages: minutes instead of hours on two cores.

    Its last features see the whole image, as those of ResNet-18 do; a net that sees only patches is harder to fool.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        layers = _conv(3, width, 1)
        for stage in range(3):
            out = width * 2 ** (stage + 1)
            layers += [*_conv(out // 2, out, 2), *_conv(out, out, 1)]
        super().__init__(layers, 8 * width, num_classes)


class TinyNet(Classifier):
    """Six convolutions in three stages: for digits, in seconds."""

    def __init__(self, num_classes: int, width: int = 32) -> None:
        layers = _conv(3, width, 1) + _conv(width, width, 1)
        for stage in range(2):
            out = width * 2 ** (stage + 1)
            layers += [*_conv(out // 2, out, 2), *_conv(out, out, 1)]
        super().__init__(layers, 4 * width, num_classes)


def _conv(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {"resnet18": ResNet18, "small": SmallNet, "tiny": TinyNet}


def build_classifier(name: str, num_classes: int) -> nn.Module:
    """Return a new classifier called ``name``; `ConfigError` lists the names there are."""
    if name not in CLASSIFIERS:
        raise ConfigError(f"There is no classifier {name!r}; choose one of {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name](num_classes)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the predicted labels (B,) of images ``x``."""
    labels: Tensor = model(x).argmax(dim=1)
    return labels
