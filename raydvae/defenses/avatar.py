"""AVATAR (Dolatabadi et al., 2023): noise over the poison, then the reverse process of a diffusion takes both away.

The diffusion model learns clean images. Images are mapped from [0, 1] to the model's [-1, 1] and back. (The code that
the paper used gives the model [0, 2]; the official one lets values beyond the range wrap around as bytes.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.models.losses import Parts
from raydvae.models.score import STEPS, UNet, betas, kept

Predict = Callable[[Tensor, Tensor], Tensor]  # x_t (B, 3, H, W) and t (B,) to the noise in it


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Train the noise predictor on all of the diffusion's steps alike, with the plain squared error."""

    kind: ClassVar[str] = "score"

    width: int

    def build(self) -> nn.Module:
        """Return a new model."""
        return UNet(self.width)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward on each image after a step drawn for it; labels play no part."""
        t = torch.randint(1, STEPS + 1, (len(x),), generator=generator, device=x.device)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        share = kept().to(x.device, x.dtype)[t - 1][:, None, None, None]
        noisy = share.sqrt() * (2 * x - 1) + (1 - share).sqrt() * noise
        return {"noise_error": F.mse_loss(model(noisy, t), noise)}

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the squared error."""
        return parts["noise_error"]


@torch.no_grad()
def purified(x: Tensor, predict: Predict, steps: int, generator: torch.Generator) -> Tensor:
    """Return images ``x`` (B, 3, H, W) in [0, 1] after ``steps`` steps forward and as many back, in [0, 1].

    Back by ancestral sampling; the last step adds no noise.
    """

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device)

    share, beta = kept(), betas()
    z = float(share[steps - 1].sqrt()) * (2 * x - 1) + float((1 - share[steps - 1]).sqrt()) * noise()
    for t in range(steps, 0, -1):
        found = predict(z, torch.full((len(x),), t, device=x.device))
        z = (z - float(beta[t - 1] / (1 - share[t - 1]).sqrt()) * found) / float((1 - beta[t - 1]).sqrt())
        if t > 1:
            z = z + float(beta[t - 1].sqrt()) * noise()
    return ((z + 1) / 2).clamp(0, 1)
