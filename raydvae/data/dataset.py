"""A labelled image set as parquet files: what files there are, what is in them, and how to read a bounded part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.config import DataConfig
from raydvae.data.codecs import Array, BadImage, fit
from raydvae.data.schema import ORIGIN, ImageSchema, detect
from raydvae.data.store import Options, Store, absolute
from raydvae.errors import ConfigError, DataError

Segment = tuple[str, int, int]  # rows start..stop of a file of the data set that a row first came from
SPLITS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}  # the first that is there counts
MAX_TEXT_CLASSES = 100_000
PROBED_ROWS = 100
PROBES = 8  # samples of a file that its fingerprint takes
PROBE_BYTES = 8192
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A parquet file as its footer tells it.

    The fingerprint is of the footer, all labels and a few samples of the other bytes: it reads no images,
    and misses only changes of single images to others of just the same size.
    """

    name: str
    size: int
    groups: tuple[int, ...]
    fingerprint: str
    origin: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return sum(self.groups)


@dataclass(frozen=True, slots=True)
class Unit:
    """A bounded slice of one file: planned, read, passed, written, committed and retried whole."""

    id: str
    source: str
    start: int
    stop: int
    first_group: int
    skip: int
    origin: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        """Rows in the unit."""
        return self.stop - self.start

    @property
    def file(self) -> str:
        """Name of the one output file that the unit makes."""
        return f"{self.id}.parquet"

    def row_ids(self) -> list[str]:
        """Return the id of each row: the file and row it first came from, the same in every later step."""
        return [f"{file}#{row}" for file, start, stop in self.origin for row in range(start, stop)]


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
        return [unit for file in self.files for unit in _units(file, self.data.unit_rows)]

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one unit, undecoded."""
        with self.store.open(unit.source) as source, pq.ParquetFile(source) as file:
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
            with self.store.open(file.name) as source:
                # Not read_table, which imports pandas: seconds, here and in every worker process.
                yield pq.ParquetFile(source, pre_buffer=True).read([self.schema.label]).column(0)


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


@dataclass(frozen=True, slots=True)
class Rows:
    """The decoded good rows of a unit, and its bad rows with their reasons.

    ``images`` is (N, H, W, 3) uint8, ``labels`` (N,) int64, ``kept`` the positions of the good rows in the unit,
    ``carried`` their table without pixels, ``rejected`` the bad rows as they came, with ``reason`` and ``row_id``.
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
        meta, arrow = _footer(store, name)
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
        fingerprint = _fingerprint(store, name, size, meta, schema.label)
        files.append(
            SourceFile(name, size, groups, fingerprint, _origin(arrow, f"{store.uri}/{name}", name, sum(groups)))
        )
    assert schema is not None
    return Dataset(store, tuple(files), schema, data, whole=store.uri == Store(absolute(uri), options).uri)


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
    for position, value in enumerate(table.column(schema.image).to_pylist()):
        if only is not None and not only[position]:
            continue
        try:
            if labels[position] < 0:
                shown = table.column(schema.label)[position].as_py()
                raise BadImage(f"label {shown!r} is outside of the {classes.count} classes")
            images.append(fit(schema.pixels(value, dataset.data), image_size, dataset.data))
            kept.append(position)
        except BadImage as error:
            bad.append(position)
            reasons.append(str(error))
    ids = unit.row_ids()
    rejected = table.take(pa.array(bad, pa.int64()))
    rejected = rejected.append_column("reason", pa.array(reasons, pa.string()))
    rejected = rejected.append_column("row_id", pa.array([ids[p] for p in bad], pa.string()))
    stacked = np.stack(images) if images else np.empty((0, image_size, image_size, 3), np.uint8)
    positions = np.array(kept, dtype=np.int64)
    carried = table.take(pa.array(positions))
    return Rows(unit, stacked, labels[positions], positions, _without_pixels(carried, schema), rejected)


def _without_pixels(table: pa.Table, schema: ImageSchema) -> pa.Table:
    # The path inside the image struct is carried as a plain column until the new image column is built.
    paths = [None] * table.num_rows
    if schema.encoding == "struct":
        values = table.column(schema.image).to_pylist()
        paths = [value.get("path") if value else None for value in values]
    index = table.schema.get_field_index(schema.image)
    return table.set_column(index, pa.field(schema.image, pa.string()), pa.array(paths, pa.string()))


def build_table(schema: ImageSchema, rows: Rows, images: Array) -> pa.Table:
    """Return the output table of a unit: same columns, types and order as the source, with new ``images``."""
    index = schema.arrow.get_field_index(schema.image)
    paths = rows.carried.column(schema.image).to_pylist()
    column = schema.column(images, paths)
    table = rows.carried.set_column(index, schema.arrow.field(schema.image), column)
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


