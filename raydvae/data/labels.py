"""Label columns: which types are read, and the values in them as whole numbers or texts."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from raydvae.data.columns import is_list

Label = int | float | str | None  # a float is one that is no whole number, and so no label
READ_TYPES = (
    "whole numbers (of any integer, float, decimal or boolean type), texts (string or binary), dictionaries of them, "
    "and lists of exactly one"
)


def fits(kind: pa.DataType) -> bool:
    """Whether a column of type ``kind`` can hold labels."""
    inner = _inner(kind)
    numbers = (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_decimal)
    return is_text(kind) or any(test(inner) for test in numbers)


def is_text(kind: pa.DataType) -> bool:
    """Whether the labels of a column of type ``kind`` are texts rather than numbers."""
    kind = _inner(kind)
    tests = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_binary, pt.is_large_binary, pt.is_binary_view)
    return any(test(kind) for test in tests)


def unread(kind: pa.DataType) -> str:
    """Return what to do with a column of type ``kind`` that cannot hold labels."""
    return f"read are {READ_TYPES}: cast it, or set data.label_column in a --config file to another column"


def plain(rows: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Return ``rows`` as Python has them, None for forged texts that are not UTF-8."""

    def one(value: pa.Scalar) -> Any:
        try:
            return value.as_py()
        except UnicodeDecodeError:
            return None

    try:
        return list(rows.to_pylist())
    except UnicodeDecodeError:
        return [one(value) for value in rows]


def values(rows: pa.ChunkedArray | pa.Array) -> list[Label]:
    """Return the labels in ``rows``: None for null, NaN, text that is not UTF-8 and lists of none or several."""
    kind = _inner(rows.type)
    found = plain(rows)
    if (pt.is_integer(kind) or is_text(rows.type)) and not is_list(rows.type) and not _bytes(kind):
        return list(found)
    return [_one(value) for value in found]


def distinct(rows: pa.ChunkedArray) -> set[Label]:
    """Return the different labels in ``rows``, without None."""
    found = values(rows if is_list(rows.type) else rows.unique())
    return {value for value in found if value is not None}


def _inner(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if is_list(kind):
        kind = kind.value_type
    return kind.value_type if pt.is_dictionary(kind) else kind


def _bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _one(value: object) -> Label:
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    number = float(value)  # type: ignore[arg-type]
    if number != number:
        return None
    whole = int(value) if abs(number) < float("inf") else 0  # type: ignore[call-overload]
    return whole if whole == value else number
