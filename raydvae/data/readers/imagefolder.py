"""One folder a class: SOURCE/CLASS/..., or SOURCE/train/CLASS/... beside SOURCE/test/CLASS/...; or a table."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydvae.data.files import few, lost_link, stored
from raydvae.data.readers import MAX_BYTES, MAX_CLASSES, Entry, Skip, Source, image_schema, image_table
from raydvae.data.readers.kinds import ending, pictures
from raydvae.data.readers.labels import TABLES, Labels, number, read_labels
from raydvae.data.store import Options, Store
from raydvae.errors import DataError, shown

# Names of the folders of splits, in small letters; the first that is there counts.
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "validation", "valid", "dev", "eval")}
WORDS = {word for words in SPLITS.values() for word in words}
IMAGES = {"image", "images", "img", "imgs", "pictures", "photos", "jpegimages", "data", "files"}  # of no class
JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
OUTSIDE = "file outside of the class folders"
Path = tuple[str, ...]  # cut at its slashes


class ImageFolder:
    """One split. ``items`` tell of each file its class, or why it is no row. An image that cannot be read is a row."""

    def __init__(
        self, store: Store, sizes: Mapping[str, int], items: Mapping[str, int | str], names: tuple[str, ...] | None
    ) -> None:
        self.store, self.sizes, self.items, self.names = store, sizes, items, names

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        for file, item in self.items.items():
            if isinstance(item, str):
                yield Skip(item)
            elif self.sizes[file] > MAX_BYTES:
                yield Skip(f"file of more than {MAX_BYTES} bytes")
            else:
                yield Entry(item, file, size=self.sizes[file])

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        files = [entry.file for entry in entries]
        images = list(self.store.read_many(files).values())
        return image_table(schema, entries, images, [stored(file) for file in files])


def open_imagefolder(source: str, options: Options | None) -> Source:
    """Return the splits of a folder; the class names are those of all splits.

    Folders that only wrap the others are gone through. Where no folders tell classes, a table beside the images may.
    The listing of all files is held in memory. Raises `DataError` when there are neither class folders nor labels.
    """
    store = Store(source, options)
    sizes = store.list()
    if "" in sizes:
        raise DataError(f"{shown(store.uri)} is a file, no folder of images. Unpack it, or name its --format.")
    items: dict[str, int | str] = {name: reason for name in sizes if (reason := _hidden(name))}
    visible = {name: size for name, size in sizes.items() if name not in items}
    images = pictures(store, visible)
    items |= {name: _no_image(name) for name in visible if name not in images}
    for name in images:
        if not sizes[name] and (lost := lost_link(store, name)):
            raise DataError(f"{shown(f'{store.uri}/{name}')} is a link to {shown(lost)}, which is not there. Mend it.")
    paths = [tuple(name.split("/")) for name in visible if name in images]
    folders = _layout(paths)
    labels = _labels(store, folders, paths, [name for name in visible if ending(name) in TABLES])
    if labels is not None:
        names, numbers = _numbered(labels)
        folders = _layout(paths, flat=True)
        notes = [f"labels are taken from {few(labels.tables)}"]
        for path in paths:
            name = "/".join(path)
            items[name] = numbers.get(labels.of.get(name, ""), "image that the table gives no label")
        for table in labels.tables:
            del items[table]
    elif folders.classes:
        names, numbers, same = _named(folders.classes)
        notes = [*_doubts(folders, paths), *same]
        for path in paths:
            inside = path[len(folders.top(path) or ()) :]
            items["/".join(path)] = numbers[inside[0]] if len(inside) > 1 and inside[0] in numbers else OUTSIDE
    else:
        state = _found(store, sizes)
        raise DataError(f"{shown(store.uri)} has no class folders: {state}. Expected SOURCE/CLASS/image files.")
    items |= {"/".join(path): folders.why_not(path) for path in paths if folders.top(path) is None}
    of, stray = _divided({name: items[name] for name in sizes if name in items}, folders)
    stray.update(labels.unused if labels else {})
    if any(top and split and top[-1] != split for split, top in folders.tops.items()):
        notes.append(", ".join(f"{split} is the folder {shown('/'.join(top))}" for split, top in folders.tops.items()))
    parts = {split: ImageFolder(store, sizes, chosen, names) for split, chosen in of.items()}
    return Source({**parts}, stray, tuple(notes))


def _divided(items: Mapping[str, int | str], folders: _Layout) -> tuple[dict[str, dict[str, int | str]], Counter[str]]:
    """Return the files of each split, and why those that are in none are no rows."""
    of: dict[str, dict[str, int | str]] = {split: {} for split in folders.tops}
    split_of = {top: split for split, top in folders.tops.items()}
    stray: Counter[str] = Counter()
    for name, item in items.items():
        top = folders.top(tuple(name.split("/")))
        if top is None:
            stray[str(item)] += 1
        else:
            of[split_of[top]][name] = item
    return of, stray


@dataclass(frozen=True, slots=True)
class _Layout:
    """How images lie: in the folder of each split, or of "", which hold those of the ``classes``.

    ``wrap`` is the folder that holds all of this; only "" may have loose files beside it.
    """

    wrap: Path
    tops: Mapping[str, Path]
    classes: tuple[str, ...] = ()

    def top(self, path: Path) -> Path | None:
        """Return the folder of the split that a file is in, if it is in any."""
        return next((top for top in self.tops.values() if path[: len(top)] == top and len(path) > len(top)), None)

    def why_not(self, path: Path) -> str:
        """Return why an image that is in the folder of no split is not taken."""
        depth = len(self.wrap)
        if "" in self.tops or path[:depth] != self.wrap:
            return OUTSIDE
        return f"file of neither split ({shown(path[depth])}/)" if len(path) > depth + 1 else "file of neither split"


def _layout(images: Sequence[Path], flat: bool = False) -> _Layout:
    """Find the folders of splits and classes, below folders that hold nothing but one folder of folders.

    ``flat`` folders of splits may hold images themselves, as those do whose labels are in a table.
    """
    wrap: Path = ()
    inside = [path for path in images if len(path) > 1]
    while inside and not (splits := _splits(inside, len(wrap), flat)) and (inner := _only(inside, len(wrap))):
        wrap = inner
    if not inside:
        return _Layout((), {"": ()})
    tops: dict[str, Path] = {split: (*wrap, folder) for split, folder in splits.items()} or {"": wrap}
    classes: set[str] = set()
    for split in splits or {"": ""}:
        while below := [path for path in inside if path[: len(tops[split])] == tops[split]]:
            inner = _only(below, len(tops[split])) if split else None  # training_set/training_set/CLASS
            if inner is None:
                break
            tops[split] = inner
        classes |= {path[len(tops[split])] for path in below if len(path) > len(tops[split]) + 1}
    return _Layout(wrap, tops, tuple(sorted(classes)))


def _only(images: Sequence[Path], depth: int) -> Path | None:
    """Return the one folder that holds all images, if it holds folders of them and no image itself."""
    if len({path[depth] for path in images if len(path) > depth + 1}) == 1 and min(map(len, images)) > depth + 2:
        return images[0][: depth + 1]
    return None


def _splits(images: Sequence[Path], depth: int, flat: bool) -> dict[str, str]:
    """Return the folder of each split. One that holds images itself may be a class, if not ``flat``."""
    shortest: dict[str, int] = {}
    for path in images:
        shortest[path[depth]] = min(len(path), shortest.get(path[depth], len(path)))
    named = {_word(folder): folder for folder in sorted(shortest, reverse=True) if flat or shortest[folder] > depth + 2}
    found = {split: next((word for word in words if word in named), None) for split, words in SPLITS.items()}
    return {split: named[word] for split, word in found.items() if word}


def _word(folder: str) -> str:
    """Return a folder's name in small letters, without what is often put behind the word for a split."""
    return re.sub(r"[-_. ]?(set|data|images|imgs|split)$", "", folder.casefold())


