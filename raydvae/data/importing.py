"""Import of other formats: any of them becomes shards of parquet in the schema of Hugging Face's image data sets."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.config import DataConfig
from raydvae.data.columns import NO_BYTES, NO_FILE, NO_IMAGE, Value
from raydvae.data.files import IMPORTING, PARQUET, SPLITS
from raydvae.data.formats import READ
from raydvae.data.lease import Lease, read_holder
from raydvae.data.manifest import parquet_options
from raydvae.data.readers import Entry, Reader, Skip, Source
from raydvae.data.readers.kinds import kind_of
from raydvae.data.readers.parquet import Parquet
from raydvae.data.schema import ImageSchema, detect
from raydvae.data.store import Options, Store
from raydvae.errors import ConfigError, DataError, StorageError, shown

Format = Literal["cifar10", "cifar100", "imagefolder", "webdataset", "parquet", "digits"]
SHARD = re.compile(r"[^/]+-\d{5,}-of-\d{5,}\.parquet")
EMPTY = (NO_BYTES, NO_FILE, NO_IMAGE)
GROUP_ROWS = 1000
GROUP_BYTES = 256 * 2**20
MAX_SIZES = 1000  # different image sizes told apart in a summary
MAX_REASONS = 100  # for which something became no row


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import wrote.

    ``sizes`` counts images by "WIDTHxHEIGHT", ``skipped`` what became no row by its reason, ``unreadable`` the rows
    whose images cannot be read by what they are instead. ``notes`` say how the source was understood, where another
    reading is possible, and ``parts`` counts rows by split.
    """

    rows: int
    classes: int
    shards: int
    sizes: dict[str, int]
    skipped: dict[str, int]
    unreadable: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: dict[str, int] = field(default_factory=dict, compare=False)


