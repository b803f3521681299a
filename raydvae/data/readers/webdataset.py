"""WebDataset: .tar files in which neighboring members of one key are a sample, 000017.jpg beside 000017.cls.

Keys and extensions are those of the `webdataset` library: the key ends at the first dot of the base name, extensions
are in small letters, and one that is there twice in a sample is an error.
"""

from __future__ import annotations

import gzip
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, cast

import pyarrow as pa

from raydvae.data.files import by_split, few, find_files, neither, stored
from raydvae.data.formats import name_of
from raydvae.data.readers import MAX_BYTES, MAX_CLASSES, Entry, Skip, Source, image_schema, image_table
from raydvae.data.shapes import parse_json
from raydvae.data.store import Options, Store
from raydvae.errors import DataError, shown

ENDINGS = (".tar", ".tar.gz", ".tgz")
IMAGES = re.compile(r"jpe?g|png|webp|bmp|gif|tiff?|avif|p[pgbn]m")
LABELS = ("cls", "json")
MAX_LABEL_BYTES = 2**20
MAX_HEADER = 2**24
MAX_NAME = 200  # characters of a class
BLOCK = 512  # bytes of a header in a tar file
TAIL = 2**16  # bytes behind the end of a tar file that are looked at
META = re.compile(r"__[^/]*__($|/)")  # members that the library passes over
NUMBER = re.compile(r"[-+]?\d[\d_]*(\.\d*)?")
FIRST = 1000  # samples that tell whether labels are numbers
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError)


class WebDataset:
    """One split. Classes are numbers, unless most labels are texts: then ``names`` are all of them, sorted."""

    def __init__(self, store: Store, files: Sequence[str], names: tuple[str, ...] | None = None) -> None:
        self.store, self.files, self.names = store, files, names
        self.numbers = None if names is None else {name: number for number, name in enumerate(names)}
        self.unpacked: tuple[str, gzip.GzipFile] | None = None

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        for file in self.files:
            for item in _samples(self.store, file):
                yield item if isinstance(item, Skip) else self._entry(file, item)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        images: list[bytes] = []
        for file, group in groupby(entries, key=lambda entry: entry.file):
            rows = list(group)
            if _packed(file):
                images += self._unpack(file, rows)
            else:
                images += self.store.read_spans([(file, row.at, row.at + row.size) for row in rows])
        return image_table(schema, entries, images, [entry.path for entry in entries])

    def _unpack(self, file: str, rows: Sequence[Entry]) -> Iterator[bytes]:
        if self.unpacked is None or self.unpacked[0] != file:
            self.unpacked = file, gzip.GzipFile(fileobj=self.store.open(file))
        for row in rows:
            self.unpacked[1].seek(row.at)  # forwards it reads on, backwards it begins anew
            yield self.unpacked[1].read(row.size)

    def _entry(self, file: str, sample: Sample) -> Entry | Skip:
        if self.numbers is not None:
            number = self.numbers.get(sample.label)
        else:
            number = _whole(sample.label)
            if number is None:
                return Skip(f"label that is not a whole number from 0 to {MAX_CLASSES - 1}")
        if number is None:
            return Skip(f"label that is empty or has more than {MAX_NAME} letters")
        return Entry(number, file, sample.image.offset_data, sample.image.size, stored(sample.key))


