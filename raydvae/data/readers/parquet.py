"""Parquet to parquet: other shards of chosen rows, with their columns, types and metadata as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import pyarrow as pa

from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.files import by_split, neither
from raydvae.data.merging import revealed
from raydvae.data.readers import Entry, Skip, Source
from raydvae.data.schema import ImageSchema
from raydvae.data.shapes import parse_json
from raydvae.data.store import Options
from raydvae.data.units import Unit


class Parquet:
    """One split. An entry's file is a unit's id and its place the row in that unit; a unit is held at a time."""

    def __init__(self, dataset: Dataset, classes: Classes) -> None:
        self.dataset, self.classes = dataset, classes
        self.units = {unit.id: unit for unit in dataset.units()}
        self.names: tuple[str, ...] | None = self.classes.names or tuple(map(str, range(self.classes.count)))
        self.held: tuple[Unit, pa.Table] | None = None

    @property
    def columns(self) -> ImageSchema:
        """The data set's columns."""
        return self.dataset.schema

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`; rows without a usable label are of class -1."""
        for unit in self.units.values():
            labels = self.dataset.read(unit, [self.dataset.schema.label]).column(0)
            for at, label in enumerate(self.classes.numbers(labels)):
                yield Entry(int(label), unit.id, at)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`: the source's, in which the classes are ``names`` if it names them."""
        arrow = revealed(self.dataset.schema.arrow)
        if self.dataset.schema.class_names is None or len(names) == self.classes.count:
            return arrow
        metadata = dict(arrow.metadata)
        described = parse_json(metadata[b"huggingface"])
        feature = described["info"]["features"][self.dataset.schema.label]
        (feature.get("feature") or feature)["names"] = list(names)
        return arrow.with_metadata(metadata | {b"huggingface": json.dumps(described).encode()})

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        parts: list[pa.Table] = []
        for unit, rows in groupby(entries, key=lambda entry: entry.file):
            places = pa.array([entry.at for entry in rows], pa.int64())
            parts.append(self._read(self.units[unit]).take(places))
        table = self.dataset.schema.written(pa.concat_tables(parts))
        return pa.Table.from_arrays(table.columns, schema=schema)

    def _read(self, unit: Unit) -> pa.Table:
        if self.held is None or self.held[0] is not unit:
            self.held = None
            self.held = unit, self.dataset.read(unit)
        return self.held[1]


def open_parquet(source: str, options: Options | None) -> Source:
    """Return the splits of a parquet data set as `open_dataset` finds them; the classes are those of all files."""
    dataset = open_dataset(source, options=options)
    classes = find_classes(dataset)
    files = {file.name: file for file in dataset.files}
    parts = by_split(files) or {"": list(files)}
    stray = neither(files, parts)
    of = {split: replace(dataset, files=tuple(files[name] for name in names)) for split, names in parts.items()}
    return Source({split: Parquet(part, classes) for split, part in of.items()}, stray)
