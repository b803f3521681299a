"""Classifiers: those that the paper reports, for small images and for 224 px, and two for small machines.

Those of torchvision are imported when one is built: it takes a second or two.
"""

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


class ResNet9(Classifier):
    """The short net of Page's CIFAR-10 record (2018, 94 % in 24 epochs): 6,573,130 parameters for C = 10.

    Two residual blocks, poolings in place of strides, the maximum over the image, and small logits to start from.
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        layers = _conv(3, width, 1)
        for stage in range(3):
            out = width * 2 ** (stage + 1)
            layers += [*_conv(out // 2, out, 1), nn.MaxPool2d(2)]
            if stage != 1:
                layers.append(_Added(*_conv(out, out, 1), *_conv(out, out, 1)))
        super().__init__(layers, 8 * width, num_classes)

    def features_of(self, x: Tensor) -> Tensor:
        """See `Classifier.features_of`."""
        features: Tensor = self.features(x).amax(dim=(2, 3))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """See `Classifier.forward`."""
        return super().forward(x) / 8


class _Added(nn.Module):
    """What layers make of x, added to it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _conv(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


def resnet50(num_classes: int) -> nn.Module:
    """ResNet-50 for small images: torchvision's with a 3x3 stem and no pooling; 23,520,842 parameters for C = 10."""
    from torchvision.models import resnet50

    model: nn.Module = resnet50(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return _torchs_initialization(model)


def densenet121(num_classes: int) -> nn.Module:
    """DenseNet-121 for small images: torchvision's with a bare 3x3 stem; 6,956,298 parameters for C = 10."""
    from torchvision.models import densenet121

    model: nn.Module = densenet121(num_classes=num_classes)
    features = model.get_submodule("features")
    features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(features, name, nn.Identity())
    return _torchs_initialization(model)


def mobilenetv2(num_classes: int) -> nn.Module:
    """MobileNet-V2 for ImageNet, which the paper gives images of 32 px too: they end as one cell.

    Its dropout is seeded (see `SeededDropout`).
    """
    from torchvision.models import mobilenet_v2

    model: nn.Module = mobilenet_v2(num_classes=num_classes)
    model.get_submodule("classifier").add_module("0", SeededDropout(0.2))
    return model


def torchvisions(name: str) -> Callable[[int], nn.Module]:
    """Return torchvision's classifier ``name`` as it is, with weights drawn anew."""

    def build(num_classes: int) -> nn.Module:
        import torchvision.models

        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        return model

    return build


class SeededDropout(nn.Module):
    """Dropout by a generator that `seed_dropout` gives it: the process's own one is shared by slices in threads."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """In training, drop each value of ``x`` with probability ``p`` and scale up the others."""
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.p
        return x * kept / (1 - self.p)


def seed_dropout(model: nn.Module, generator: torch.Generator) -> None:
    """Have what ``model`` drops in training drawn from ``generator``."""
    for module in model.modules():
        if isinstance(module, SeededDropout):
            module.generator = generator


def _torchs_initialization(model: nn.Module) -> nn.Module:
    """Draw the weights as torch does by default, which the CIFAR nets that the paper used do; torchvision's do not."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": ResNet18,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "mobilenetv2": mobilenetv2,
    "resnet18-224": torchvisions("resnet18"),
    "resnet50-224": torchvisions("resnet50"),
    "densenet121-224": torchvisions("densenet121"),
    "resnet9": ResNet9,
    "small": SmallNet,
    "tiny": TinyNet,
}


# Halvings without padding leave nothing of smaller images.
SMALLEST = {"resnet9": 8, "densenet121": 8, "densenet121-224": 32}


def check_side(name: str, side: int) -> None:
    """Raise `ConfigError` if images of ``side`` pixels are too small for classifier ``name``."""
    if side < SMALLEST.get(name, 1):
        raise ConfigError(
            f"The classifier {name} is given images of {side} px and needs {SMALLEST[name]}; give larger ones "
            "(--image-size), or another --model."
        )


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
