"""One folder a class: SOURCE/CLASS/..., or SOURCE/train/CLASS/... beside SOURCE/test/CLASS/..."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from raydvae.data.files import SPLITS
from raydvae.data.readers import MAX_BYTES, Entry, Skip, Source, image_schema, image_table
from raydvae.data.store import Options, Store
from raydvae.errors import DataError


class ImageFolder:
    """One split. Every file that is not hidden is a row, whatever is in it: what is no image is rejected later."""

    def __init__(self, store: Store, files: Mapping[str, int], depth: int, names: tuple[str, ...]) -> None:
        self.store, self.files, self.depth = store, files, depth
        self.names: tuple[str, ...] | None = names

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        assert self.names is not None
        numbers = {name: number for number, name in enumerate(self.names)}
        for file, size in self.files.items():
            parts = file.split("/")[self.depth :]
            if _hidden(file):
                yield Skip("hidden file")
            elif len(parts) < 2:
                yield Skip("file outside of the class folders")
            elif size > MAX_BYTES:
                yield Skip(f"file of more than {MAX_BYTES} bytes")
            else:
                yield Entry(numbers[parts[0]], file, size=size)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        files = [entry.file for entry in entries]
        return image_table(schema, entries, list(self.store.read_many(files).values()), files)


def open_imagefolder(source: str, options: Options | None) -> Source:
    """Return the splits of a folder; the class names are those of all splits.

    The listing of all files is held in memory. Raises `DataError` when there are no class folders.
    """
    store = Store(source, options)
    files = store.list()
    visible = [name.split("/") for name in files if not _hidden(name)]
    divided = {
        split: folder
        for split, words in SPLITS.items()
        if (folder := next((word for word in words if _holds_classes(word, visible)), None))
    }
    if not divided:
        names = _classes(visible, 0)
        if not names:
            raise DataError(
                f"{source} has no class folders: {_found(store, files)}. Expected SOURCE/CLASS/image files."
            )
        return Source({"": ImageFolder(store, files, 0, names)})
    names = _classes([parts for parts in visible if parts[0] in divided.values()], 1)
    of = {folder: {f: s for f, s in files.items() if f.startswith(f"{folder}/")} for folder in divided.values()}
    parts = {split: ImageFolder(store, of[folder], 1, names) for split, folder in divided.items()}
    return Source({**parts}, len(files) - sum(map(len, of.values())))


def _holds_classes(folder: str, files: Sequence[Sequence[str]]) -> bool:
    # A class may be called "train" as well: its folder holds images, not folders of images.
    inside = [len(parts) for parts in files if parts[0] == folder]
    return bool(inside) and min(inside) > 2


def _classes(files: Sequence[Sequence[str]], depth: int) -> tuple[str, ...]:
    return tuple(sorted({parts[depth] for parts in files if len(parts) > depth + 1}))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _found(store: Store, files: Mapping[str, int]) -> str:
    if not files:
        return "it is empty" if store.exists() else "it does not exist"
    shown = ", ".join(posixpath.basename(name) for name in list(files)[:3])
    return f"it holds {len(files)} files, such as {shown}"
