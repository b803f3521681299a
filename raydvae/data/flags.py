"""Which rows of a data set are flagged as unlearnable: a parquet file, made by `raydvae detect` or by others.

Columns ``row_id`` (``FILE#ROW``) and ``flagged`` (bool) are needed; ours has ``label`` and ``score`` too, and says in
the schema's metadata which source files it is of. Rows that it does not name are not flagged.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.data.dataset import Dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.parquet_check import open_parquet, parquet_errors
from raydvae.data.selection import Marked, RowSet, split_id
from raydvae.data.store import Options, Store, absolute
from raydvae.errors import DataError

SOURCE = b"raydvae.flags.source"
BATCH = 65_536  # rows read at a time


@dataclass(frozen=True, slots=True)
class Flags:
    """The flagged rows of one data set: ``rows`` are named in the file, ``flagged`` of them are marked."""

    uri: str
    marked: Marked
    rows: int
    flagged: int
    data: bytes

    @property
    def about(self) -> dict[str, Any]:
        """What a run that uses these flags must be resumed with."""
        return {"sha256": self.marked.fingerprint, "rows": self.rows, "flagged": self.flagged}


def flags_table(columns: dict[str, Any], data: Dataset) -> bytes:
    """Return flags as a parquet file that says which source it is of."""
    metadata = {SOURCE: json.dumps(_source(data)).encode()}
    return parquet_bytes(pa.table(columns).replace_schema_metadata(metadata))


def read_flags(uri: str, data: Dataset, options: Options | None = None) -> Flags:
    """Read the flags of ``data``; `DataError` where they are of other data, name unknown rows, or flag none."""
    folder, name = absolute(uri).rsplit("/", 1)
    store = Store(folder or "/", options)
    if not store.is_file(name):
        raise DataError(f"There are no flags at {uri}; `raydvae detect` makes them.")
    return parse_flags(store.read(name), uri, data)


def parse_flags(blob: bytes, uri: str, data: Dataset) -> Flags:
    """Do as `read_flags` does, with the file's bytes."""
    file = open_parquet(blob, uri)
    _check(file.schema_arrow, uri, data)
    ranges = _ranges(data)
    named, marked = RowSet(), RowSet()
    rows = flagged = 0
    with parquet_errors(uri):
        for ids, flags in _batches(file):
            rows += len(ids)
            for row_id, flag in zip(ids, flags, strict=True):
                name, row = split_id(row_id or "")
                if not _has(ranges.get(name, []), row) or not named.add(name, row):
                    raise DataError(
                        f"{uri} names row {row_id!r}, which {data.store.uri} does not have or which was named before. "
                        "Give the flags of this data set; `raydvae detect` makes them."
                    )
                if flag:
                    marked.add(name, row)
                    flagged += 1
    if not flagged:
        raise DataError(f"{uri} flags none of its {rows} rows: there is nothing to purify.")
    return Flags(uri, Marked(marked, hashlib.sha256(blob).hexdigest()), rows, flagged, blob)


def _check(schema: pa.Schema, uri: str, data: Dataset) -> None:
    for name, fits, what in (
        ("row_id", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), "text"),
        ("flagged", pa.types.is_boolean, "booleans"),
    ):
        if name not in schema.names or not fits(schema.field(name).type):
            raise DataError(f"{uri} has no column {name!r} of {what}; give a file that `raydvae detect` made.")
    known = (schema.metadata or {}).get(SOURCE)
    if known is not None and known != json.dumps(_source(data)).encode():
        raise DataError(
            f"{uri} holds the flags of another data set than {data.store.uri}, or of what it was before it changed. "
            "Run `raydvae detect` on it as it is now."
        )


def _source(data: Dataset) -> list[list[str]]:
    return [[file.name, file.fingerprint] for file in data.files]


def _ranges(data: Dataset) -> dict[str, list[tuple[int, int]]]:
    """Return which rows the data set has of each file that rows first came from, as sorted ranges."""
    out: dict[str, list[tuple[int, int]]] = {}
    for name, start, stop in sorted(segment for file in data.files for segment in file.origin):
        parts = out.setdefault(name, [])
        if parts and start <= parts[-1][1]:
            parts[-1] = parts[-1][0], max(stop, parts[-1][1])
        else:
            parts.append((start, stop))
    return out


def _has(ranges: list[tuple[int, int]], row: int) -> bool:
    place = bisect.bisect_right(ranges, row, key=lambda part: part[0]) - 1
    return place >= 0 and row < ranges[place][1]


def _batches(file: pq.ParquetFile) -> Iterator[tuple[list[Any], list[bool]]]:
    for batch in file.iter_batches(BATCH, columns=["row_id", "flagged"]):
        yield batch.column(0).to_pylist(), [bool(flag) for flag in batch.column(1).to_pylist()]
