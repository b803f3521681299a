"""What training reads: images in memory here, a stream of them in `raydvae.training.stream`; and how an epoch is cut.

An epoch's rows are cut into batches and each batch into slices. Nothing is dropped: the last batch is smaller, or takes
up what would have been too small for a batch of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydvae.errors import ConfigError, DataError
from raydvae.seeds import derive

Slice = tuple[Tensor, Tensor]  # images (n, 3, H, W) uint8 and labels (n,) int64


@dataclass(frozen=True, slots=True)
class Cut:
    """How ``rows`` become batches of ``batch`` rows in ``slices`` slices; only the last batch may have another size."""

    rows: int
    batch: int
    slices: int

    @classmethod
    def of(cls, rows: int, batch_size: int, slices: int) -> Cut:
        """Return the cut for batches of at most ``batch_size`` rows; slices of less than 2 are `ConfigError`."""
        batch = batch_size - batch_size % slices
        if min(batch, rows) < 2 * slices:
            raise ConfigError(
                f"A batch of {min(batch_size, rows)} images cannot be cut into {slices} slices of at least 2; "
                f"use fewer slices, a larger batch or more rows (there are {rows})."
            )
        return cls(rows, min(batch, rows), slices)

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch. A remainder of at least half a batch is one; a smaller one joins the last batch."""
        full, rest = divmod(self.rows, self.batch)
        if 2 * rest >= max(self.batch, 4 * self.slices):
            return [self.batch] * full + [rest]
        return [self.batch] * (full - 1) + [self.batch + rest]

    def share(self, size: int) -> list[int]:
        """Rows of each slice of a batch of ``size`` rows: as equal as can be, larger ones first."""
        return [size // self.slices + (index < size % self.slices) for index in range(self.slices)]

    def totals(self) -> list[int]:
        """Rows of each slice in the whole epoch."""
        last = self.share(self.sizes[-1])
        return [(len(self.sizes) - 1) * (self.batch // self.slices) + rows for rows in last]


class Feed(Protocol):
    """The rows of a training, in an order that is a function of seed and epoch only."""

    def __len__(self) -> int:
        """Return the rows of an epoch."""
        ...

    def epoch(self, cut: Cut, seed: int, epoch: int, mine: range) -> Iterator[list[Slice]]:
        """Yield every step's slices ``mine``; over all slices and steps each row comes once."""
        ...


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Decoded images (N, 3, H, W) uint8 and their labels (N,) int64, on one device.

    A byte a value: 50,000 CIFAR images are 150 MB. Conversion to float happens a slice at a time.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise DataError(
                f"Images are {tuple(self.images.shape)} {self.images.dtype}; expected (N, 3, H, W) torch.uint8."
            )
        if len(self.images) != len(self.labels):
            raise DataError(f"There are {len(self.images)} images but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSet:
        """Return the set on ``device``, in the memory layout that convolutions like."""
        images = self.images.to(device).contiguous(memory_format=torch.channels_last)
        return ImageSet(images, self.labels.to(device))

    def epoch(self, cut: Cut, seed: int, epoch: int, mine: range) -> Iterator[list[Slice]]:
        """See `Feed.epoch`; rows are in one permutation of the whole set."""
        order = epoch_order(len(self), seed, epoch).to(self.images.device)
        start = 0
        for size in cut.sizes:
            parts = torch.split(order[start : start + size], cut.share(size))
            start += size
            yield [(self.images[parts[part]], self.labels[parts[part]]) for part in mine]


def to_float(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) uint8 as float32 in [0, 1]."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return the permutation of ``rows`` for an epoch: a function of seed and epoch, so a resumed run sees the same."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(rows, generator=generator)
