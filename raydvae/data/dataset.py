"""A labelled image set as parquet files: what files there are, what is in them, and how to read a bounded part."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydvae.config import DataConfig
from raydvae.data.codecs import BadImage
from raydvae.data.files import PARQUET, SPLITS, by_split, find_files
from raydvae.data.footers import SourceFile, fingerprint, origin, read_footer
from raydvae.data.parquet_check import reading
from raydvae.data.schema import ORIGIN, ImageSchema, detect
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

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)

    def units(self) -> list[Unit]:
        """Return the units of work: row groups of one file, at most ``unit_rows`` rows each, in order."""
        return [unit for file in self.files for unit in cut_file(file, self.data.unit_rows)]

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one unit, undecoded."""
        with reading(self.store, unit.source) as file:
            groups = list(range(unit.first_group, file.num_row_groups))
            parts: list[pa.Table] = []
            skip, missing = unit.skip, unit.rows
            for group in groups:
                if missing <= 0:
                    break
                table = file.read_row_group(group, columns=list(columns) if columns else None)
                part = table.slice(skip, missing)
                skip = 0
                missing -= part.num_rows
                parts.append(part)
        if missing:
            raise DataError(f"{self.store.uri}/{unit.source} has fewer rows than planned; it changed while being read.")
        return pa.concat_tables(parts)

    def labels(self) -> Iterator[pa.ChunkedArray]:
        """Iterate over the label column of every file."""
        for file in self.files:
            with reading(self.store, file.name, pre_buffer=True) as opened:
                # Not read_table, which imports pandas: seconds, here and in every worker process.
                column = opened.read([self.schema.label]).column(0)
            yield column


def open_dataset(
    uri: str, data: DataConfig | None = None, options: Options | None = None, split: str | None = None
) -> Dataset:
    """Open a folder, a file or a glob of parquet files.

    In a folder whose files are named train-* beside test-* or val-*, ``split`` "train" or "test" picks the files of
    that part; any other folder is taken whole. Raises `DataError` when there is nothing to read.
    """
    data = data or DataConfig()
    if split is not None and split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    store, names = find_files(uri, options, PARQUET)
    if split is not None:
        names = {name: names[name] for name in by_split(names).get(split, names)}
    files: list[SourceFile] = []
    schema: ImageSchema | None = None
    for name, size in names.items():
        meta, arrow = read_footer(store, name)
        plain = arrow.with_metadata({k: v for k, v in (arrow.metadata or {}).items() if k != ORIGIN} or None)
        if schema is None:
            schema = detect(plain, data, f"{store.uri}/{name}")
        elif not plain.equals(schema.arrow):
            raise DataError(
                f"{store.uri}/{name} has other columns than {files[0].name}: "
                f"{arrow.to_string(show_schema_metadata=False)}. "
                "All files of a data set have one schema."
            )
        groups = tuple(meta.row_group(g).num_rows for g in range(meta.num_row_groups))
        found = fingerprint(store, name, size, meta, schema.label)
        files.append(SourceFile(name, size, groups, found, origin(arrow, f"{store.uri}/{name}", name, sum(groups))))
    assert schema is not None
    return Dataset(store, tuple(files), schema, data, whole=store.uri == Store(absolute(uri), options).uri)


def probe_size(dataset: Dataset) -> int:
    """Return the height and width that most images of the first unit have; `DataError` if they are not square."""
    sizes: Counter[tuple[int, int]] = Counter()
    unit = dataset.units()[0]
    for value in dataset.read(unit, columns=[dataset.schema.image]).column(0).slice(0, PROBED_ROWS).to_pylist():
        with contextlib.suppress(BadImage):
            height, width = dataset.schema.pixels(value, dataset.data).shape[:2]
            sizes[height, width] += 1
    if not sizes:
        raise DataError(f"None of the first images of {dataset.store.uri}/{unit.source} can be decoded.")
    (height, width), count = sizes.most_common(1)[0]
    if height != width or count * 2 < sum(sizes.values()):
        raise DataError(
            f"The images of {dataset.store.uri} are of several sizes, or not square ({width}x{height} and others). "
            "Give one with --image-size; they are then resized to it."
        )
    return int(height)
