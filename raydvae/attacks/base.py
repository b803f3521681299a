"""What all attacks share: the bound, the rounding rule, and the interface.

An attack gives noise for rows; `apply` adds it to the images as bytes. Rounding rule: noise is rounded to whole levels
of 1/255 towards the nearest; where an image's rounded noise then breaks the bound, its noise is shrunk a little and
rounded again, until it does not. So the bound holds for the stored bytes, not only for the floats they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Norm = Literal["l2", "linf", "l0"]


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that an image may change: ``size`` in units of [0, 1] images (l0: changed pixels)."""

    norm: Norm
    size: float


class Attack(Protocol):
    """A poisoner of rows. It holds all it needs (clusters, frozen surrogates), so units go in any order."""

    bound: Bound

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """Return the noise (N, H, W, 3), in units of [0, 1] images, for ``images`` (N, H, W, 3) uint8."""
        ...


def measure(delta: npt.NDArray[np.floating], norm: Norm) -> npt.NDArray[np.float64]:
    """Return the norm of each image's change (N, H, W, 3); l0 counts pixels of which any channel changed."""
    values = delta.astype(np.float64)
    if norm == "l2":
        return np.asarray(np.sqrt(np.square(values).sum(axis=(1, 2, 3))))
    if norm == "linf":
        return np.asarray(np.abs(values).max(axis=(1, 2, 3), initial=0.0))
    return np.asarray((values != 0).any(axis=3).sum(axis=(1, 2)), np.float64)


def apply(images: Array, noise: Floats, bound: Bound) -> Array:
    """Return ``images`` (N, H, W, 3) with ``noise`` added under the rounding rule, clipped to bytes."""
    levels = noise.astype(np.float64) * 255
    base = images.astype(np.float64)
    out = np.clip(np.rint(base + levels), 0, 255)
    if bound.norm == "l0":
        return out.astype(np.uint8)
    for _ in range(64):
        size = measure((out - base) / 255, bound.norm)
        over = np.flatnonzero(size > bound.size * (1 + 1e-9))
        if not len(over):
            break
        levels[over] *= np.minimum(bound.size / size[over], 0.999)[:, None, None, None]
        out[over] = np.clip(np.rint(base[over] + levels[over]), 0, 255)
    else:  # bounds below half a level can only be kept by changing nothing
        out[over] = base[over]
    return out.astype(np.uint8)
