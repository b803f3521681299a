"""NTGA: neural tangent generalization attack (Yuan & Wu, ICML 2021), for fully connected nets.

An infinitely wide net, trained by gradient descent on a block of rows for time t, predicts in closed form through its
neural tangent kernel. The block's images are moved so that these predictions become worse on held-out rows. (The
published "cnn" surrogate has no counterpart here; ours is the published "fnn": layers of Erf, or ReLU.)

The noise of a row depends on the rows of its block: `NTGA.noise` cuts what it is given into blocks in order, so give
the same rows together to get the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import NTGAConfig, NTGANet
from raydvae.attacks.pgd import project, to_noise
from raydvae.errors import ConfigError, DataError

CHUNK = 1000  # held-out rows at a time: bounds the memory of their kernel


class NTGA:
    """Noise against the net that would be trained on each block; ``images`` (V, H, W, 3) are the held-out rows."""

    def __init__(
        self,
        config: NTGAConfig,
        images: Array,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        device: torch.device | None = None,
    ) -> None:
        if num_classes < 2:
            raise ConfigError(f"NTGA misleads a classifier, and there is {num_classes} class; it needs at least 2.")
        if not len(images):
            raise DataError("NTGA needs held-out rows, and none were given.")
        self.config = config
        self.bound = Bound("linf", config.norm)
        self.num_classes = num_classes
        self.device = device or torch.device("cpu")
        self.held_out = _tensor(images, self.device).flatten(1)
        self.held_out_labels = torch.from_numpy(labels).to(self.device)

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; the rows are cut into blocks of ``config.block_rows``."""
        x = _tensor(images, self.device)
        y = torch.from_numpy(labels).to(self.device)
        size = self.config.block_rows
        parts = [self._block(x[start : start + size], y[start : start + size]) for start in range(0, len(x), size)]
        return to_noise(torch.cat(parts)) if parts else np.zeros(images.shape, np.float32)

    def _block(self, x: Tensor, y: Tensor) -> Tensor:
        delta = torch.zeros_like(x)
        for _ in range(1 if self.config.update == "one-step" else self.config.steps):
            gradient = self.gradient(x + delta, y)
            delta = project(delta + self.config.step_size * gradient.sign(), x, self.config.norm)
        return delta

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return how the summed held-out loss of a net trained on a block (B, 3, H, W) changes with the block."""
        x = x.detach().requires_grad_()
        targets = F.one_hot(y, self.num_classes).to(x.dtype)
        with torch.enable_grad():
            weights = train(kernel(x.flatten(1), x.flatten(1), self.config), targets, self.config)
            # The kernel between held-out rows and the block is the large one: a chunk of it at a time.
            leaf = weights.detach().requires_grad_()
            gradient, to_weights = torch.zeros_like(x), torch.zeros_like(leaf)
            for start in range(0, len(self.held_out), CHUNK):
                rows = slice(start, start + CHUNK)
                predictions = kernel(self.held_out[rows], x.flatten(1), self.config) @ leaf
                loss = F.cross_entropy(predictions, self.held_out_labels[rows], reduction="sum")
                for total, part in zip((gradient, to_weights), torch.autograd.grad(loss, (x, leaf)), strict=True):
                    total += part
            (through,) = torch.autograd.grad(weights, x, to_weights)
        out: Tensor = gradient + through
        return out


def train(train_kernel: Tensor, targets: Tensor, config: NTGAConfig) -> Tensor:
    """Return W (N, C) so that kernel(v, x) @ W predicts after training on ``targets`` (N, C) for time t.

    W = K⁻¹ (I - exp(-c K)) Y, the solution of gradient flow on the mean squared error (c = t / (N · C), as Neural
    Tangents counts time), with ``regularization`` of K's mean diagonal added to the diagonal.
    """
    ridge = config.regularization * train_kernel.diagonal().mean()
    regular = train_kernel + ridge * torch.eye(len(train_kernel), dtype=train_kernel.dtype, device=train_kernel.device)
    weights: Tensor = _Trained.apply(regular, config.t / targets.numel()) @ targets
    return weights


class _Trained(torch.autograd.Function):
    """The matrix function (1 - exp(-c K)) / K of a symmetric K, with a derivative that stands equal eigenvalues."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, c: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        ctx.c = c
        out: Tensor = vectors * _decay(values, c) @ vectors.T
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Daleckii-Krein: in the eigenbasis the derivative is a table of divided differences.
        values, vectors = ctx.saved_tensors
        c = ctx.c
        gap = values[:, None] - values
        close = gap.abs() <= 1e-7 * values.abs().max()
        middle = (values[:, None] + values) / 2
        slope = (c * middle * torch.exp(-c * middle) + torch.expm1(-c * middle)) / middle.square()
        function = _decay(values, c)
        table = torch.where(close, slope, (function[:, None] - function) / torch.where(close, 1.0, gap))
        return vectors @ (table * (vectors.T @ grads[0] @ vectors)) @ vectors.T, None


def _decay(values: Tensor, c: float) -> Tensor:
    return -torch.expm1(-c * values) / values


def kernel(a: Tensor, b: Tensor, config: NTGAConfig) -> Tensor:
    """Return the neural tangent kernel (A, B) of rows ``a`` (A, D) and ``b`` (B, D).

    The net has ``depth`` layers, each dense (weights N(0, weight_variance / inputs), biases N(0, bias_variance)) and
    then the activation, the last one included.
    """
    w, bias = config.weight_variance, config.bias_variance
    dimensions = a.shape[1]
    covariance = a @ b.T / dimensions
    of_a, of_b = a.square().mean(dim=1), b.square().mean(dim=1)
    tangent = torch.zeros_like(covariance)
    for _ in range(config.depth):
        covariance, of_a, of_b = w * covariance + bias, w * of_a + bias, w * of_b + bias
        tangent = covariance + w * tangent
        covariance, slope, of_a, of_b = _activation(config.net, covariance, of_a, of_b)
        tangent = tangent * slope
    return tangent


def _activation(net: NTGANet, k: Tensor, of_a: Tensor, of_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return E[f(u) f(v)], E[f'(u) f'(v)] and the two E[f(u)²], of Gaussian u and v of covariance ``k``."""
    if net == "erf":
        product = (1 + 2 * of_a)[:, None] * (1 + 2 * of_b)
        value = 2 / math.pi * torch.asin(2 * k / product.sqrt())
        slope = 4 / math.pi / (product - 4 * k.square()).sqrt()
        return value, slope, _erf_square(of_a), _erf_square(of_b)
    scale = (of_a[:, None] * of_b).sqrt()
    # Where two rows are equal the angle is 0 whatever they are: the clamp also keeps its gradient at 0 there.
    cosine = (k / scale).clamp(-1 + 1e-12, 1 - 1e-12)
    angle = math.pi - torch.acos(cosine)
    value = scale * ((1 - cosine.square()).sqrt() + angle * cosine) / (2 * math.pi)
    return value, angle / (2 * math.pi), of_a / 2, of_b / 2


def _erf_square(variance: Tensor) -> Tensor:
    return 2 / math.pi * torch.asin(2 * variance / (1 + 2 * variance))


def _tensor(images: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(images).to(device, torch.float64).permute(0, 3, 1, 2) / 255
