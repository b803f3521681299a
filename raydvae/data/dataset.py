"""A labelled image set as parquet files: what files there are, what is in them, and how to read a bounded part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.config import DataConfig
from raydvae.data import linked, partitions
from raydvae.data.codecs import BadImage
from raydvae.data.columns import NO_FILE
from raydvae.data.files import PARQUET, SPLITS, by_split, find_files
from raydvae.data.footers import SourceFile
from raydvae.data.merging import conform
from raydvae.data.opening import open_files
from raydvae.data.parquet_check import parquet_errors
from raydvae.data.schema import ImageSchema
from raydvae.data.store import Options, Store, absolute
from raydvae.data.units import Unit, cut_file
from raydvae.errors import ConfigError, DataError

PROBED_ROWS = 100


@dataclass(frozen=True, slots=True)
class Dataset:
    """Parquet files of one schema in one folder. Cheap to pickle; holds no rows."""

    store: Store
    files: tuple[SourceFile, ...]
    schema: ImageSchema
    data: DataConfig
    whole: bool  # all files of the folder at any depth, not a glob's or a single one
    left_out: tuple[str, ...] = ()  # files of the folder that are of another split than was asked for

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)

    def units(self) -> list[Unit]:
        """Return the units of work: row groups of one file, at most ``unit_rows`` rows each, in order."""
        return [unit for file in self.files for unit in cut_file(file, self.data.unit_rows)]

    def open(self, name: str) -> Any:
        """Open a file for random-access reading."""
        return self.store.open(name)

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one unit, undecoded: all columns or some, in the types that they have in memory."""
        where = f"{self.store.uri}/{unit.source}"
        with self.open(unit.source) as source, parquet_errors(where), pq.ParquetFile(source) as file:
            parts: list[pa.Table] = []
            skip, missing = unit.skip, unit.rows
            for group in range(unit.first_group, file.num_row_groups):
                if missing <= 0:
                    break
                table = self._group(file, group, columns)
                part = table.slice(skip, missing)
                skip = 0
                missing -= part.num_rows
                parts.append(part)
        if missing:
            raise DataError(f"{self.store.uri}/{unit.source} has fewer rows than planned; it changed while being read.")
        return self._in_memory(pa.concat_tables(parts), unit.source, columns)

    def labels(self) -> Iterator[pa.ChunkedArray]:
        """Iterate over the label column of every file."""
        label = [self.schema.label]
        for file in self.files:
            with self.store.open(file.name) as source, parquet_errors(f"{self.store.uri}/{file.name}"):
                # Not read_table, which imports pandas: seconds, here and in every worker process.
                table = self._group(pq.ParquetFile(source, pre_buffer=True), None, label)
                column = self._in_memory(table, file.name, label).column(0)
            yield column

    def _group(self, file: pq.ParquetFile, group: int | None, columns: Sequence[str] | None) -> pa.Table:
        """Return a row group, or all of a file: those of ``columns`` that lie in it and not in its folders' names."""
        stored = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        if stored == []:  # a table without columns would forget its rows
            meta = file.metadata if group is None else file.metadata.row_group(group)
            return pa.table({"": pa.nulls(meta.num_rows)})
        return file.read(stored) if group is None else file.read_row_group(group, columns=stored)

    def _in_memory(self, table: pa.Table, source: str, columns: Sequence[str] | None) -> pa.Table:
        """Return a table read of the file ``source`` in the one schema of all files, with the images that it names."""
        schema = self.schema.memory
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        told = [field for field in schema if field.name not in table.column_names]
        table = partitions.add(table, source, told)
        if columns is not None:
            table = table.select(list(columns))  # parquet readers take "label" for "label.id", too
        image = schema.get_field_index(self.schema.image)
        links = image >= 0 and linked.can_link(schema.field(image).type)
        if links:
            table = linked.as_structs(table, schema.field(image))
        table = conform(table, schema)
        if links:
            table = linked.embed(table, self.schema.image, self.store, source, self.data.max_image_bytes)
        return table


def open_dataset(
    uri: str, data: DataConfig | None = None, options: Options | None = None, split: str | None = None
) -> Dataset:
    """Open a folder, a file or a glob of parquet files.

    In a folder whose files are named train-* beside test-* or val-*, ``split`` "train" or "test" picks the files of
    that part; any other folder is taken whole. Folders named as label=3 tell a column. Files whose schemas differ
    harmlessly are read in one, see `merging`. Raises `DataError` when there is nothing to read.
    """
    data = data or DataConfig()
    if split is not None and split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    store, names = find_files(uri, options, PARQUET)
    there = list(names)
    if split is not None:
        names = {name: names[name] for name in by_split(names).get(split, names)}
    left_out = tuple(name for name in there if name not in names)
    files, schema = open_files(store, names, data)
    if not any(file.rows for file in files):
        raise DataError(f"{uri} has no rows: its {len(files)} parquet files are empty. Give one that holds images.")
    return Dataset(store, files, schema, data, store.address == absolute(uri), left_out)


def probe_size(dataset: Dataset) -> int:
    """Return the height and width that most images of the first unit have; `DataError` if they are not square."""
    sizes: Counter[tuple[int, int]] = Counter()
    reasons: Counter[str] = Counter()
    unit = dataset.units()[0]
    images = dataset.read(unit, [dataset.schema.image]).column(0)
    for value in dataset.schema.values(images.slice(0, PROBED_ROWS)):
        try:
            size = dataset.schema.size(value) or dataset.schema.pixels(value, dataset.data).shape[1::-1]
            sizes[int(size[0]), int(size[1])] += 1
        except BadImage as error:
            reasons[str(error)] += 1
    if not sizes:
        (reason, _), *_ = reasons.most_common(1)
        hint = linked.HINT if reason == NO_FILE else "`raydvae inspect` shows what there is."
        raise DataError(
            f"None of the first images of {dataset.store.uri}/{unit.source} can be decoded: {reason}. {hint}"
        )
    (width, height), count = sizes.most_common(1)[0]
    if height != width or count * 2 < sum(sizes.values()):
        raise DataError(
            f"The images of {dataset.store.uri} are of several sizes, or not square ({width}x{height} and others). "
            "Give one with --image-size; they are then resized to it."
        )
    return height
