"""The three inference passes of Algorithm 1, on batches of images."""

from __future__ import annotations

import torch
from torch import Tensor

from raydvae.config import Quantize
from raydvae.models.dvae import DVAE


@torch.no_grad()
def subtract(model: DVAE, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
    """Passes 1 and 2: return x - p_hat, clamped to [0, 1]."""
    return (x - model.estimate_perturbation(x, y, noise)).clamp_(0, 1)


@torch.no_grad()
def reconstruct(model: DVAE, x: Tensor, noise: Tensor | None) -> Tensor:
    """Pass 3: return x_hat, in [0, 1]."""
    return model.reconstruct(x, noise)


def to_uint8(x: Tensor, quantize: Quantize) -> Tensor:
    """Quantize [0, 1] to bytes. The official code truncates, which darkens by half a level on average."""
    scaled = x * 255
    return (scaled.round() if quantize == "round" else scaled).clamp(0, 255).to(torch.uint8)
