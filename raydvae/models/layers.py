"""Layers and functions whose gradients torch computes slowly: the same mathematics from fewer or faster operators.

All layers are torch's own on other devices than CPUs, and where no gradient is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CL = torch.channels_last


class TransposedConv2d(nn.ConvTranspose2d):
    """A transposed convolution. Its gradients are those of the convolution that it transposes."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        if not _slow(x):
            return super().forward(x, output_size)
        out: Tensor = _TransposedConv.apply(x, self.weight, self.bias, self.stride, self.padding)
        return out


class _TransposedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = list(stride), list(padding)
        return torch.conv_transpose2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=CL)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = torch.ops.aten.convolution_backward(
                x, gradient, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [False, True, False]
            )[1]
        if ctx.needs_input_grad[2]:
            of_bias = _rows(gradient).sum(dim=(0, 1))
        return of_x, of_weight, of_bias, None, None


class Shortcut(nn.Conv2d):
    """A 1x1 convolution with a stride, without a bias until normalization is folded into it.

    oneDNN's gradient of its weights writes beyond its buffers where the input has fewer channels than a vector register
    has numbers: 8 of AVX2 at any size, 16 of AVX-512 above 48 px. There the pixels between are left out beforehand.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        narrow = self.in_channels < 8 or (self.in_channels < 16 and max(x.shape[2:]) > 48)
        if narrow and x.device.type == "cpu" and torch.is_grad_enabled():
            down, across = self.stride
            return nn.functional.conv2d(x[:, :, ::down, ::across], self.weight, self.bias)  # folding gives it one
        return super().forward(x)


class InstanceNormReLU(nn.Module):
    """Instance normalization without scale and shift, then ReLU; keeps channels_last memory."""

    eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each image of (B, C, H, W)."""
        if _slow(x):
            out: Tensor = _InstanceNormReLU.apply(x, self.eps)
            return out
        # One group a channel is instance normalization; unlike torch's InstanceNorm2d it keeps channels_last memory.
        return nn.functional.group_norm(x, x.shape[1], eps=self.eps).relu_()


class _InstanceNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        y, _, scale = torch.native_group_norm(x, None, None, batch, channels, height * width, channels, eps)
        ctx.save_for_backward(y, scale)
        return torch.relu(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient.contiguous(memory_format=CL), y, 0.0)
        batch, channels, height, width = y.shape
        y, gradient = _rows(y), _rows(gradient)
        mean = gradient.mean(dim=1, keepdim=True)
        along = (gradient * y).mean(dim=1, keepdim=True)
        # In place: the gradient is a new tensor already, and another one would cost more than the arithmetic.
        out = gradient.addcmul_(y, along, value=-1).sub_(mean).mul_(scale[:, None])
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2), None


def reparameterize(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Return a sample of N(mu, exp(log_var)), made of standard normal ``noise``."""
    z: Tensor = _Reparameterize.apply(mu, log_var, noise)
    return z


class _Reparameterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        deviation = (0.5 * log_var).exp_()
        ctx.save_for_backward(deviation, noise)
        return torch.addcmul(mu, deviation, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        deviation, noise = ctx.saved_tensors
        return gradient, (gradient * noise).mul_(deviation).mul_(0.5), None


def gaussian_kld(mu: Tensor, log_var: Tensor) -> Tensor:
    """Return the KL divergence of N(mu, exp(log_var)) from N(0, 1) in nats: summed over dimension 1, else averaged."""
    value: Tensor = _GaussianKLD.apply(mu, log_var)
    return value


class _GaussianKLD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_var: Tensor) -> Tensor:
        variance = log_var.exp()
        ctx.save_for_backward(mu, variance)
        terms = (variance - log_var).sub_(1).addcmul_(mu, mu)
        return terms.sum() * (0.5 * mu.shape[1] / mu.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        mu, variance = ctx.saved_tensors
        gradient = gradient * (mu.shape[1] / mu.numel())
        return mu * gradient, (variance - 1).mul_(0.5 * gradient)


def full(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if autocast has made it bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _slow(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _rows(x: Tensor) -> Tensor:
    """View (B, C, H, W) in channels_last memory as (B, H·W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
