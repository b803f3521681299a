"""LSP: linearly separable perturbations (Yu et al., "Availability Attacks Create Shortcuts", KDD 2022).

Each class is a Gaussian cluster around its own vertex of a hypercube; a sample of its cluster is drawn for every image,
laid out as a coarse grid of colored patches and scaled to the bound. The published code takes the clusters from
scikit-learn's make_classification (class_sep 10, one cluster a class), which makes all rows of a data set at once; here
the same distribution is drawn a row at a time, seeded by the row's id, so that shards are independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import LSPConfig
from raydvae.errors import ConfigError
from raydvae.seeds import derive

CLASS_SEPARATION = 10.0  # as published: half the side of the hypercube, in units of the clusters' own noise


class LSP:
    """The perturbations of one data set: any row's can be drawn on its own, in any order, by any worker."""

    def __init__(self, config: LSPConfig, image_size: int, num_classes: int) -> None:
        if num_classes < 2:
            raise ConfigError(f"LSP separates classes, and this data set has {num_classes}; it needs at least 2.")
        if image_size % config.patch:
            raise ConfigError(
                f"Patches of {config.patch} px do not tile images of {image_size} px; choose a divisor of {image_size}."
            )
        self.config = config
        self.bound = Bound("l2", config.norm)
        self.grid = image_size // config.patch
        self.features = self.grid**2 * 3
        rng = np.random.default_rng(derive(config.seed, "lsp", "clusters"))
        self.centers = CLASS_SEPARATION * _vertices(num_classes, self.features, rng)
        self.transforms = rng.uniform(-1, 1, (num_classes, self.features, self.features))

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; the images themselves do not matter."""
        return np.stack([self._row(int(label), row_id) for label, row_id in zip(labels, row_ids, strict=True)])

    def _row(self, label: int, row_id: str) -> Floats:
        rng = np.random.default_rng(derive(self.config.seed, "lsp", row_id))
        vector = rng.standard_normal(self.features) @ self.transforms[label] + self.centers[label]
        vector *= self.config.norm / np.linalg.norm(vector) / self.config.patch
        cells = vector.reshape(self.grid, self.grid, 3)
        return np.kron(cells, np.ones((self.config.patch, self.config.patch, 1))).astype(np.float32)


def _vertices(count: int, dimensions: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return ``count`` different vertices of the hypercube [-1, 1]^dimensions."""
    if count > 2**dimensions:
        raise ConfigError(
            f"{count} classes need more than the {2**dimensions} patterns of this grid; use smaller patches."
        )
    chosen: dict[bytes, npt.NDArray[np.float64]] = {}
    while len(chosen) < count:
        vertex = rng.integers(0, 2, dimensions).astype(np.float64)
        chosen.setdefault(vertex.tobytes(), 2.0 * vertex - 1.0)
    return np.stack(list(chosen.values()))
