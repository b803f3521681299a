"""What a poison looks like: sizes, and the two properties that section 3.3 ties to strength.

A strong poison has classes far apart (inter-class distance) that are tight in themselves (intra-class variance), and so
a low class-conditional entropy (Proposition 3.5). The entropy is that of a Gaussian, fitted to each class on the
principal components of all noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydvae.attacks.base import Array, measure
from raydvae.errors import DataError

Doubles = npt.NDArray[np.float64]

# Stored noise is whole levels of 1/255: the variance of that rounding keeps the entropy of constant noise finite.
ROUNDING_VARIANCE = (1 / 255) ** 2 / 12


@dataclass(frozen=True, slots=True)
class Size:
    """A norm's smallest, mean and largest value over the images, in units of [0, 1] images (l0: pixels)."""

    least: float
    mean: float
    most: float


@dataclass(frozen=True, slots=True)
class PoisonStatistics:
    """Statistics of one poison. Arrays have a row a class; a class without images has zeros (entropy: NaN).

    ``mean`` (C, H, W, 3) and ``variance`` (C,) describe a class's noise: its mean image, and the variance of a value
    around it, averaged over the image. ``inter_class`` is the mean distance between two classes' means,
    ``intra_class`` the mean over classes of the summed variance, ``entropy`` (C,) in nats on ``components`` dimensions.
    """

    l0: Size
    l2: Size
    linf: Size
    count: npt.NDArray[np.int64]
    mean: Doubles
    variance: Doubles
    inter_class: float
    intra_class: float
    entropy: Doubles
    components: int


def describe(
    clean: Array, poisoned: Array, labels: npt.NDArray[np.int64], num_classes: int, components: int = 32
) -> PoisonStatistics:
    """Compare ``poisoned`` with ``clean`` images (N, H, W, 3) uint8 of classes ``labels`` (N,)."""
    if clean.shape != poisoned.shape:
        raise DataError(
            f"Clean images are {clean.shape} and poisoned ones {poisoned.shape}; they must be the same rows."
        )
    if not len(clean):
        raise DataError("There are no poisoned rows to describe.")
    delta = (poisoned.astype(np.float64) - clean) / 255
    flat = delta.reshape(len(delta), -1)
    count = np.bincount(labels, minlength=num_classes)
    means = np.zeros((num_classes, flat.shape[1]))
    variance = np.zeros(num_classes)
    for label in np.flatnonzero(count):
        rows = flat[labels == label]
        means[label] = rows.mean(axis=0)
        variance[label] = rows.var(axis=0).mean()
    present = np.flatnonzero(count)
    kept = min(components, *flat.shape)
    return PoisonStatistics(
        l0=_size(measure(delta, "l0")),
        l2=_size(measure(delta, "l2")),
        linf=_size(measure(delta, "linf")),
        count=count,
        mean=means.reshape(num_classes, *delta.shape[1:]),
        variance=variance,
        inter_class=_mean_distance(means[present]),
        intra_class=float(variance[present].mean() * flat.shape[1]),
        entropy=class_entropy(project(flat, kept), labels, num_classes),
        components=kept,
    )


def project(flat: Doubles, components: int) -> Doubles:
    """Return rows (N, D) on their first principal components (N, K), in the same units."""
    centered = flat - flat.mean(axis=0)
    if flat.shape[0] < flat.shape[1]:
        values, vectors = np.linalg.eigh(centered @ centered.T)
        return np.asarray(vectors[:, ::-1][:, :components] * np.sqrt(np.maximum(values[::-1][:components], 0)))
    _, vectors = np.linalg.eigh(centered.T @ centered)
    return np.asarray(centered @ vectors[:, ::-1][:, :components])


def class_entropy(values: Doubles, labels: npt.NDArray[np.int64], num_classes: int) -> Doubles:
    """Return the entropy (C,) in nats of a Gaussian fitted to each class's rows of ``values`` (N, K): Eq. 12.

    NaN where a class has fewer than two rows.
    """
    dimensions = values.shape[1]
    entropy = np.full(num_classes, math.nan)
    for label in range(num_classes):
        rows = values[labels == label]
        if len(rows) > 1:
            covariance = np.cov(rows, rowvar=False).reshape(dimensions, dimensions)
            _, log_det = np.linalg.slogdet(covariance + ROUNDING_VARIANCE * np.eye(dimensions))
            entropy[label] = dimensions / 2 * (1 + math.log(2 * math.pi)) + log_det / 2
    return entropy


def _mean_distance(means: Doubles) -> float:
    if len(means) < 2:
        return 0.0
    squares = np.square(means).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * means @ means.T, 0))
    return float(distances[np.triu_indices(len(means), 1)].mean())


def _size(values: Doubles) -> Size:
    return Size(float(values.min()), float(values.mean()), float(values.max()))
