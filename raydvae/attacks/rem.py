"""REM: robust error-minimizing noise (Fu et al., ICLR 2022).

As EM, but the loss that noise minimizes is that of images which are first viewed at random (expectation over
transformations) and then attacked within a smaller radius: so the noise still works on adversarial training. The inner
attack is not differentiated; its gradient goes straight through the view to the noise.

`REMTask` trains the classifier and `REM` crafts the noise that is kept, for the images as they are. While training,
batch normalization takes the batch's own statistics; see `raydvae.attacks.em` for why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import REMConfig
from raydvae.attacks.pgd import freeze, input_gradient, sign_descent, to_noise, to_tensor
from raydvae.attacks.surrogate import SurrogateTask
from raydvae.attacks.transforms import Draws, RowDraws, SliceDraws, View, draw_view, start_noise


@dataclass(frozen=True, slots=True)
class REMTask(SurrogateTask):
    """Train the surrogate adversarially, together with the noise."""

    kind: ClassVar[str] = "rem"

    config: REMConfig

    def inputs(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return attacked random views of the slice with noise crafted for it."""
        draws = SliceDraws(generator, len(x))
        view = _view(draws, x, self.config)
        noisy = view(x + robust_noise(model, x, y, draws, self.config))
        return noisy + inner_attack(model, noisy, y, draws, self.config)


class REM:
    """Noise against the frozen ``surrogate`` that `REMTask` trained; it is put in eval mode."""

    def __init__(self, config: REMConfig, surrogate: nn.Module) -> None:
        self.config = config
        self.bound = Bound("linf", config.norm)
        self.surrogate = freeze(surrogate)

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; memory grows with the rows, so give a batch at a time."""
        x = to_tensor(images, self.surrogate)
        y = torch.from_numpy(labels).to(x.device)
        draws = RowDraws(self.config.seed, "rem", row_ids, x.device)
        return to_noise(robust_noise(self.surrogate, x, y, draws, self.config))


def robust_noise(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, config: REMConfig) -> Tensor:
    """Return noise (B, C, H, W) that lowers the loss of attacked random views, from a random start."""

    def gradient(noisy: Tensor) -> Tensor:
        total = torch.zeros_like(noisy)
        for _ in range(config.draws):
            view = _view(draws, noisy, config)
            attack = inner_attack(model, view(noisy), y, draws, config)
            total += input_gradient(
                lambda z, view=view, attack=attack: _loss(model, view(z) + attack, y),  # type: ignore[misc]
                noisy,
            )
        return total

    start = start_noise(draws, x, config.norm)
    return sign_descent(gradient, x, start, config.norm, config.step_size, config.steps)


def inner_attack(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, config: REMConfig) -> Tensor:
    """Return noise within the inner radius that raises the loss of each image, from a random start."""
    start = start_noise(draws, x, config.radius)
    return sign_descent(
        lambda attacked: input_gradient(lambda z: _loss(model, z, y), attacked),
        x,
        start,
        config.radius,
        -config.inner_step_size,
        config.inner_steps,
    )


def _view(draws: Draws, x: Tensor, config: REMConfig) -> View:
    training = config.surrogate
    return draw_view(draws, x.shape[2], x.shape[3], training.crop_padding, training.flip)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="sum")