def import_dataset(
    source: str,
    out: Store,
    format: Format,
    *,
    split: str | None = None,
    rows_per_shard: int = 1000,
    limit_per_class: int | None = None,
    num_classes: int | None = None,
    options: Options | None = None,
) -> ImportSummary:
    """Write ``source`` to ``out`` as shards called SPLIT-00000-of-00042.parquet, each published whole.

    ``split`` "train" or "test" takes that part; without it all parts are taken, and a source that is not divided is
    called "train". ``num_classes`` keeps the first classes, ``limit_per_class`` the first rows of each class.
    The source is walked twice, first to count; at most one shard is in memory. Encoded images keep their bytes; CIFAR
    and digits become PNG. When it fails, the shards already written are deleted. What an import that was killed has
    left is no data set (see `raydvae.data.files`), and the next one begins anew. ``options`` are the file system's of
    ``source``.

    Raises `ConfigError` for wrong arguments, `StorageError` when ``out`` already holds parquet files or another import
    is writing there, and `DataError` when the source is not of this format or holds nothing to import, or no image that
    can be read.
    """
    _check(format, split, rows_per_shard, limit_per_class, num_classes)
    _check_free(out, read_holder(out.sub(IMPORTING)))
    opened = _open(source, format, options)
    notes = opened.notes
    parts = _parts(opened, split, source)
    selections = {part: _Selection(reader, num_classes, limit_per_class) for part, reader in parts.items()}
    counts = {part: selection.count() for part, selection in selections.items()}
    skipped: Counter[str] = Counter()
    for reason, number in [*opened.stray.items(), *(item for c in counts.values() for item in c.skipped.items())]:
        skipped[reason if reason in skipped or len(skipped) < MAX_REASONS else "other reasons"] += number
    rows = sum(count.rows for count in counts.values())
    if not rows:
        raise DataError(f"{shown(source)} holds no rows to import. Skipped: {dict(skipped) or 'nothing'}.")
    top = max(count.top for count in counts.values())
    sizes: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    written: list[str] = []
    classes = 0
    with _alone(out, written) as store:
        for part, reader in parts.items():
            names = _names(reader, num_classes, top, source)
            classes = max(classes, len(names))
            schema = reader.schema(names)
            total = counts[part].rows
            columns = reader.columns if isinstance(reader, Parquet) else detect(schema, DataConfig(), source)
            shards = _Shards(reader, schema, columns, sizes, unreadable)
            number = -(-total // rows_per_shard)
            entries = selections[part].entries()
            for index in range(number):
                expected = min(rows_per_shard, total - index * rows_per_shard)
                data = shards.encode(islice(entries, expected), expected, source)
                name = f"{part}-{index:05d}-of-{number:05d}.parquet"
                written.append(name)
                store.write(name, data)
        if unreadable.total() == rows:
            raise DataError(
                f"None of the {rows} images in {shown(source)} can be read: {_kinds(unreadable)}. "
                f"Convert them to one of {', '.join(READ.values())}."
            )
    if unreadable:
        notes += (
            f"{unreadable.total()} of {rows} images cannot be read: {_kinds(unreadable)}. They are rows, and will be "
            f"rejected with their reasons; convert them to one of {', '.join(READ.values())} to keep them",
        )
    by_part = {part: count.rows for part, count in counts.items()}
    return ImportSummary(rows, classes, len(written), dict(sizes), dict(skipped), dict(unreadable), notes, by_part)


def imported(out: Store) -> bool:
    """Whether an import into ``out`` has ended."""
    return bool(_parquet(out)) and not out.exists(IMPORTING)


@contextlib.contextmanager
def _alone(out: Store, written: list[str]) -> Iterator[Store]:
    """Have ``out`` to oneself, without what an import that was killed has left; on an error delete what is ``written``.

    Yields the store to write to: a process that lost the folder to another one writes nothing more.
    """
    left = out.leftovers()
    cleared = False
    try:
        with Lease(out.sub(IMPORTING)) as lease:
            store = out.fenced(lease.term)
            cleared = True
            _check_free(store, lease.before)  # once more: another import may have ended meanwhile
            try:
                for name in [*_parquet(store), *left]:
                    store.delete(name)
                yield store
            except BaseException:
                cleared = False
                with contextlib.suppress(StorageError):  # the error that ended it is the one to tell
                    for name in written:
                        store.delete(name)
                    cleared = True
                raise
    finally:
        if cleared:
            out.delete(IMPORTING)


def _parquet(out: Store) -> list[str]:
    return [name for name in out.list() if name.lower().endswith(PARQUET)]


def _check_free(out: Store, holder: Mapping[str, Any] | None) -> None:
    """Raise `StorageError` if ``out`` holds parquet files but those of an import that ``holder`` has not ended."""
    unfinished = holder is not None and holder["state"] != "done"
    if there := [name for name in _parquet(out) if not (unfinished and SHARD.fullmatch(name))]:
        raise StorageError(f"{out.uri} already holds parquet files ({there[0]}). Give an empty or new folder.")


def _check(format: str, split: str | None, rows_per_shard: int, limit: int | None, num_classes: int | None) -> None:
    if format not in get_args(Format):
        raise ConfigError(f"There is no format {format!r}; choose one of {', '.join(get_args(Format))}.")
    if split is not None and split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    for name, value in (("rows-per-shard", rows_per_shard), ("limit-per-class", limit), ("classes", num_classes)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; give a positive number.")


def _open(source: str, format: Format, options: Options | None) -> Source:
    # Each reader is imported where it is used: scikit-learn alone takes a second.
    if format == "digits":
        from raydvae.data.readers.digits import open_digits

        return open_digits(source)
    if format == "imagefolder":
        from raydvae.data.readers.imagefolder import open_imagefolder

        return open_imagefolder(source, options)
    if format == "webdataset":
        from raydvae.data.readers.webdataset import open_webdataset

        return open_webdataset(source, options)
    if format == "parquet":
        from raydvae.data.readers.parquet import open_parquet

        return open_parquet(source, options)
    from raydvae.data.readers.cifar import open_cifar

    return open_cifar(source, format, options)


def _parts(opened: Source, split: str | None, source: str) -> dict[str, Reader]:
    readers = opened.parts
    if "" in readers:
        return {split or "train": readers[""]}
    if split is None:
        return readers
    if split not in readers:
        raise DataError(f"{shown(source)} has no split {split!r}, only {', '.join(readers)}.")
    return {split: readers[split]}


def _names(reader: Reader, num_classes: int | None, top: int, source: str) -> tuple[str, ...]:
    if reader.names is None:
        return tuple(str(number) for number in range(num_classes or top + 1))
    if num_classes is not None and num_classes > len(reader.names):
        raise DataError(f"{source} has {len(reader.names)} classes, fewer than the {num_classes} asked for.")
    return reader.names[:num_classes]


@dataclass(frozen=True, slots=True)
class _Count:
    rows: int
    top: int
    skipped: Counter[str]


@dataclass(frozen=True, slots=True)
class _Selection:
    """The rows of a split that are wanted: the same ones in the same order whenever asked."""

    reader: Reader
    num_classes: int | None
    limit: int | None

    def __iter__(self) -> Iterator[Entry | Skip]:
        taken: Counter[int] = Counter()
        for item in self.reader.scan():
            if isinstance(item, Skip):
                yield item
            elif self.num_classes is not None and not 0 <= item.label < self.num_classes:
                yield Skip(f"row outside of the first {self.num_classes} classes")
            elif self.limit is not None and taken[item.label] >= self.limit:
                yield Skip(f"row beyond the first {self.limit} of its class")
            else:
                taken[item.label] += 1
                yield item

    def entries(self) -> Iterator[Entry]:
        return (item for item in self if isinstance(item, Entry))

    def count(self) -> _Count:
        rows, top, skipped = 0, -1, Counter[str]()
        for item in self:
            if isinstance(item, Skip):
                skipped[item.reason if item.reason in skipped or len(skipped) < MAX_REASONS else "other reasons"] += 1
            else:
                rows, top = rows + 1, max(top, item.label)
        return _Count(rows, top, skipped)


@dataclass(frozen=True, slots=True)
class _Shards:
    """Makes the files of one split, and counts its images in ``sizes``, and by kind those that are ``unreadable``."""

    reader: Reader
    schema: pa.Schema
    columns: ImageSchema
    sizes: Counter[str]
    unreadable: Counter[str]

    def encode(self, entries: Iterator[Entry], expected: int, source: str) -> bytes:
        buffer = io.BytesIO()
        rows = 0
        with pq.ParquetWriter(buffer, self.schema, **parquet_options(self.schema, self.columns.image)) as writer:
            for group in _groups(entries):
                table = self.reader.table(group, self.schema)
                self._measure(table)
                writer.write_table(table, row_group_size=len(group))
                rows += len(group)
        if rows != expected:
            raise DataError(f"{source} lost rows while it was read; leave it alone and import it again.")
        return buffer.getvalue()

    def _measure(self, table: pa.Table) -> None:
        for value in self.columns.values(table.column(self.columns.image)):
            name = self._size(value)
            self.sizes[name if name in self.sizes or len(self.sizes) < MAX_SIZES else "others"] += 1

    def _size(self, value: Value) -> str:
        if size := self.columns.size(value):
            return f"{size[0]}x{size[1]}"
        kind = kind_of(value) if isinstance(value, bytes) else "empty" if str(value) in EMPTY else str(value)
        self.unreadable[f"damaged {kind}" if kind.replace(" ", "").upper() in READ else kind] += 1
        return "unreadable"


def _kinds(unreadable: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in unreadable.most_common())


def _groups(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Cut into row groups of bounded rows and bytes."""
    group: list[Entry] = []
    room = GROUP_BYTES
    for entry in entries:
        if group and (len(group) == GROUP_ROWS or entry.size > room):
            yield group
            group, room = [], GROUP_BYTES
        group.append(entry)
        room -= entry.size
    if group:
        yield group
