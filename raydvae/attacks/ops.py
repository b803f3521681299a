"""OPS: one-pixel shortcuts (Wu et al., "One-Pixel Shortcut", ICLR 2023).

For each class one position and one corner color of the RGB cube are sought, so that setting that pixel changes all
images of the class as much and as evenly as possible: the score is mean / standard deviation of |color - x|, over the
class's images and three channels. Classes choose one after the other, and no pair is chosen twice. (The paper divides
by the variance, the published code by the standard deviation; we follow the code.)

The score of every pair follows from sums over the images, which are whole numbers: they can be taken in any parts and
any order and added up to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import OPSConfig
from raydvae.errors import ConfigError, DataError

Whole = npt.NDArray[np.int64]
COLORS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], dtype=np.int64)


@dataclass(slots=True)
class OPSStatistics:
    """Sums over the images of each class: ``count`` (C,), ``sums`` and ``squares`` (C, H, W, 3), in byte levels."""

    count: Whole
    sums: Whole
    squares: Whole

    @classmethod
    def empty(cls, image_size: int, num_classes: int) -> OPSStatistics:
        """Return the statistics of no images."""
        shape = (num_classes, image_size, image_size, 3)
        return cls(np.zeros(num_classes, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def update(self, images: Array, labels: npt.NDArray[np.int64]) -> None:
        """Add images (N, H, W, 3) uint8 of classes ``labels`` (N,)."""
        if images.shape[1:] != self.sums.shape[1:]:
            raise DataError(f"Images are {images.shape[1:]}; these statistics are of images {self.sums.shape[1:]}.")
        for label in np.unique(labels):
            values = images[labels == label].astype(np.int64)
            self.count[label] += len(values)
            self.sums[label] += values.sum(axis=0)
            self.squares[label] += np.square(values).sum(axis=0)

    def merge(self, other: OPSStatistics) -> None:
        """Add what another worker has seen."""
        self.count += other.count
        self.sums += other.sums
        self.squares += other.squares

    def scores(self, label: int) -> npt.NDArray[np.float64]:
        """Return the score of every position and color (H, W, 8) for one class; 0 where it has no images."""
        count = int(self.count[label])
        plain, square = self.sums[label][..., None, :], self.squares[label][..., None, :]
        if not count:
            return np.zeros((*plain.shape[:2], len(COLORS)))
        light = COLORS == 255  # |255 - x| and its square, from the sums of x and x²
        total = np.where(light, 255 * count - plain, plain).sum(axis=-1)
        squared = np.where(light, 255**2 * count - 510 * plain + square, square).sum(axis=-1)
        # mean / deviation = total / sqrt(n · squared - total²). Python's whole numbers neither overflow nor round, so
        # that a pixel that never varies has a deviation of exactly 0, and the best score there is.
        spread = (3 * count * squared.astype(object) - total.astype(object) ** 2).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.nan_to_num(total / np.sqrt(spread), nan=0.0, posinf=np.inf))


class OPS:
    """The chosen pixel and color of each class."""

    def __init__(self, config: OPSConfig, statistics: OPSStatistics) -> None:
        classes, height, width, _ = statistics.sums.shape
        if classes < 2:
            raise ConfigError(f"OPS has a pixel a class, and this data set has {classes}; it needs at least 2.")
        if classes > height * width * len(COLORS):
            raise ConfigError(
                f"{classes} classes need more than the {height * width * len(COLORS)} pairs of position and color of "
                f"{width} px images; use larger images."
            )
        self.config = config
        self.bound = Bound("l0", 1)
        self.pixels = np.zeros((classes, 2), dtype=np.int64)
        self.colors = np.zeros((classes, 3), dtype=np.int64)
        taken: list[int] = []
        for label in range(classes):
            scores = statistics.scores(label).reshape(-1)
            scores[taken] = -1
            best = int(scores.argmax())
            taken.append(best)
            row, column, color = np.unravel_index(best, (height, width, len(COLORS)))
            self.pixels[label] = row, column
            self.colors[label] = COLORS[color]

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`: what takes each image's pixel to the color of its class."""
        out = np.zeros(images.shape, dtype=np.float32)
        rows = np.arange(len(images))
        y, x = self.pixels[labels].T
        out[rows, y, x] = (self.colors[labels] - images[rows, y, x].astype(np.int64)) / 255
        return out
