"""EM: error-minimizing noise (Huang et al., "Unlearnable Examples", ICLR 2021), as in REM's code.

Noise and classifier both minimize the training loss. The classifier is trained by the project's loop with `EMTask`:
each step crafts fresh noise for its batch of random views, then learns from the noisy batch. Once it is trained, a last
pass crafts the noise that is kept, for the images as they are (the published code crafts it for random views, and then
adds it to the images as they are; ``view`` "augmented" does the same). Its 80 rows of stale noise are not reproduced.

While training, noise is crafted with the batch's own statistics in batch normalization (the published code takes
running ones): the loop keeps running statistics once for all workers and not in the replicas, whose own would make a
step depend on what ran before it. The crafting passes leave no trace, because the last forward pass is that of the
training step.

Class-wise noise ties the noise of a class: its gradient is summed over the class's images, in the batch while training
and in a sample of the data set at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import EMConfig
from raydvae.attacks.pgd import freeze, input_gradient, sign_descent, to_noise, to_tensor
from raydvae.attacks.surrogate import SurrogateTask
from raydvae.attacks.transforms import Draws, RowDraws, SliceDraws, draw_view, start_noise
from raydvae.errors import DataError
from raydvae.seeds import derive

BATCH = 128


@dataclass(frozen=True, slots=True)
class EMTask(SurrogateTask):
    """Train the surrogate together with the noise."""

    kind: ClassVar[str] = "em"

    config: EMConfig

    def inputs(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return random views of the slice, with noise crafted for them."""
        draws = SliceDraws(generator, len(x))
        training = self.config.surrogate
        x = draw_view(draws, x.shape[2], x.shape[3], training.crop_padding, training.flip)(x)
        if self.config.wise == "class":
            start = 2 * torch.rand(self.num_classes, *x.shape[1:], generator=generator, device=x.device) - 1
            delta = class_descent(model, [(x, y)], start * self.config.norm, self.config)[y]
        else:
            delta = sample_descent(model, x, y, draws, self.config)
        return (x + delta).clamp(0, 1)


class EM:
    """Sample-wise noise against the frozen ``surrogate`` that `EMTask` trained; it is put in eval mode."""

    def __init__(self, config: EMConfig, surrogate: nn.Module) -> None:
        self.config = config
        self.bound = Bound("linf", config.norm)
        self.surrogate = freeze(surrogate)

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; memory grows with the rows, so give a batch at a time."""
        x = to_tensor(images, self.surrogate)
        y = torch.from_numpy(labels).to(x.device)
        draws = RowDraws(self.config.seed, "em", row_ids, x.device)
        if self.config.view == "augmented":
            training = self.config.surrogate
            x = draw_view(draws, x.shape[2], x.shape[3], training.crop_padding, training.flip)(x)
        return to_noise(sample_descent(self.surrogate, x, y, draws, self.config))


class ClassNoise:
    """Class-wise noise (C, H, W, 3): every image of a class gets the same."""

    def __init__(self, config: EMConfig, noise: Floats) -> None:
        self.bound = Bound("linf", config.norm)
        self.class_noise = noise

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; the images themselves do not matter."""
        return self.class_noise[labels]


def craft_class_noise(
    config: EMConfig, surrogate: nn.Module, images: Array, labels: npt.NDArray[np.int64], num_classes: int
) -> Floats:
    """Return the noise (C, H, W, 3) of each class, for `ClassNoise`, from a sample of every class's images."""
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if missing:
        raise DataError(f"Class-wise noise needs images of every class; the sample has none of classes {missing}.")
    surrogate = freeze(surrogate)
    x, y = to_tensor(images, surrogate), torch.from_numpy(labels).to(next(surrogate.parameters()).device)
    generator = torch.Generator().manual_seed(derive(config.seed, "em", "classes"))
    start = (2 * torch.rand(num_classes, *x.shape[1:], generator=generator) - 1) * config.norm
    batches = list(zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))
    return to_noise(class_descent(surrogate, batches, start.to(x), config))


def sample_descent(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, config: EMConfig) -> Tensor:
    """Return noise (B, C, H, W) that lowers the loss of each image by itself, from a random start."""

    def gradient(noisy: Tensor) -> Tensor:
        return input_gradient(lambda z: F.cross_entropy(model(z), y, reduction="sum"), noisy)

    start = start_noise(draws, x, config.norm)
    return sign_descent(gradient, x, start, config.norm, config.step_size, config.steps)


def class_descent(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], start: Tensor, config: EMConfig
) -> Tensor:
    """Return noise (C, 3, H, W), one a class, that lowers the summed loss of the images of each class."""
    delta = start
    for _ in range(config.steps):
        gradient = torch.zeros_like(delta)
        for x, y in batches:
            members = F.one_hot(y, len(delta)).to(delta.dtype)
            own = input_gradient(_noisy_loss(model, x, y), delta[y])
            gradient += (members.T @ own.flatten(1)).view_as(delta)
        delta = (delta - config.step_size * gradient.sign()).clamp(-config.norm, config.norm)
    return delta


def _noisy_loss(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda delta: F.cross_entropy(model((x + delta).clamp(0, 1)), y, reduction="sum")
