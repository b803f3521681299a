"""LFU's orthogonal projection (Sandoval-Segura et al., "What Can We Learn from Unlearnable Datasets?", NeurIPS 2023).

A linear classifier without bias is fitted to the poisoned pixels, in [0, 1]; then each image loses its component in the
space that the classifier's weights span. What that classifier could tell classes apart by is gone.

The published code trains on the projected floats as they are. Ours are stored: cut to [0, 1] and rounded to bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.defenses.configs import LFUConfig
from raydvae.errors import DataError
from raydvae.seeds import derive

Batch = tuple[Tensor, Tensor]  # images (n, ...) uint8 and labels (n,) int64


def rebatch(parts: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Cut a stream of images and labels into batches of ``size`` rows, in their order; the last may be smaller."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    waiting = 0
    for x, y in parts:
        start = 0
        while start < len(y):
            stop = start + min(size - waiting, len(y) - start)
            images.append(x[start:stop])
            labels.append(y[start:stop])
            waiting += stop - start
            start = stop
            if waiting == size:
                yield torch.cat(images), torch.cat(labels)
                images, labels, waiting = [], [], 0
    if waiting:
        yield torch.cat(images), torch.cat(labels)


def fit(
    epoch: Callable[[], Iterable[Batch]],
    dimensions: int,
    num_classes: int,
    config: LFUConfig,
    device: torch.device,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Return the weights (C, D) of the linear classifier; ``epoch`` gives all rows, in any parts, once a call.

    ``progress`` is told the number of each finished epoch, from 0, and its mean cross-entropy.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "lfu"))
        linear = nn.Linear(dimensions, num_classes, bias=False)
    weights = linear.weight.detach().to(device).requires_grad_()
    for number in range(config.epochs):
        drops = sum(number >= config.epochs * share for share in (0.5, 0.75))
        rate = config.lr * 0.1**drops
        total, rows = 0.0, 0
        for x, y in rebatch(epoch(), config.batch_size):
            pixels = x.to(device).flatten(1).float() / 255
            loss = F.cross_entropy(pixels @ weights.T, y.to(device))
            (gradient,) = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                weights -= rate * gradient
            total, rows = total + float(loss.detach()) * len(y), rows + len(y)
        if not rows:
            raise DataError("There is no usable row to fit LFU's linear classifier to; look at the rejected rows.")
        if progress is not None:
            progress(number, total / rows)
    return weights.detach()


def basis_of(weights: Tensor) -> Tensor:
    """Return an orthonormal basis (D, C) of the space that the rows of ``weights`` (C, D) span."""
    rows = F.normalize(weights.double(), dim=1)
    basis: Tensor = torch.linalg.qr(rows.T).Q
    return basis.to(weights.dtype)


def project(pixels: Tensor, basis: Tensor) -> Tensor:
    """Return ``pixels`` (N, D) without their component in the space of ``basis`` (D, C)."""
    return pixels - (pixels @ basis) @ basis.T


def to_bytes(pixels: Tensor) -> Tensor:
    """Return pixels in units of [0, 1] as uint8, cut to that range and rounded."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
