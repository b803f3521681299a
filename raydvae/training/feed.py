"""Images in memory, and the order in which training sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydvae.errors import DataError
from raydvae.seeds import derive


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Decoded images (N, 3, H, W) uint8 and their labels (N,) int64, on one device.

    A byte a value: 50,000 CIFAR images are 150 MB. Conversion to float happens a batch at a time.
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

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return float images in [0, 1] and labels at ``indices``."""
        images = self.images[indices].to(torch.float32, memory_format=torch.channels_last)
        return images.div_(255), self.labels[indices]


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Return the permutation of ``rows`` for an epoch: a function of seed and epoch, so a resumed run sees the same."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(rows, generator=generator)
