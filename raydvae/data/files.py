"""Which files a folder, a file or a glob means, and of which split they are."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from raydvae.data.store import Options, Store, absolute
from raydvae.errors import DataError

SPLITS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}  # the first that is there counts
PARQUET = (".parquet", ".pq")


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
