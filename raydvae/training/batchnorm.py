"""Batch normalization over the global batch, for CPUs too.

torch.nn.SyncBatchNorm refuses CPU tensors. Differentiable all-reduce does the same on gloo: two small reductions
forward (mean, then variance around it, which does not cancel) and two backward.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all workers' slices together (equal sizes)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        workers = dist.get_world_size()
        mean = all_reduce(x.mean(dim=(0, 2, 3))) / workers
        centered = x - mean[:, None, None]
        var = all_reduce(centered.square().mean(dim=(0, 2, 3))) / workers
        if self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * workers
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum or 0.0)
                self.running_var.lerp_(var.detach() * (count / max(count - 1, 1)), self.momentum or 0.0)
        scale = torch.rsqrt(var + self.eps) * self.weight
        return centered * scale[:, None, None] + self.bias[:, None, None]

    @staticmethod
    def convert(model: nn.Module) -> None:
        """Make every BatchNorm2d of ``model`` global, in place, keeping its parameters and statistics."""
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d