def open_webdataset(source: str, options: Options | None) -> Source:
    """Return the splits of a .tar file, or of a folder or a glob of them, as the names tell; .tar.gz likewise.

    The first samples tell whether labels are numbers or texts; texts are collected from all files. Raises `DataError`
    for files that cannot be grouped into samples as the `webdataset` library does.
    """
    store, files = find_files(source, options, ENDINGS)
    parts = by_split(files) or {"": list(files)}
    names = _names(store, [name for part in parts.values() for name in part])
    notes = () if names is None else ("labels are texts: the sorted texts are the classes",)
    readers = {split: WebDataset(store, part, names) for split, part in parts.items()}
    return Source({**readers}, neither(files, parts), notes)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with one image and a label."""

    key: str
    label: str
    image: tarfile.TarInfo


def _names(store: Store, files: Sequence[str]) -> tuple[str, ...] | None:
    """Return the sorted labels where most of the first are texts, else None."""

    def labels() -> Iterator[str]:
        return (item.label for file in files for item in _samples(store, file) if isinstance(item, Sample))

    texts = [not NUMBER.fullmatch(label) for label in islice(labels(), FIRST)]
    if sum(texts) * 2 <= len(texts):
        return None
    names: set[str] = set()
    for label in labels():
        if 0 < len(label) <= MAX_NAME:
            names.add(label)
        if len(names) > MAX_CLASSES:
            raise DataError(f"{shown(store.uri)} has more than {MAX_CLASSES} different texts as labels: no classes.")
    return tuple(sorted(names))


def _whole(label: str) -> int | None:
    try:
        value = int(label)
    except ValueError:
        return None
    return value if 0 <= value < MAX_CLASSES else None


def _packed(file: str) -> bool:
    return file.lower().endswith(ENDINGS[1:])


def _samples(store: Store, file: str) -> Iterator[Sample | Skip]:
    """Iterate over the samples of one file and what is none; `DataError` where its members are no clear samples."""
    where = shown(f"{store.uri}/{file}")
    try:
        with store.open(file) as raw, gzip.open(raw) if _packed(file) else nullcontext(raw) as stream:
            with tarfile.open(fileobj=cast(Any, _Bounded(stream)), mode="r:") as tar:
                yield from _grouped(tar, where)
            _check_end(stream, tar.offset, where)
    except DAMAGE as error:
        with store.open(file) as raw:
            head = raw.read(BLOCK)
        hint = ""
        if not _packed(file) and (kind := name_of(head)).endswith((" data", " archive")):
            hint = "; call it .tar.gz" if kind == "gzip data" else f"; it is {kind}: unpack it, or pack it as .tar.gz"
        raise DataError(f"{where} is not a readable .tar file: {shown(str(error))}{hint}. Get it again.") from None


def _grouped(tar: tarfile.TarFile, where: str) -> Iterator[Sample | Skip]:
    whole: dict[str, bool] = {}  # of each key, whether its sample has an image and a label
    for key, group in groupby(
        _members(tar), key=lambda item: "" if isinstance(item, Skip) else _split_name(item.name)[0]
    ):
        members: dict[str, tarfile.TarInfo] = {}
        for item in group:
            if isinstance(item, Skip):
                yield item
                continue
            extension = _split_name(item.name)[1]
            if extension in members:
                raise DataError(
                    f"{where} has {shown(members[extension].name)} and {shown(item.name)} in one sample, which are "
                    f"both the {shown(extension)!r} of key {shown(key)!r}; the webdataset library refuses them, too. "
                    "Rename one, or give each sample a key of its own."
                )
            members[extension] = item
        if not members:
            continue
        _check_dots(key, members, where)
        images = [members[extension] for extension in members if IMAGES.fullmatch(extension)]
        complete = bool(images) and any(label in members for label in LABELS)
        if key in whole and not (whole[key] and complete):
            raise DataError(
                f"{where} is not sorted by key: members of {shown(key)!r} lie apart, and samples are neighbors. Unpack "
                "it, and pack it again with `tar --sort=name`."
            )
        whole[key] = complete
        yield _sample(tar, key, members, images)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo | Skip]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else the headers of the whole file pile up
        base = posixpath.basename(member.name)
        if member.isdir() or META.match(member.name):
            continue
        if base.startswith("."):
            yield Skip("hidden file")
        elif not member.isfile() or member.issparse():
            yield Skip("member that is a link or no plain file")
        elif "." not in base:
            yield Skip("member without an extension")
        else:
            yield member


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension, which begins at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _check_dots(key: str, members: Mapping[str, tarfile.TarInfo], where: str) -> None:
    """Raise `DataError` where the members of one key are several samples, told apart behind the first dot."""
    kinds: dict[str, set[bool]] = {}
    for extension in members:
        middle, _, last = extension.rpartition(".")
        if last in LABELS or IMAGES.fullmatch(last):
            kinds.setdefault(middle, set()).add(last in LABELS)
    pairs = [middle for middle, found in kinds.items() if len(found) == 2]
    others = [middle for middle in pairs if "" not in pairs or any(map(str.isdigit, middle))]  # not seg.png, seg.json
    if len(pairs) > 1 and others:
        first = few((member.name for member in members.values()), 4)
        raise DataError(
            f"{where} has {len(pairs)} samples under one key, {shown(key)!r}: {first}. A key ends at the first dot of "
            "the name, in the webdataset library as here. Rename the members so that only the extension follows a dot."
        )


def _sample(
    tar: tarfile.TarFile, key: str, members: Mapping[str, tarfile.TarInfo], images: Sequence[tarfile.TarInfo]
) -> Sample | Skip:
    if len(images) != 1:
        has = few(sorted(name for name in members if not images or IMAGES.fullmatch(name)), 5)
        return Skip(f"sample with several images ({has})" if images else f"sample without an image (it has {has})")
    if images[0].size > MAX_BYTES:
        return Skip(f"image of more than {MAX_BYTES} bytes")
    label = next((name for name in LABELS if name in members), None)
    if label is None:
        return Skip("sample without a label (.cls or .json)")
    source = tar.extractfile(members[label])
    if source is None or members[label].size > MAX_LABEL_BYTES:
        return Skip(f".{label} of more than {MAX_LABEL_BYTES} bytes")
    try:
        text = source.read().decode("utf-8-sig")
        if label == "cls":
            return Sample(key, text.strip(), images[0])
        about = parse_json(text)
    except (ValueError, RecursionError):
        return Skip(f".{label} that cannot be read")
    if not isinstance(about, dict) or "label" not in about:
        has = few(sorted(about), 8) if isinstance(about, dict) else "no names"
        return Skip(f'.json without "label" (it has {has})')
    value = about["label"]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return Sample(key, str(value).strip() if isinstance(value, str | int | float) else "", images[0])


class _Bounded:
    """A stream that reads no more at once than headers and labels may have: what promises more is an attack."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        if size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return bytes(self.stream.read(size))


def _check_end(stream: Any, at: int, where: str) -> None:
    """Raise `DataError` unless the file ends where its last member does: `tarfile` takes any damage for the end."""
    stream.seek(at)
    tail = stream.read(TAIL)
    if not tail:
        raise DataError(f"{where} has no end mark at byte {at}: it was cut, and samples may be missing. Get it again.")
    if tail.strip(b"\0"):
        what = "is damaged at" if tail[:BLOCK].strip(b"\0") else "has more behind its end, two files in one, at"
        raise DataError(f"{where} {what} byte {at}; samples behind it would be lost. Get it again, or pack it anew.")
