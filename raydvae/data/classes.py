"""Which labels a data set has, and the numbers that stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.data import labels
from raydvae.data.columns import is_list
from raydvae.data.dataset import Dataset
from raydvae.errors import ConfigError, DataError

MAX_CLASSES = 100_000
FEW_IDS, SPARSE = 100, 10  # ids beyond the first hundred are sparse where not one in ten is in use


@dataclass(frozen=True, slots=True)
class Classes:
    """How label values become class numbers: themselves, or their place in a list of texts or of ids.

    ``ids`` are set where the labels are numbers far apart (7, 300, 99999): class k has the label ``ids[k]``, and is
    named so.
    """

    count: int
    names: tuple[str, ...] | None
    text: bool
    ids: tuple[int, ...] | None = None

    def numbers(self, column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
        """Return class numbers; -1 for null and everything outside of 0..count - 1."""
        found = labels.values(column)
        if self.text or self.ids is not None:
            listed = self.names if self.text else self.ids
            assert listed is not None
            index: dict[Any, int] = {label: number for number, label in enumerate(listed)}
            return np.array([index.get(value, -1) for value in found], dtype=np.int64)
        count = self.count
        return np.array([v if isinstance(v, int) and 0 <= v < count else -1 for v in found], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return what a run's folder keeps, for `from_dict`."""
        known: dict[str, Any] = {"count": self.count, "names": self.names}
        return known if self.ids is None else known | {"ids": self.ids}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any], data: Dataset) -> Classes:
        """Return the classes that a run's folder keeps, for the labels of ``data``."""
        names, ids = known["names"], known.get("ids")
        return cls(known["count"], names and tuple(names), data.schema.labels_are_text, ids and tuple(ids))


def find_classes(dataset: Dataset, num_classes: int | None = None) -> Classes:
    """Return the classes of a data set: as asked for, as its schema names them, or as its labels show (one scan).

    Numbers are classes themselves; where they lie far apart, the different ones are counted instead. Raises
    `DataError` where the column holds no labels, more than `MAX_CLASSES` or something else.
    """
    if num_classes is not None and num_classes > MAX_CLASSES:
        raise ConfigError(f"{num_classes} classes are asked for, and at most {MAX_CLASSES} can be told apart.")
    names = dataset.schema.class_names
    if names is not None and len(names) > MAX_CLASSES:
        raise _too_many(dataset)
    if dataset.schema.labels_are_text:
        names = tuple(sorted(str(label) for label in _scan(dataset))) if names is None else names
        return _checked(Classes(len(names), names, text=True), dataset)
    if num_classes is not None:
        known = names if names and len(names) == num_classes else None
        return (None if names else _sparse_in(dataset, num_classes)) or Classes(num_classes, known, text=False)
    if names is not None:
        return Classes(len(names), names, text=False)
    found = {label for label in _scan(dataset) if isinstance(label, int)}
    ids = sorted(label for label in found if label >= 0)
    if found == {-1, 1}:
        raise DataError(
            f"Column {dataset.schema.label!r} of {dataset.store.uri} holds -1 and 1, and classes are numbered from 0: "
            "write 0 and 1, as by (column + 1) / 2."
        )
    if _are_sparse(ids):
        return _of_ids(ids)
    return _checked(Classes(ids[-1] + 1 if ids else 0, None, text=False), dataset, negative=bool(found))


def _sparse_in(dataset: Dataset, most: int) -> Classes | None:
    """Return the classes of ids far apart, if these are not more than ``most`` and mostly beyond: a few are strays.

    All labels are scanned only where the first file's are not numbers below ``most`` anyway.
    """
    first = next(iter(dataset.labels()), None)
    if first is None or all(isinstance(label, int) and label < most for label in labels.distinct(first)):
        return None
    ids = sorted(label for label in _scan(dataset) if isinstance(label, int) and label >= 0)
    beyond = sum(label >= most for label in ids)
    return _of_ids(ids) if _are_sparse(ids) and len(ids) <= most and 2 * beyond > len(ids) else None


def _are_sparse(ids: list[int]) -> bool:
    return bool(ids) and ids[-1] + 1 > max(FEW_IDS, SPARSE * len(ids))


def _of_ids(ids: list[int]) -> Classes:
    return Classes(len(ids), tuple(str(label) for label in ids), text=False, ids=tuple(ids))


def _scan(dataset: Dataset) -> set[labels.Label]:
    """Return the different labels of all files."""
    seen: set[labels.Label] = set()
    for column in dataset.labels():
        seen |= labels.distinct(column)
        broken = next((label for label in seen if isinstance(label, float)), None)
        if broken is not None:
            raise DataError(
                f"Column {dataset.schema.label!r} of {dataset.store.uri} holds {broken}, which is no class: classes "
                "are whole numbers or texts. Round it and cast it to int64, or name the right column in "
                "data.label_column."
            )
        if len(seen) > MAX_CLASSES:
            raise _too_many(dataset)
    return seen


def _too_many(dataset: Dataset) -> DataError:
    return DataError(
        f"Column {dataset.schema.label!r} of {dataset.store.uri} has more than {MAX_CLASSES} different labels; that is "
        "no class label. Name the right column in data.label_column."
    )


def _checked(classes: Classes, dataset: Dataset, negative: bool = False) -> Classes:
    if classes.count < 1:
        why = "it has no rows" if not dataset.rows else "all are null"
        if dataset.rows and is_list(dataset.schema.arrow.field(dataset.schema.label).type):
            why = (
                "all are null, or lists of none or several labels, and a row has one. Of one-hot lists write the place "
                "of the 1, as by numpy.argmax"
            )
        if negative:
            why = "all are negative, as -1 is where a test split hides them"
        raise DataError(f"Column {dataset.schema.label!r} of {dataset.store.uri} holds no usable label: {why}.")
    return classes
