"""TAP: targeted adversarial poisoning (Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021).

Every image is moved, by steps against a classifier trained on clean images, towards the class after its own. As in
REM's code, which made the paper's noise, each step sees a fresh random view of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import TAPConfig
from raydvae.attacks.pgd import freeze, input_gradient, sign_descent, to_noise, to_tensor
from raydvae.attacks.transforms import RowDraws, draw_view, start_noise
from raydvae.errors import ConfigError


class TAP:
    """Noise against one frozen ``surrogate``, which it puts in eval mode."""

    def __init__(self, config: TAPConfig, surrogate: nn.Module, num_classes: int) -> None:
        if num_classes < 2:
            raise ConfigError(f"TAP moves images to the next class, and there is {num_classes}; it needs at least 2.")
        self.config = config
        self.bound = Bound("linf", config.norm)
        self.surrogate = freeze(surrogate)
        self.num_classes = num_classes

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; memory grows with the rows, so give a batch at a time."""
        x = to_tensor(images, self.surrogate)
        targets = torch.from_numpy((labels + 1) % self.num_classes).to(x.device)
        draws = RowDraws(self.config.seed, "tap", row_ids, x.device)
        training = self.config.surrogate
        height, width = x.shape[2:]

        def gradient(adversarial: Tensor) -> Tensor:
            view = draw_view(draws, height, width, training.crop_padding, training.flip)
            return input_gradient(
                lambda z: F.cross_entropy(self.surrogate(view(z)), targets, reduction="sum"), adversarial
            )

        start = start_noise(draws, x, self.config.norm)
        delta = sign_descent(gradient, x, start, self.config.norm, self.config.step_size, self.config.steps)
        return to_noise(delta)
