"""Parquet files from outside, opened so that none of them can take the process down.

A forged or encrypted footer makes pyarrow's accessors of metadata abort: they let C++ exceptions through. So the footer
is read here first, by a bounded reader of its own encoding (Thrift's compact protocol), and only a footer whose every
promise fits the file's size is handed to pyarrow, whose opening and reading raise Python errors for all else.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.errors import DataError

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
TAIL = 64 * 2**10  # bytes read at first: the whole footer of most files
MAX_VALUES = 8_000_000  # bytes of a footer that are no text: 80,000 columns of row groups, read in seconds
MAX_DEPTH = 32
# What a row group may promise whatever the file's size, and what a byte of the file may stand for beyond that: a few
# bytes can encode any number of equal values, but images are not equal.
FREE_ROWS, ROWS_A_BYTE = 2**20, 1
FREE_VALUES, VALUES_A_BYTE = 2**26, 256

# Wire types; of a field that is wanted, the type, and of a list or a structure what is in it.
BOOL, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 2, 4, 5, 6, 7, 8, 9, 12
Kind = int | tuple[int, Any]
STATISTICS: dict[int, Kind] = {1: BINARY, 2: BINARY, 3: I64, 4: I64, 5: BINARY, 6: BINARY}
CHUNK_DATA: dict[int, Kind] = {
    1: I32,  # type
    2: (LIST, I32),  # encodings
    3: (LIST, BINARY),  # path
    4: I32,  # codec
    5: I64,  # values
    6: I64,  # uncompressed size
    7: I64,  # compressed size
    9: I64,  # offset of the first data page
    11: I64,  # offset of the dictionary page
    12: (STRUCT, STATISTICS),
    16: (STRUCT, {1: I64, 2: (LIST, I64), 3: (LIST, I64)}),  # sizes
}
CHUNK: dict[int, Kind] = {1: BINARY, 2: I64, 3: (STRUCT, CHUNK_DATA), 8: (STRUCT, {}), 9: BINARY}
GROUP: dict[int, Kind] = {1: (LIST, (STRUCT, CHUNK)), 2: I64, 3: I64}
ELEMENT: dict[int, Kind] = {1: I32, 2: I32, 3: I32, 4: BINARY, 5: I32, 6: I32}
FOOTER: dict[int, Kind] = {
    1: I32,
    2: (LIST, (STRUCT, ELEMENT)),
    3: I64,
    4: (LIST, (STRUCT, GROUP)),
    6: BINARY,
    8: (STRUCT, {}),
}
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 5: "lz4", 6: "zstd", 7: "lz4"}
ENCODINGS = {0, 2, 3, 4, 5, 6, 7, 8, 9}
BYTES_OF = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}  # of a value of a type, in statistics; 6 is of any length


def check_parquet(source: Any, where: str) -> bytes:
    """Return the end of the parquet file ``source`` (open for reading), a parquet file of its own without rows' bytes.

    `DataError`, which names ``where``, unless the footer is whole and promises only what a file of this size can hold.
    """
    size = source.seek(0, os.SEEK_END)
    tail = _end(source, size, min(size, TAIL))
    if tail[-4:] == ENCRYPTED:
        raise DataError(_encrypted(where))
    if size < 12 or tail[-4:] != MAGIC:
        raise DataError(
            f"{where} is not a readable parquet file: it does not end as one; it is something else, or was cut off."
        )
    length = int.from_bytes(tail[-8:-4], "little")
    if length > size - 12:
        raise DataError(f"{where} is not a readable parquet file: its footer of {length} bytes is more than the file.")
    if len(tail) < length + 8:
        tail = _end(source, size, length + 8)
    try:
        footer = _Compact(tail[-8 - length : -8]).read(FOOTER)
        if 8 in footer or any(8 in chunk or 9 in chunk for group in footer[4] for chunk in group[1]):
            raise DataError(_encrypted(where))
        _check(footer, size, size - 8 - length)
    except (KeyError, ValueError, IndexError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{where} is not a readable parquet file: its footer is damaged or forged ({what}). Write the file again."
        ) from None
    return MAGIC + tail[-8 - length :]


def open_parquet(data: bytes, where: str) -> pq.ParquetFile:
    """Open the parquet file ``data``; `DataError`, which names ``where``, if it is none that can be read."""
    check_parquet(io.BytesIO(data), where)
    with parquet_errors(where):
        return pq.ParquetFile(pa.BufferReader(data))


@contextlib.contextmanager
def parquet_errors(where: str) -> Iterator[None]:
    """Raise what pyarrow raises of a damaged file as a `DataError` that names ``where``."""
    try:
        yield
    except MemoryError:
        raise DataError(
            f"{where} asks for more memory than there is: it is damaged or forged, or its row groups are too large. "
            "Write it again with smaller ones."
        ) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{where} is not a readable parquet file: {error or type(error).__name__}.") from None


def _end(source: Any, size: int, count: int) -> bytes:
    source.seek(size - count)
    data: bytes = source.read(count)
    return data


def _encrypted(where: str) -> str:
    return f"{where} is encrypted, and raydvae has no keys; write it again without encryption."


def _check(footer: dict[int, Any], size: int, end: int) -> None:
    leaves = _leaves(footer[2])
    rows = 0
    for group in footer[4]:
        if len(group[1]) != len(leaves):
            raise ValueError(f"a row group of {len(group[1])} columns where there are {len(leaves)}")
        _bounded("rows", group[3], max(FREE_ROWS, ROWS_A_BYTE * size))
        for chunk, leaf in zip(group[1], leaves, strict=True):
            if chunk.get(1):
                raise ValueError("its columns lie in other files")
            _check_chunk(chunk[3], leaf, end)
        values = sum(chunk[3][5] for chunk in group[1])
        _bounded("values", values, max(FREE_VALUES, VALUES_A_BYTE * size))
        rows += group[3]
    if footer[3] != rows:
        raise ValueError(f"{footer[3]} rows, but {rows} in its row groups")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column that holds values: its type, their width, and how deep they are repeated and can be missing."""

    kind: int
    width: int
    repeated: int
    optional: int


