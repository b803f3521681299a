"""The gradients of a slice as one row of numbers and back, and the memory layout of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather(tensors: Sequence[Tensor], into: Tensor) -> None:
    """Write ``tensors`` one after the other into ``into`` (K,)."""
    torch.cat([_in_memory_order(t).reshape(-1) for t in tensors], out=into)


def scatter(flat: Tensor, into: Sequence[Tensor | None]) -> None:
    """Do the reverse of `gather`."""
    start = 0
    for tensor in into:
        assert tensor is not None
        target = _in_memory_order(tensor)
        target.copy_(flat[start : start + target.numel()].view(target.shape))
        start += target.numel()


def strided(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` in the memory layout of ``like``, which fused optimizers take for granted."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def _in_memory_order(weights: Tensor) -> Tensor:
    # Models are kept in channels_last memory: so both ways are plain copies.
    return weights.permute(0, 2, 3, 1) if weights.ndim == 4 else weights
