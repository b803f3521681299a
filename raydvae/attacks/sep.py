"""SEP: self-ensemble protection (Chen et al., ICLR 2023).

The surrogates are checkpoints of one training. Every image is moved towards the class half the classes away: by
cross-entropy ("plain"), or by bringing its features near that class's mean features in each checkpoint ("fa"). "fa-vr"
adds stochastic variance reduction: inner steps follow one checkpoint's gradient, corrected by how it differed from the
checkpoints' mean where the outer step began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import SEPConfig
from raydvae.attacks.pgd import freeze, input_gradient, project, to_noise, to_tensor
from raydvae.errors import ConfigError, DataError
from raydvae.seeds import derive

FIXED_POINT = 2**24


class Featured(Protocol):
    """A classifier that shows what its last layer sees."""

    def features_of(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to features (B, D)."""
        ...


@dataclass(slots=True)
class ClassFeatures:
    """Sums of clean features a class, (C, D) in fixed point: whole numbers add up to the same bits in any order."""

    count: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int, dimensions: int) -> ClassFeatures:
        """Return the sums of no images."""
        return cls(np.zeros(num_classes, np.int64), np.zeros((num_classes, dimensions), np.int64))

    def update(self, model: nn.Module, images: Array, labels: npt.NDArray[np.int64]) -> None:
        """Add the features that ``model``, put in eval mode, sees in images (N, H, W, 3) uint8."""
        with torch.no_grad():
            features = cast(Featured, freeze(model)).features_of(to_tensor(images, model)).double().cpu().numpy()
        np.add.at(self.sums, labels, np.rint(features * FIXED_POINT).astype(np.int64))
        np.add.at(self.count, labels, 1)

    def merge(self, other: ClassFeatures) -> None:
        """Add what another worker has seen."""
        self.count += other.count
        self.sums += other.sums

    def means(self) -> Tensor:
        """Return the mean features (C, D) float64; `DataError` if a class has no images."""
        missing = np.flatnonzero(self.count == 0).tolist()
        if missing:
            raise DataError(f"SEP aims at the features of every class, and there are no images of classes {missing}.")
        return torch.from_numpy(self.sums / FIXED_POINT / self.count[:, None])


class SEP:
    """Noise against frozen ``surrogates``, which it puts in eval mode.

    ``class_means`` are the clean mean features (C, D) of each surrogate; the variant "plain" needs none.
    """

    def __init__(
        self, config: SEPConfig, surrogates: Sequence[nn.Module], num_classes: int, class_means: Sequence[Tensor] = ()
    ) -> None:
        if num_classes < 2:
            raise ConfigError(f"SEP moves images to another class, and there is {num_classes}; it needs at least 2.")
        if len(surrogates) != config.count:
            raise ConfigError(f"SEP is set to {config.count} checkpoints, but {len(surrogates)} were given.")
        if config.variant != "plain" and len(class_means) != len(surrogates):
            raise ConfigError(
                f"SEP {config.variant!r} needs class means for each of {len(surrogates)} checkpoints; "
                f"{len(class_means)} were given."
            )
        self.config = config
        self.bound = Bound("linf", config.norm)
        self.surrogates = [freeze(model) for model in surrogates]
        self.num_classes = num_classes
        self.class_means = list(class_means)

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; memory grows with the rows, so give a batch at a time.

        All rows see the same random checkpoints, drawn from the seed and the step.
        """
        x = to_tensor(images, self.surrogates[0])
        targets = torch.from_numpy((labels + self.num_classes // 2) % self.num_classes).to(x.device)
        inner = self.config.variant == "fa-vr"
        delta = torch.zeros_like(x)
        for step in range(self.config.steps):
            gradients = [self.gradient(index, x + delta, targets) for index in range(len(self.surrogates))]
            direction = torch.stack(gradients).mean(dim=0)
            if inner:
                direction = self._reduced(step, x, delta, targets, gradients, direction)
            delta = project(delta - self.config.step_size * direction.sign(), x, self.config.norm)
        return to_noise(delta)

    def gradient(self, index: int, x: Tensor, targets: Tensor, means_of: int | None = None) -> Tensor:
        """Return how checkpoint ``index``'s loss towards ``targets`` changes with images ``x`` (B, 3, H, W).

        ``means_of`` names the checkpoint whose class means are aimed at, if not its own.
        """
        model = self.surrogates[index]
        if self.config.variant == "plain":
            return input_gradient(lambda z: F.cross_entropy(model(z), targets, reduction="sum"), x)
        goal = self.class_means[index if means_of is None else means_of].to(x)[targets]
        return input_gradient(lambda z: (cast(Featured, model).features_of(z) - goal).square().mean(dim=1).sum(), x)

    def _reduced(
        self, step: int, x: Tensor, delta: Tensor, targets: Tensor, gradients: Sequence[Tensor], mean: Tensor
    ) -> Tensor:
        means_of = len(self.surrogates) - 1 if self.config.class_means == "last" else None
        generator = torch.Generator().manual_seed(derive(self.config.seed, "sep", step))
        direction = torch.zeros_like(x)
        for _ in range(self.config.inner_steps):
            index = int(torch.randint(len(self.surrogates), (), generator=generator))
            here = self.gradient(index, x + delta, targets, means_of)
            direction = direction + here - (gradients[index] - mean)
            delta = project(delta - self.config.step_size * direction.sign(), x, self.config.norm)
        return direction
