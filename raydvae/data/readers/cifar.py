"""CIFAR-10 and CIFAR-100 as their authors publish them: pickled batches, in a folder or in the original .tar.gz."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydvae.data.codecs import Array, encode
from raydvae.data.files import find_files
from raydvae.data.readers import Entry, Skip, Source, image_schema, image_table
from raydvae.data.store import Options, Store
from raydvae.data.unpickle import load_arrays
from raydvae.errors import DataError, shown

ARCHIVES = (".tar.gz", ".tgz")
MAX_FILE_BYTES = 512 * 2**20  # the largest original file has 155 MB


@dataclass(frozen=True, slots=True)
class Layout:
    """File and key names of one data set; ``labels`` map our columns to the keys of labels and of their names."""

    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels: Mapping[str, tuple[str, str]]


LAYOUTS = {
    "cifar10": Layout(
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        {"label": ("labels", "label_names")},
    ),
    "cifar100": Layout(
        {"train": ("train",), "test": ("test",)},
        "meta",
        {"label": ("fine_labels", "fine_label_names"), "coarse_label": ("coarse_labels", "coarse_label_names")},
    ),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """One file: images (N, 32, 32, 3), each label column (N,), and the images' names if it has them."""

    images: Array
    labels: Mapping[str, Sequence[int]]
    paths: Sequence[str | None]


class Cifar:
    """One split; one batch is held at a time."""

    def __init__(
        self, files: Sequence[str], load: Callable[[str], Batch], names: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.files, self.load = files, load
        self.names: tuple[str, ...] | None = names["label"]
        self.others = {column: texts for column, texts in names.items() if column != "label"}
        self.held: tuple[str, Batch] | None = None

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        for file in self.files:
            for at, label in enumerate(self._batch(file).labels["label"]):
                yield Entry(int(label), file, at)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names, **self.others)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        images: list[bytes] = []
        paths: list[str | None] = []
        others: dict[str, list[int]] = {column: [] for column in self.others}
        for entry in entries:
            batch = self._batch(entry.file)
            images.append(encode(batch.images[entry.at]))
            paths.append(batch.paths[entry.at])
            for column, values in others.items():
                values.append(int(batch.labels[column][entry.at]))
        return image_table(schema, entries, images, paths, **others)

    def _batch(self, file: str) -> Batch:
        if self.held is None or self.held[0] != file:
            self.held = None
            self.held = file, self.load(file)
        return self.held[1]


def open_cifar(source: str, kind: Literal["cifar10", "cifar100"], options: Options | None) -> Source:
    """Return both splits of the "python version" in a folder (or the one above it), or in its .tar.gz file.

    An archive is read once, into memory. Raises `DataError` when files are missing or not as the authors' are.
    """
    layout = LAYOUTS[kind]
    wanted = [layout.meta, *(file for files in layout.files.values() for file in files)]
    read = _of_archive(source, wanted, options) if source.endswith(ARCHIVES) else _of_folder(source, wanted, options)
    meta = load_arrays(read(layout.meta), f"{source}: {layout.meta}")
    names = {column: _texts(meta, key, f"{source}: {layout.meta}") for column, (_, key) in layout.labels.items()}

    def load(file: str) -> Batch:
        return _parse(load_arrays(read(file), f"{source}: {file}"), layout, names, f"{source}: {file}")

    return Source({split: Cifar(files, load, names) for split, files in layout.files.items()})


def _of_folder(source: str, wanted: Sequence[str], options: Options | None) -> Callable[[str], bytes]:
    store = Store(source, options)
    places: dict[str, str] = {}
    for name in store.list():
        if name.count("/") < 2 and posixpath.basename(name) in wanted:
            _once(places, posixpath.basename(name), name, source)
    _check(wanted, places, source)
    return lambda file: store.read(places[file])


def _of_archive(source: str, wanted: Sequence[str], options: Options | None) -> Callable[[str], bytes]:
    store, names = find_files(source, options, ARCHIVES)
    found: dict[str, bytes] = {}
    places: dict[str, str] = {}
    try:
        with store.open(next(iter(names))) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                name = posixpath.basename(member.name)
                if name in wanted and member.isfile():
                    if member.size > MAX_FILE_BYTES:
                        raise DataError(f"{source}: {name} has {member.size} bytes; no file of CIFAR is so large.")
                    _once(places, name, member.name, source)
                    content = tar.extractfile(member)
                    assert content is not None
                    found[name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(
            f"{shown(source)} is not a readable .tar.gz file: {shown(str(error))}. Download it again."
        ) from None
    _check(wanted, found, source)
    return found.__getitem__


def _once(places: dict[str, str], name: str, place: str, source: str) -> None:
    """Note where a file lies; `DataError` where there is another of its name, since one of them would be lost."""
    if places.setdefault(name, place) != place:
        raise DataError(f"{shown(source)} holds {shown(places[name])} and {shown(place)}; give the folder of one.")


def _check(wanted: Sequence[str], found: Mapping[str, object], source: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f'{source} lacks {", ".join(missing)}. Give the folder or the .tar.gz of the "python version" '
            "from https://www.cs.toronto.edu/~kriz/cifar.html."
        )


def _parse(value: Any, layout: Layout, names: Mapping[str, tuple[str, ...]], where: str) -> Batch:
    data = _get(value, "data", where)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DataError(f"{where} has no (N, 3072) bytes of images under 'data'; it is no batch of CIFAR.")
    labels = {column: _get(value, key, where) for column, (key, _) in layout.labels.items()}
    for column, numbers in labels.items():
        count = len(names[column])
        if len(numbers) != len(data) or any(not _is_class(number, count) for number in numbers):
            raise DataError(f"{where} has not a {column} of 0 to {count - 1} for each of its {len(data)} images.")
    files = value.get(b"filenames", value.get("filenames"))
    paths = [_text(file) for file in files] if files is not None and len(files) == len(data) else [None] * len(data)
    return Batch(np.asarray(data).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, paths)


def _get(value: Any, key: str, where: str) -> Any:
    # Python 2 wrote the original files, so their keys are bytes; rewritten ones have texts.
    found = value.get(key.encode(), value.get(key)) if isinstance(value, dict) else None
    if not isinstance(found, list | tuple | np.ndarray):
        raise DataError(f"{where} has no {key!r}; it is no file of CIFAR.")
    return found


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    return tuple(_text(text) for text in _get(value, key, where))


def _is_class(value: Any, count: int) -> bool:
    return isinstance(value, int | np.integer) and 0 <= int(value) < count


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
