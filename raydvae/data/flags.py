"""Which rows of a data set are flagged as unlearnable: a parquet file, made by `raydvae detect` or by others.

Columns ``row_id`` (``FILE#ROW``) and ``flagged`` (bool) are needed; ours has ``label`` and ``score`` too, and says in
the schema's metadata which source files it is of. Rows that it does not name are not flagged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.data.dataset import Dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.selection import Marked, split_id
from raydvae.data.store import Options, Store, absolute
from raydvae.errors import DataError

SOURCE = b"raydvae.flags.source"
BATCH = 65_536  # rows read at a time
Masks = dict[str, npt.NDArray[np.bool_]]


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
    try:
        file = pq.ParquetFile(pa.BufferReader(blob))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} is not a readable parquet file: {error}.") from None
    _check(file.schema_arrow, uri, data)
    there = _places(data)
    marked = {name: np.zeros(len(mask), np.bool_) for name, mask in there.items()}
    rows = 0
    for ids, flags in _batches(file):
        for row_id, flag in zip(ids, flags, strict=True):
            name, row = split_id(row_id or "")
            if name not in there or not 0 <= row < len(there[name]) or not there[name][row]:
                raise DataError(
                    f"{uri} names row {row_id!r}, which {data.store.uri} does not have or which was named before. "
                    "Give the flags of this data set; `raydvae detect` makes them."
                )
            there[name][row] = False  # each row once
            marked[name][row] = flag
        rows += len(ids)
    flagged = sum(int(mask.sum()) for mask in marked.values())
    if not flagged:
        raise DataError(f"{uri} flags none of its {rows} rows: there is nothing to purify.")
    return Flags(uri, Marked.of(marked, hashlib.sha256(blob).hexdigest()), rows, flagged, blob)


def _check(schema: pa.Schema, uri: str, data: Dataset) -> None:
    for name, fits, what in (
        ("row_id", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), "text"),
        ("flagged", pa.types.is_boolean, "booleans"),
    ):
        if name not in schema.names or not fits(schema.field(name).type):
            raise DataError(f"{uri} has no column {name!r} of {what}; give a file that `raydvae detect` made.")
    known = (schema.metadata or {}).get(SOURCE)
    if known is not None and json.loads(known) != _source(data):
        raise DataError(
            f"{uri} holds the flags of another data set than {data.store.uri}, or of what it was before it changed. "
            "Run `raydvae detect` on it as it is now."
        )


def _source(data: Dataset) -> list[list[str]]:
    return [[file.name, file.fingerprint] for file in data.files]


def _places(data: Dataset) -> Masks:
    """Return which rows of the files that rows first came from the data set has."""
    segments = [segment for file in data.files for segment in file.origin]
    ends: dict[str, int] = {}
    for name, _, stop in segments:
        ends[name] = max(ends.get(name, 0), stop)
    out = {name: np.zeros(end, np.bool_) for name, end in ends.items()}
    for name, start, stop in segments:
        out[name][start:stop] = True
    return out


def _batches(file: pq.ParquetFile) -> Iterator[tuple[list[Any], list[bool]]]:
    for batch in file.iter_batches(BATCH, columns=["row_id", "flagged"]):
        yield batch.column(0).to_pylist(), [bool(flag) for flag in batch.column(1).to_pylist()]