def find_files(uri: str, options: Options | None, endings: tuple[str, ...]) -> tuple[Store, dict[str, int]]:
    """Return the folder and the names and sizes of the files that a folder, a file or a glob means.

    Of a folder these are the files with one of ``endings``, at any depth but for hidden ones. Raises `DataError`
    when there are none.
    """
    full = absolute(uri)
    if any(sign in posixpath.basename(full) for sign in "*?["):
        folder, pattern = full.rsplit("/", 1)
        store = Store(folder, options)
        regex = re.compile(_glob(pattern))
        names = {name: size for name, size in store.list().items() if regex.fullmatch(name)}
        if not names:
            raise DataError(f"No file matches {uri}.")
        return store, names
    if full.endswith(endings):
        folder, base = full.rsplit("/", 1)
        store = Store(folder, options)
        if store.is_file(base):
            return store, {base: store.size(base)}
    store = Store(full, options)
    names = {n: s for n, s in store.list().items() if n.endswith(endings) and not hidden(n)}
    if not names:
        state = f"holds no {endings[0]} files" if store.exists() else "does not exist"
        hint = "; `raydvae import` makes one of other formats" if endings == PARQUET else ""
        raise DataError(f"{uri} {state}. Give a folder of {endings[0]} files{hint}.")
    return store, names


def _glob(pattern: str) -> str:
    import fnmatch

    return fnmatch.translate(pattern).replace(".*", "[^/]*")


def hidden(name: str) -> bool:
    """Whether a file of that name in a folder is none of its data."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the files of "train" and of "test" as their names or folders tell; empty unless both are there."""
    known = list(names)
    found: dict[str, list[str]] = {}
    for split, words in SPLITS.items():
        for word in words:
            of_word = [name for name in known if any(re.match(rf"{word}([-_.]|$)", part) for part in name.split("/"))]
            if of_word:
                found[split] = of_word
                break
    return found if len(found) == len(SPLITS) else {}


def _footer(store: Store, name: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with store.open(name) as source, pq.ParquetFile(source) as file:
            return file.metadata, file.schema_arrow
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{store.uri}/{name} is not a readable parquet file: {error}.") from None


def _origin(arrow: pa.Schema, where: str, name: str, rows: int) -> tuple[Segment, ...]:
    text = (arrow.metadata or {}).get(ORIGIN)
    segments = [(name, 0, rows)] if text is None else json.loads(text)
    if sum(stop - start for _, start, stop in segments) != rows:
        raise DataError(f"{where} says it comes from other rows than it has; write it again.")
    return tuple((str(file), int(start), int(stop)) for file, start, stop in segments)


def _fingerprint(store: Store, name: str, size: int, meta: pq.FileMetaData, label: str) -> str:
    chunks = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
    spans = [(name, at, min(size, at + PROBE_BYTES)) for at in range(0, size, max(PROBE_BYTES, -(-size // PROBES)))]
    for chunk in chunks:
        if chunk.path_in_schema == label:
            start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o is not None)
            spans.append((name, start, start + chunk.total_compressed_size))
    digest = hashlib.sha256("\n".join([str(size), *(str(chunk.to_dict()) for chunk in chunks)]).encode())
    for part in store.read_spans(spans):
        digest.update(part)
    return digest.hexdigest()[:32]


def _units(file: SourceFile, unit_rows: int) -> Iterator[Unit]:
    stem = file.name.rsplit(".", 1)[0]
    match = re.fullmatch(r"(.*)-r(\d{10})", stem)
    base, offset = (match[1], int(match[2])) if match else (stem, 0)
    start = group = skip = 0
    while start < file.rows:
        room, last, used = unit_rows, group, skip
        while last < len(file.groups) and file.groups[last] - used <= room:
            room -= file.groups[last] - used
            last, used = last + 1, 0
        if room == unit_rows:  # a row group larger than a unit is cut
            used, room = used + unit_rows, 0
        stop = start + unit_rows - room
        yield Unit(
            f"{base}-r{offset + start:010d}", file.name, start, stop, group, skip, _cut(file.origin, start, stop)
        )
        start, group, skip = stop, last, used


def _cut(segments: Sequence[Segment], start: int, stop: int) -> tuple[Segment, ...]:
    out: list[Segment] = []
    at = 0
    for file, first, last in segments:
        low, high = max(start, at), min(stop, at + last - first)
        if low < high:
            out.append((file, first + low - at, first + high - at))
        at += last - first
    return tuple(out)


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
