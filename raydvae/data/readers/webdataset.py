"""WebDataset: .tar files in which neighboring members of one key are a sample, 000017.jpg beside 000017.cls."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby

import pyarrow as pa

from raydvae.data.files import by_split, find_files
from raydvae.data.readers import MAX_BYTES, MAX_CLASSES, Entry, Skip, Source, image_schema, image_table
from raydvae.data.store import Options, Store
from raydvae.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_LABEL_BYTES = 2**20


class WebDataset:
    """One split. Classes are numbers, so their names are not known."""

    names: tuple[str, ...] | None = None

    def __init__(self, store: Store, files: Sequence[str]) -> None:
        self.store, self.files = store, files

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        for name in self.files:
            try:
                with self.store.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                    for _, members in groupby(_members(tar), key=lambda member: _split_name(member.name)[0]):
                        yield _sample(name, tar, list(members))
            except (tarfile.TarError, EOFError) as error:
                raise DataError(f"{self.store.uri}/{name} is not a readable .tar file: {error}.") from None

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        images = self.store.read_spans([(entry.file, entry.at, entry.at + entry.size) for entry in entries])
        return image_table(schema, entries, images, [None] * len(entries))


def open_webdataset(source: str, options: Options | None) -> Source:
    """Return the splits of a .tar file, or of a folder or a glob of them, as the names tell."""
    store, files = find_files(source, options, (".tar",))
    parts = by_split(files) or {"": list(files)}
    stray = len(files) - sum(map(len, parts.values()))
    return Source({split: WebDataset(store, names) for split, names in parts.items()}, stray)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else the headers of the whole file pile up
        if member.isfile() and not member.issparse() and not posixpath.basename(member.name).startswith("."):
            yield member


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension, which begins at the first dot of the base name."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def _sample(file: str, tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> Entry | Skip:
    parts = {_split_name(member.name)[1]: member for member in members}
    images = [parts[extension] for extension in IMAGES if extension in parts]
    if len(images) != 1:
        return Skip("sample with several images" if images else "sample without a jpg, jpeg, png or webp image")
    if images[0].size > MAX_BYTES:
        return Skip(f"image of more than {MAX_BYTES} bytes")
    if "cls" not in parts and "json" not in parts:
        return Skip("sample without a label (.cls or .json)")
    label = _label(tar, parts)
    if label is None:
        return Skip(f"label that is not a whole number from 0 to {MAX_CLASSES - 1}")
    return Entry(label, file, images[0].offset_data, images[0].size)


def _label(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> int | None:
    member = parts.get("cls") or parts["json"]
    source = tar.extractfile(member)
    if source is None or member.size > MAX_LABEL_BYTES:
        return None
    try:
        text = source.read()
        value = int(text) if "cls" in parts else json.loads(text)["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if type(value) is int and 0 <= value < MAX_CLASSES else None
