"""Batch normalization over the global batch, for CPUs too.

torch.nn.SyncBatchNorm refuses CPU tensors. An all-reduce with a gradient does the same on gloo: two small reductions
forward (mean, then variance around it, which does not cancel) and two backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all workers' slices together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        mine = x.numel() // x.shape[1]
        total = x.new_tensor(mine)
        dist.all_reduce(total)
        share = mine / total
        mean = _sum(x.mean(dim=(0, 2, 3)) * share)
        centered = x - mean[:, None, None]
        var = _sum(centered.square().mean(dim=(0, 2, 3)) * share)
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum or 0.0)
                self.running_var.lerp_(var.detach() * (total / (total - 1).clamp(min=1)), self.momentum or 0.0)
        scale = torch.rsqrt(var + self.eps) * self.weight
        out: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return out

    @staticmethod
    def convert(model: nn.Module) -> None:
        """Make every BatchNorm2d of ``model`` global, in place, keeping its parameters and statistics."""
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d


class _Sum(torch.autograd.Function):
    """The sum over workers. A worker's part of it enters every worker's loss, so its gradient is their sum too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total
