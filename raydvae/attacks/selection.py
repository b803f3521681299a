"""Which rows of a data set are poisoned when not all are: seeded, exact in number, and independent of sharding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydvae.errors import ConfigError
from raydvae.seeds import derive

EVERY_CLASS = -1


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows whose key is at most their class's threshold; a worker can tell without knowing the other rows."""

    seed: int
    thresholds: dict[int, int]

    def mask(self, row_ids: Sequence[str], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of the rows are poisoned."""
        default = self.thresholds.get(EVERY_CLASS, -1)
        return np.array(
            [
                _key(self.seed, row_id) <= self.thresholds.get(int(label), default)
                for row_id, label in zip(row_ids, labels, strict=True)
            ],
            dtype=np.bool_,
        )


def select(rows: Iterable[tuple[str, int]], ratio: float, seed: int, stratified: bool = False) -> Selection:
    """Choose round(ratio x N) of ``rows``, pairs of id and class; ``stratified`` does so within each class.

    Raises `ConfigError` for a ratio outside of [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ConfigError(f"The ratio of poisoned rows is {ratio}; give a number between 0 and 1.")
    if ratio == 1:
        return Selection(seed, {EVERY_CLASS: 2**63})
    keys: dict[int, list[int]] = {}
    for row_id, label in rows:
        keys.setdefault(label if stratified else EVERY_CLASS, []).append(_key(seed, row_id))
    thresholds = {}
    for label, values in keys.items():
        count = math.floor(ratio * len(values) + 0.5)
        thresholds[label] = sorted(values)[count - 1] if count else -1
    return Selection(seed, thresholds)


def _key(seed: int, row_id: str) -> int:
    return derive(seed, "poisoned", row_id)
