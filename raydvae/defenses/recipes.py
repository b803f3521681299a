"""Defenses that change how a classifier is trained, as tasks of the training loop.

All their randomness comes from the slice's generator, so a training has the same bits on any number of workers, and
after being killed. Everything else (optimizer, schedule, crops and flips) is the usual training's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import ClassifyConfig
from raydvae.defenses.mixing import cutmix, cutout, mixup
from raydvae.defenses.ueraser import check_installed, erased
from raydvae.errors import ConfigError
from raydvae.models.classifiers import seed_dropout
from raydvae.models.losses import Parts
from raydvae.training.tasks import ClassifierTask, common


@dataclass(frozen=True, slots=True)
class CutoutTask(ClassifierTask):
    """Black out a square of half of the image's side: the published 16 of 32 pixels."""

    kind: ClassVar[str] = "cutout"

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `ClassifierTask.examples`."""
        x = self.views(x, generator)
        return cutout(x, 2 * (min(x.shape[2:]) // 4), generator), y


@dataclass(frozen=True, slots=True)
class MixupTask(ClassifierTask):
    """Mix images and labels."""

    kind: ClassVar[str] = "mixup"

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `ClassifierTask.examples`."""
        return mixup(self.views(x, generator), _weights(y, self.num_classes, x), generator)


@dataclass(frozen=True, slots=True)
class CutMixTask(ClassifierTask):
    """Put boxes of other images into half of the slices."""

    kind: ClassVar[str] = "cutmix"

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `ClassifierTask.examples`."""
        return cutmix(self.views(x, generator), _weights(y, self.num_classes, x), generator)


@dataclass(frozen=True, slots=True)
class AdversarialTask(ClassifierTask):
    """Adversarial training (Madry et al., ICLR 2018) with the paper's attack.

    The attack takes ``steps`` sign steps of length ``step`` from a uniform start in the linf ball of radius ``norm``.
    Meanwhile batch normalization takes the batch's own statistics, as the training step does. The official code takes
    running ones, but those of the loop's replicas are the last batch's, and a step would depend on what ran before it.
    """

    kind: ClassVar[str] = "at"

    norm: float = 8 / 255
    step: float = 1.6 / 255
    steps: int = 10

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `ClassifierTask.examples`."""
        x = self.views(x, generator)
        start = 2 * torch.rand(x.shape, generator=generator, device=x.device) - 1
        return attacked(model, x, y, start * self.norm, self.norm, self.step, self.steps), y


@dataclass(frozen=True, slots=True)
class UEraserTask(ClassifierTask):
    """UEraser (Qin et al., 2023): of ``hard_views`` random views of each image, learn from that with the highest loss.

    After ``hard_epochs`` epochs there is one view only. Each view is a forward pass of its own, with the batch
    statistics of that view. ``accuracy`` is on the views that were learned from.
    """

    kind: ClassVar[str] = "ueraser"

    hard_epochs: int = 50
    hard_views: int = 5

    @classmethod
    def of(cls, config: ClassifyConfig, num_classes: int) -> UEraserTask:
        """See `ClassifierTask.of`."""
        return cls(**common(config, num_classes), hard_epochs=config.hard_epochs)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward on every view; the loss is the mean over images of the maximum over their views."""
        seed_dropout(model, generator)
        x = self.views(x, generator)
        losses, right = [], []
        for _ in range(self.hard_views if epoch < self.hard_epochs else 1):
            logits = model(erased(x, generator))
            losses.append(F.cross_entropy(logits, y, reduction="none"))
            right.append(logits.detach().argmax(dim=1) == y)
        worst, which = torch.stack(losses).max(dim=0)
        return {"cross_entropy": worst.mean(), "accuracy": torch.stack(right).gather(0, which[None]).float().mean()}


RECIPES: dict[str, type[ClassifierTask]] = {
    "cutout": CutoutTask,
    "cutmix": CutMixTask,
    "mixup": MixupTask,
    "at": AdversarialTask,
    "ueraser": UEraserTask,
}


def find_recipe(name: str | None) -> type[ClassifierTask]:
    """Return the task of defense ``name``, or the usual one for None.

    `ConfigError` lists the names there are, or says what has to be installed.
    """
    if name is None:
        return ClassifierTask
    if name not in RECIPES:
        raise ConfigError(f"There is no training recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    if RECIPES[name] is UEraserTask:
        check_installed()
    return RECIPES[name]


def attacked(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, norm: float, step: float, steps: int) -> Tensor:
    """Return images within linf ``norm`` of ``x`` (B, C, H, W) and within [0, 1], whose loss sign steps have raised."""
    low, high = (x - norm).clamp(min=0), (x + norm).clamp(max=1)
    moved = torch.clamp(x + start, low, high)
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(moved), y, reduction="sum")  # a sum: a row's step is the same in any batch
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = torch.clamp(moved.detach() + step * gradient.sign(), low, high)
    return moved.detach()


def _weights(y: Tensor, num_classes: int, x: Tensor) -> Tensor:
    return F.one_hot(y, num_classes).to(x.dtype)
