"""Augmentations that hide a part of each image, or mix images and their labels.

All are of a slice: images (B, C, H, W) in [0, 1]. Partners are drawn inside of the slice, which is what a worker has at
hand, and so is the weight of a mixture, once a slice; published code draws both for the whole batch. That weight is
uniform: the published Beta distribution at its published parameter of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cutout(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Black out a square of ``size`` pixels of each image, about a uniform center (DeVries and Taylor, 2017).

    The square may reach over the border. ``size`` must be even.
    """
    centers = torch.rand(2, len(x), generator=generator, device=x.device)
    box = _box(centers[0], centers[1], size, size, x)
    return x.masked_fill(box[:, None], 0)


def mixup(x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its target (B, K) with a partner's, in a share uniform in [0, 1] (Zhang et al., ICLR 2018)."""
    share = torch.rand((), generator=generator, device=x.device)
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    return torch.lerp(x[partner], x, share), torch.lerp(targets[partner], targets, share)


def cutmix(x: Tensor, targets: Tensor, generator: torch.Generator, probability: float = 0.5) -> tuple[Tensor, Tensor]:
    """With ``probability``, put the same box of a partner into each image (Yun et al., ICCV 2019).

    The box has the image's proportions, and before it is cut at the borders a share of its area uniform in [0, 1].
    Targets (B, K) are mixed by the areas that are really seen.
    """
    draws = torch.rand(4, generator=generator, device=x.device)
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    side = draws[2].sqrt()
    height, width = (side * x.shape[2]).long(), (side * x.shape[3]).long()
    box = _box(draws[0, None], draws[1, None], height, width, x)[0] & (draws[3] < probability)
    kept = 1 - box.float().mean()
    return torch.where(box, x[partner], x), torch.lerp(targets[partner], targets, kept)


def _box(down: Tensor, across: Tensor, height: Tensor | int, width: Tensor | int, x: Tensor) -> Tensor:
    """Return masks (N, H, W) of boxes about centers ``down`` and ``across`` (N,), in shares of the image's sides."""
    rows = torch.arange(x.shape[2], device=x.device) - (down * x.shape[2]).long()[:, None]
    columns = torch.arange(x.shape[3], device=x.device) - (across * x.shape[3]).long()[:, None]
    inside_rows = (rows >= -(height // 2)) & (rows < height // 2)
    inside_columns = (columns >= -(width // 2)) & (columns < width // 2)
    return inside_rows[:, :, None] & inside_columns[:, None, :]
