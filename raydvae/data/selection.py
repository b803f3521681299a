"""Some rows of a data set, chosen by a seed or marked one by one, however the rows are cut into files."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.errors import ConfigError
from raydvae.seeds import derive

EVERY_CLASS = -1
PAGE = 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows whose key is at most their class's threshold; a worker can tell without knowing the other rows."""

    seed: int
    thresholds: dict[int, int]

    @property
    def about(self) -> list[Any]:
        """What makes the choice, for telling one training from another."""
        return [self.seed]

    def mask(self, row_ids: Sequence[str], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of the rows are selected."""
        default = self.thresholds.get(EVERY_CLASS, -1)
        return np.array(
            [
                _key(self.seed, row_id) <= self.thresholds.get(int(label), default)
                for row_id, label in zip(row_ids, labels, strict=True)
            ],
            dtype=np.bool_,
        )


class RowSet:
    """Rows by the file and number of their ids, a bit each in pages of `PAGE` rows.

    Memory follows the rows that are in it, whatever their numbers: those come from outside, in the files' metadata.
    """

    def __init__(self) -> None:
        self.pages: dict[str, dict[int, bytearray]] = {}

    def add(self, file: str, row: int) -> bool:
        """Put a row in; return whether it is new."""
        pages = self.pages.setdefault(file, {})
        page, (byte, bit) = row // PAGE, divmod(row % PAGE, 8)
        bits = pages.setdefault(page, bytearray(PAGE // 8))
        new = not bits[byte] >> bit & 1
        bits[byte] |= 1 << bit
        return new

    def has(self, file: str, row: int) -> bool:
        """Whether a row is in it."""
        byte, bit = divmod(row % PAGE, 8)
        bits = self.pages.get(file, {}).get(row // PAGE)
        return bits is not None and bool(bits[byte] >> bit & 1)


@dataclass(frozen=True, slots=True)
class Marked:
    """Rows that are marked one by one; ``fingerprint`` stands for all of them.

    Some 25 MB for 100 million rows, in each process that reads them; a set of their ids would be several GB.
    """

    rows: RowSet
    fingerprint: str

    @classmethod
    def of(cls, row_ids: Iterable[str], fingerprint: str) -> Marked:
        """Return the rows that have these ids."""
        rows = RowSet()
        for row_id in row_ids:
            rows.add(*split_id(row_id))
        return cls(rows, fingerprint)

    @property
    def about(self) -> list[Any]:
        """What makes the choice, for telling one training from another."""
        return [self.fingerprint]

    def mask(self, row_ids: Sequence[str], labels: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.bool_]:
        """Return which of the rows are marked; classes play no part."""
        return np.array([self.rows.has(*split_id(row_id)) for row_id in row_ids], dtype=np.bool_)


Choice = Selection | Marked


def split_id(row_id: str) -> tuple[str, int]:
    """Return the file and the row that ``row_id`` means, or an empty name and -1 where it is no row id."""
    file, sign, row = row_id.rpartition("#")
    return (file, int(row)) if sign and row.isascii() and row.isdecimal() else ("", -1)


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


def sample(data: Dataset, classes: Classes, rows: int, seed: int) -> Selection:
    """Choose ``rows`` rows of a data set, each class in proportion, from its labels and row ids alone.

    Every class gets at least one row. Memory is that of the chosen rows. Raises `ConfigError` where there are not so
    many rows, or fewer asked for than classes.
    """
    counts: dict[int, int] = {}
    for unit_labels in _labels(data, classes):
        for label, count in zip(*np.unique(unit_labels[1], return_counts=True), strict=True):
            if label >= 0:
                counts[int(label)] = counts.get(int(label), 0) + int(count)
    total = sum(counts.values())
    if not max(1, len(counts)) <= rows <= total:
        raise ConfigError(
            f"{rows} rows cannot be sampled of {total} usable ones in {len(counts)} classes; "
            f"give a number between {len(counts)} and {total}."
        )
    wanted = _apportion(counts, rows)
    smallest: dict[int, list[int]] = {label: [] for label in counts}  # heaps of negated keys: the largest on top
    for row_ids, labels in _labels(data, classes):
        for row_id, label in zip(row_ids, labels.tolist(), strict=True):
            if label < 0:
                continue
            heap, key = smallest[label], -_key(seed, row_id)
            if len(heap) < wanted[label]:
                heapq.heappush(heap, key)
            elif key > heap[0]:
                heapq.heapreplace(heap, key)
    return Selection(seed, {label: -heap[0] for label, heap in smallest.items()})


def _labels(data: Dataset, classes: Classes) -> Iterable[tuple[list[str], npt.NDArray[np.int64]]]:
    for unit in data.units():
        table = data.read(unit, columns=[data.schema.label])
        yield unit.row_ids(), classes.numbers(table.column(0))


def _apportion(counts: dict[int, int], rows: int) -> dict[int, int]:
    """Share ``rows`` among classes by their size: whole parts first, at least one, then the largest remainders."""
    total = sum(counts.values())
    exact = {label: rows * count / total for label, count in counts.items()}
    out = {label: max(1, math.floor(value)) for label, value in exact.items()}
    for label in sorted(exact, key=lambda name: (out[name] - exact[name], name)):  # furthest below its share first
        if sum(out.values()) < rows:
            out[label] += 1
    while sum(out.values()) > rows:  # the least that small classes got came from the largest ones
        out[max(out, key=lambda name: (out[name], name))] -= 1
    return out


def _key(seed: int, row_id: str) -> int:
    return derive(seed, "poisoned", row_id)
