"""Data sets of parts of others, and of several together; rows keep the ids that they have."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.schema import ORIGIN
from raydvae.data.selection import Selection, split_id
from raydvae.data.store import Store


def keep(data: Dataset, classes: Classes, chosen: Selection, rest: bool, out: Store) -> int:
    """Write the ``chosen`` rows of a data set, or all others, and return how many they are."""
    rows = 0
    for unit in data.units():
        table, ids = data.read(unit), unit.row_ids()
        mask = chosen.mask(ids, classes.numbers(table.column(data.schema.label)))
        places = np.flatnonzero(~mask if rest else mask)
        if len(places):
            _write(out, unit.file, data, table.take(pa.array(places)), [ids[place] for place in places])
            rows += len(places)
    return rows


def join(parts: Sequence[Dataset], out: Store) -> int:
    """Write the rows of all ``parts``, in their order, and return how many they are."""
    rows = 0
    for number, data in enumerate(parts):
        for unit in data.units():
            table = data.read(unit)
            _write(out, f"part-{number}-{unit.file}", data, table, unit.row_ids())
            rows += table.num_rows
    return rows


def _write(out: Store, name: str, data: Dataset, table: pa.Table, ids: Sequence[str]) -> None:
    segments: list[list[object]] = []
    for row_id in ids:
        file, row = split_id(row_id)
        if segments and segments[-1][0] == file and segments[-1][2] == row:
            segments[-1][2] = row + 1
        else:
            segments.append([file, row, row + 1])
    metadata = dict(data.schema.arrow.metadata or {}) | {ORIGIN: json.dumps(segments).encode()}
    table = data.schema.written(table).replace_schema_metadata(metadata)
    out.write(name, parquet_bytes(table, data.schema.image))