def _bland(folder: str) -> bool:
    """Whether a folder is called as no class is."""
    return _word(folder) in WORDS or folder.casefold() in IMAGES


def _labels(store: Store, folders: _Layout, images: Sequence[Path], tables: Sequence[str]) -> Labels | None:
    """Return the labels of tables, where the folders tell no classes and a table is there."""
    bland = all(map(_bland, folders.classes))
    if not (bland or len(folders.classes) < 2 or any(folder.casefold() in IMAGES for folder in folders.wrap)):
        return None
    # A table lies beside images or above them.
    near = {path[:depth] for path in images for depth in range(len(path))}
    own = [table for table in tables if tuple(table.split("/")[:-1]) in near and not _is_sample(table)]
    found = read_labels(store, own, ["/".join(path) for path in images])
    if found.tables:
        return found
    if found.problems and bland:
        raise DataError(
            f"{shown(store.uri)} has no class folders, and {'; '.join(found.problems[:3])}. Call the columns of the "
            "table file_name (paths from its folder) and label, or put the images into one folder a class."
        )
    return None


def _named(folders: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """Return the names of the classes, the class of each folder, and what to say of folders that look the same.

    Letters with accents are written in two ways, and a Mac's archive beside another's has both: those are one class.
    """
    alike: dict[str, list[str]] = {}
    for folder in folders:
        alike.setdefault(unicodedata.normalize("NFC", folder), []).append(folder)
    groups = sorted(([name] if len(group) > 1 else group, group) for name, group in alike.items())
    names = tuple(stored(shared[0]) for shared, _ in groups)
    doubled = [shared[0] for shared, group in groups if len(group) > 1]
    notes = [f"folders that differ only in how accents are stored are one class: {few(doubled)}"] if doubled else []
    return names, {folder: at for at, (_, group) in enumerate(groups) for folder in group}, notes


def _numbered(labels: Labels) -> tuple[tuple[str, ...] | None, dict[str, int]]:
    """Return the names of the classes, or None where labels are numbers, and the class of each label."""
    texts = set(labels.of.values())
    numbers = number(texts)
    if numbers is not None:
        return None, numbers
    if len(texts) > MAX_CLASSES:
        raise DataError(f"{shown(labels.tables[0])} has more than {MAX_CLASSES} labels; those are no classes.")
    names = tuple(sorted(texts))
    return names, {name: place for place, name in enumerate(names)}


def _doubts(folders: _Layout, images: Sequence[Path]) -> list[str]:
    """Return sentences about what else the folders may mean."""
    notes = [f"classes are the folders in {shown('/'.join(folders.wrap))}/"] if folders.wrap else []
    inside = [path[len(top) :] for path in images if (top := folders.top(path)) is not None]
    shallow = {path[0] for path in inside if len(path) == 2}
    deep = [name for name in folders.classes if name not in shallow]
    below = {path[1] for path in inside if len(path) > 2}
    number = "class" if len(folders.classes) == 1 else "classes"
    listed = f"rows are of the {number} {few(folders.classes, 5)}"
    if deep:
        notes.append(
            f"{few(deep)} hold only folders, no images: {listed}; if the folders below are the "
            "classes, give the one folder that holds them"
        )
    elif len(folders.classes) == 1 and len(below) > 1:
        notes.append(
            f"all {listed}; if the folders in it ({few(sorted(below))}) are the classes, take out the images beside "
            "them"
        )
    elif all(map(_bland, folders.classes)):
        notes.append(
            f"{listed}, as the folders are called; if those are none, put the images into one folder a class, or a "
            "table metadata.csv with the columns file_name and label beside them"
        )
    return notes


def _hidden(name: str) -> str:
    """Return why a file is none of the data by its name; "" for others."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return "hidden file"
    junk = next((part for part in parts if part.casefold() in JUNK), "")
    return f"file of the operating system ({shown(junk)})" if junk else ""


def _no_image(name: str) -> str:
    kind = ending(name)
    return f"no image (.{shown(kind)})" if kind else f"no image ({shown(posixpath.basename(name))})"


def _is_sample(table: str) -> bool:
    return posixpath.basename(table).casefold().startswith("sample_submission")  # its labels are made up


def _found(store: Store, files: Mapping[str, int]) -> str:
    if not files:
        return "it is empty" if store.exists() else "it does not exist"
    return f"it holds {len(files)} files, such as {few(map(posixpath.basename, files))}"
