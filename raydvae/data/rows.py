"""The rows of a unit, decoded; and the table that is written of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae import stopping
from raydvae.data import labels as labels_in
from raydvae.data.classes import Classes
from raydvae.data.codecs import Array, BadImage, fit
from raydvae.data.dataset import Dataset
from raydvae.data.footers import Segment
from raydvae.data.schema import ORIGIN, ImageSchema
from raydvae.data.units import Unit

MAX_LABEL = 100  # letters of a label in a reason


@dataclass(frozen=True, slots=True)
class Rows:
    """The decoded good rows of a unit, and its bad rows with their reasons.

    ``images`` is (N, H, W, 3) uint8, ``labels`` (N,) int64, ``kept`` the positions of the good rows in the unit,
    ``carried`` their table without pixels, ``rejected`` the bad rows as they came, with a reason and a row id in two
    more columns, the last ones (see `reason_columns`).
    """

    unit: Unit
    images: Array
    labels: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    carried: pa.Table
    rejected: pa.Table

    @property
    def row_ids(self) -> list[str]:
        """Ids of the good rows."""
        ids = self.unit.row_ids()
        return [ids[position] for position in self.kept]

    @property
    def reasons(self) -> list[str]:
        """Why the bad rows are bad."""
        return [str(reason) for reason in self.rejected.column(-2).to_pylist()]


def reason_columns(names: Sequence[str]) -> tuple[str, str]:
    """Return how the columns of reasons and of row ids are called beside columns with ``names``.

    These are "reason" and "row_id", with underscores behind them where a column of the source is called so.
    """
    reason, row_id = "reason", "row_id"
    while reason in names or row_id in names:
        reason, row_id = f"{reason}_", f"{row_id}_"
    return reason, row_id


def decode_rows(
    dataset: Dataset,
    unit: Unit,
    table: pa.Table,
    classes: Classes,
    image_size: int,
    only: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Decode a unit's rows to ``image_size`` pixels; every bad row ends in ``rejected``, with its reason.

    With ``only``, a mask of the unit's rows, the others are left out of both.
    """
    schema = dataset.schema
    labels = classes.numbers(table.column(schema.label))
    images: list[Array] = []
    kept: list[int] = []
    bad: list[int] = []
    reasons: list[str] = []
    for position, value in enumerate(schema.values(table.column(schema.image))):
        stopping.check()
        if only is not None and not only[position]:
            continue
        try:
            if labels[position] < 0:
                label = repr(labels_in.plain(table.column(schema.label)[position : position + 1])[0])
                short = label if len(label) <= MAX_LABEL else f"{label[:MAX_LABEL]}…"
                raise BadImage(f"label {short} is outside of the {classes.count} classes")
            images.append(fit(schema.pixels(value, dataset.data, image_size), image_size, dataset.data))
            kept.append(position)
        except BadImage as error:
            bad.append(position)
            reasons.append(str(error))
    ids = unit.row_ids()
    rejected = schema.written(table.take(pa.array(bad, pa.int64())))
    named = reason_columns(rejected.column_names)
    rejected = rejected.append_column(named[0], pa.array(reasons, pa.string()))
    rejected = rejected.append_column(named[1], pa.array([ids[p] for p in bad], pa.string()))
    stacked = np.stack(images) if images else np.empty((0, image_size, image_size, 3), np.uint8)
    positions = np.array(kept, dtype=np.int64)
    carried = table.take(pa.array(positions))
    return Rows(unit, stacked, labels[positions], positions, _without_pixels(carried, schema), rejected)


def _without_pixels(table: pa.Table, schema: ImageSchema) -> pa.Table:
    """Return a table whose image column is what it holds beside images, until the new one is built."""
    index = table.schema.get_field_index(schema.image)
    rest = schema.carried(table.column(index))
    return table.set_column(index, pa.field(schema.image, rest.type), rest)


def build_table(schema: ImageSchema, rows: Rows, images: Array) -> pa.Table:
    """Return the output table of a unit: same columns, types and order as the source, with new ``images``."""
    index = schema.arrow.get_field_index(schema.image)
    rest = rows.carried.column(index).combine_chunks()
    column = schema.build(images, rest)
    table = schema.written(rows.carried.set_column(index, schema.arrow.field(schema.image), column))
    metadata = dict(schema.arrow.metadata or {})
    metadata[ORIGIN] = json.dumps(_segments(rows)).encode()
    return table.replace_schema_metadata(metadata)


def _segments(rows: Rows) -> list[Segment]:
    """Return the origins of the rows that were kept, as few ranges as possible."""
    places = [(file, row) for file, start, stop in rows.unit.origin for row in range(start, stop)]
    merged: list[list[Any]] = []
    for position in rows.kept:
        file, row = places[position]
        if merged and merged[-1][0] == file and merged[-1][2] == row:
            merged[-1][2] = row + 1
        else:
            merged.append([file, row, row + 1])
    return [(file, start, stop) for file, start, stop in merged]