def _leaves(elements: list[dict[int, Any]]) -> list[_Leaf]:
    """Return the columns that hold values; `ValueError` where the elements are no tree."""
    leaves: list[_Leaf] = []
    open_groups = [(1, 0, 0)]  # children still to come, and how deep their values are repeated and optional
    for at, element in enumerate(elements):
        while open_groups and not open_groups[-1][0]:
            open_groups.pop()
        children = element.get(5, 0)
        element[4].decode("utf-8")
        if not open_groups or not 0 <= children <= len(elements):
            raise ValueError("columns that are no tree")
        missing, repeated, optional = open_groups.pop()
        open_groups.append((missing - 1, repeated, optional))
        if at:  # the root counts for nothing
            repeated += element.get(3, 0) == 2
            optional += element.get(3, 0) in (1, 2)
        if children:
            open_groups.append((children, repeated, optional))
        elif 1 in element:
            leaves.append(_Leaf(_bounded("type", element[1], 7), element.get(2, 0), repeated, optional))
    if any(missing for missing, _, _ in open_groups):
        raise ValueError("columns that are no tree")
    return leaves


def _check_chunk(chunk: dict[int, Any], leaf: _Leaf, end: int) -> None:
    if chunk[1] != leaf.kind:
        raise ValueError(f"a column of type {chunk[1]} where its schema says {leaf.kind}")
    if chunk[4] and not (chunk[4] in CODECS and pa.Codec.is_available(CODECS[chunk[4]])):
        name = "lzo" if chunk[4] == 3 else CODECS.get(chunk[4], f"number {chunk[4]}")
        raise ValueError(f"compression {name}, which is not supported")
    if not ENCODINGS.issuperset(chunk[2]):
        raise ValueError(f"encodings {chunk[2]}")
    _bounded("values", chunk[5], 2**62)
    _bounded("uncompressed bytes", chunk[6], 2**62)
    offsets = [offset for offset in (chunk[9], chunk.get(11, 0)) if offset]  # some writers put 0 for "none"
    start = min(offsets, default=0)
    if start < 0 or chunk[7] < 0 or max(start + chunk[7], *offsets, 0) > end:
        raise ValueError("a column that lies beyond the file's end")
    for part in chunk[3]:
        part.decode("utf-8")
    statistics = chunk.get(12, {})
    expected = leaf.width if leaf.kind == 7 else BYTES_OF.get(leaf.kind)
    for field in (1, 2, 5, 6):
        if expected is not None and len(statistics.get(field, b"")) not in (0, expected):
            raise ValueError("statistics of another type than their column's")
    sizes = chunk.get(16, {})
    counts = len(sizes.get(2, ())), len(sizes.get(3, ()))  # values by how deep they are repeated, and there
    fit = counts[0] in (0, leaf.repeated + 1) and counts[1] in (0, leaf.optional + 1)
    if not fit or (1 in sizes and leaf.kind != 6):
        raise ValueError("sizes of another type than their column's")


def _bounded(what: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise ValueError(f"{value} {what}, where a file of this size has at most {most}")
    return value


class _Compact:
    """Reads structures of Thrift's compact protocol: the fields that are wanted, past all others."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, MAX_VALUES

    def read(self, wanted: dict[int, Kind], depth: int = 0) -> dict[int, Any]:
        """Return the wanted fields of the structure that begins here, by number."""
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        out: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            want = wanted.get(field)
            if want is None:
                self._skip(head & 15, depth)
            elif field in out:
                raise ValueError(f"field {field} twice")
            else:
                out[field] = self._value(head & 15, want, depth)
        return out

    def _byte(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {MAX_VALUES} bytes of numbers")
        value = self.data[self.at]
        self.at += 1
        return value

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of too many bytes")

    def _number(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError(f"a text of {count} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def _list(self) -> tuple[int, int]:
        """Return how many values of what type follow."""
        head = self._byte()
        count = head >> 4
        if count == 15:
            count = self._unsigned()
        if count > len(self.data) - self.at:
            raise ValueError(f"a list of {count}")
        return count, head & 15

    def _value(self, kind: int, want: Kind, depth: int) -> Any:
        of = want if isinstance(want, int) else want[0]
        if kind != of:
            raise ValueError(f"type {kind} where {of} is expected")
        if isinstance(want, tuple):
            if of == STRUCT:
                return self.read(want[1], depth + 1)
            count, inner = self._list()
            return [self._value(inner, want[1], depth + 1) for _ in range(count)]
        if of == BINARY:
            return self._take(self._unsigned())
        value = self._number()
        if not -(2 ** {I16: 15, I32: 31, I64: 63}[of]) <= value < 2 ** {I16: 15, I32: 31, I64: 63}[of]:
            raise ValueError(f"the number {value}")
        return value

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (1, 2):  # a boolean is in its type
            return
        if kind == 3:
            self._take(1)
        elif kind in (I16, I32, I64):
            self._unsigned()
        elif kind == DOUBLE:
            self._take(8)
        elif kind == BINARY:
            self._take(self._unsigned())
        elif kind in (LIST, LIST + 1):  # a list or a set
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
            count, inner = self._list()
            for _ in range(count):
                if inner in (1, 2):
                    self._take(1)
                else:
                    self._skip(inner, depth + 1)
        elif kind == STRUCT:
            self.read({}, depth + 1)
        else:  # maps are not in footers
            raise ValueError(f"type {kind}")
