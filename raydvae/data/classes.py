"""Which labels a data set has, and the numbers that stand for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.data.dataset import Dataset
from raydvae.errors import DataError

MAX_TEXT_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Classes:
    """How label values become class numbers: themselves, or their place in a list of texts."""

    count: int
    names: tuple[str, ...] | None
    text: bool

    def numbers(self, labels: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
        """Return class numbers; -1 for null and everything outside of 0..count - 1."""
        if self.text:
            assert self.names is not None
            index = {name: number for number, name in enumerate(self.names)}
            return np.array([index.get(value, -1) for value in labels.to_pylist()], dtype=np.int64)
        values = labels.to_pylist()
        return np.array([v if v is not None and 0 <= v < self.count else -1 for v in values], dtype=np.int64)


def find_classes(dataset: Dataset, num_classes: int | None = None) -> Classes:
    """Return the classes of a data set: as asked for, as its schema names them, or as its labels show (one scan)."""
    names = dataset.schema.class_names
    if dataset.schema.labels_are_text:
        if names is None:
            seen: set[str] = set()
            for column in dataset.labels():
                seen.update(value for value in column.unique().to_pylist() if value is not None)
                if len(seen) > MAX_TEXT_CLASSES:
                    raise DataError(
                        f"Column {dataset.schema.label!r} of {dataset.store.uri} has more than {MAX_TEXT_CLASSES} "
                        "different texts; that is no class label. Name the right column in data.label_column."
                    )
            names = tuple(sorted(seen))
        return _checked(Classes(len(names), names, text=True), dataset)
    if num_classes is not None:
        return _checked(
            Classes(num_classes, names if names and len(names) == num_classes else None, text=False), dataset
        )
    if names is not None:
        return Classes(len(names), names, text=False)
    top = -1
    for column in dataset.labels():
        top = max([top, *(value for value in column.unique().to_pylist() if value is not None)])
    return _checked(Classes(top + 1, None, text=False), dataset)


def _checked(classes: Classes, dataset: Dataset) -> Classes:
    if classes.count < 1:
        raise DataError(f"Column {dataset.schema.label!r} of {dataset.store.uri} holds no usable label.")
    return classes
