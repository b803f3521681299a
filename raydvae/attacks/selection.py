"""Partial poisoning: which rows of a data set are poisoned.

Every row draws a number from its id, and the rows with the smallest numbers are taken. So the choice is seeded, has an
exact size, grows with the ratio (what is poisoned at 0.2 is poisoned at 0.4), and does not depend on how or in which
order the rows are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from raydvae.errors import ConfigError
from raydvae.seeds import derive


def select(rows: Iterable[tuple[str, int]], ratio: float, seed: int, stratified: bool = False) -> set[str]:
    """Return the ids of the poisoned rows, of ``rows`` as pairs of row id and class number.

    Exactly ``ratio`` of all rows, rounded half up. ``stratified`` takes the same share of every class, to within one
    row; the total stays exact.
    """
    if not 0 <= ratio <= 1:
        raise ConfigError(f"The ratio of poisoned rows is {ratio}; give a share between 0 and 1.")
    drawn: dict[int, list[tuple[int, str]]] = {}
    for row_id, label in rows:
        drawn.setdefault(label if stratified else 0, []).append((derive(seed, "poison", row_id), row_id))
    quotas = _quotas({label: len(found) for label, found in drawn.items()}, ratio)
    return {row_id for label, found in drawn.items() for _, row_id in sorted(found)[: quotas[label]]}


def _quotas(counts: dict[int, int], ratio: float) -> dict[int, int]:
    """Share round(ratio · all) among classes: whole parts first, then one each by the largest remainder."""
    exact = {label: ratio * count for label, count in counts.items()}
    quotas = {label: math.floor(value) for label, value in exact.items()}
    missing = math.floor(ratio * sum(counts.values()) + 0.5) - sum(quotas.values())
    by_remainder = sorted(counts, key=lambda label: (quotas[label] - exact[label], label))
    for label in by_remainder[: max(0, missing)]:
        quotas[label] += 1
    return quotas
