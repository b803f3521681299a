"""Sign-gradient steps under a linf bound, and the way from stored bytes to tensors and back.

Losses are summed over the batch, never averaged: a row's gradient is the same in any batch. Models keep their
parameters' dtype: images are converted to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from raydvae.attacks.base import Array, Floats


def freeze(model: nn.Module) -> nn.Module:
    """Put ``model`` in eval mode without parameter gradients, and return it."""
    return model.eval().requires_grad_(False)


def to_tensor(images: Array, model: nn.Module) -> Tensor:
    """Return images (N, H, W, 3) uint8 as (N, 3, H, W) in [0, 1], on the device and in the dtype of ``model``."""
    parameter = next(model.parameters())
    return torch.from_numpy(images).to(parameter.device, parameter.dtype).permute(0, 3, 1, 2).contiguous() / 255


def to_noise(delta: Tensor) -> Floats:
    """Return noise (N, 3, H, W) as (N, H, W, 3) float32."""
    return np.ascontiguousarray(delta.permute(0, 2, 3, 1).to("cpu", torch.float32).numpy())


def input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of the scalar ``loss`` with respect to ``x``."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient


def project(delta: Tensor, x: Tensor, norm: float) -> Tensor:
    """Return ``delta`` cut to [-norm, norm], and so that x + delta stays in [0, 1]."""
    return (x + delta.clamp(-norm, norm)).clamp(0, 1) - x


def sign_descent(
    gradient: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, norm: float, step: float, steps: int
) -> Tensor:
    """Return noise after ``steps`` steps of length ``step`` against the sign of ``gradient(x + noise)``.

    A negative ``step`` ascends. Every step ends with `project`, and so does the start.
    """
    delta = project(start, x, norm)
    for _ in range(steps):
        delta = project(delta - step * gradient(x + delta).sign(), x, norm)
    return delta.detach()
