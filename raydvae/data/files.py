"""Which files a folder, a file or a glob means, and of which split they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from raydvae.data.store import Options, Store, absolute
from raydvae.errors import DataError, shown

SPLITS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}  # the first that is there counts
PARQUET = (".parquet", ".pq")
MAGIC = b"PAR1"  # that parquet files begin and end with
MIN_PARQUET = 12  # bytes
MAX_PROBED = 1000  # files whose content is looked at where no name tells
MAX_NAMED = 3  # files that a message names
IMPORTING = "_importing"  # folder of the lease of an import; it is there until all shards are


def find_files(uri: str, options: Options | None, endings: tuple[str, ...]) -> tuple[Store, dict[str, int]]:
    """Return the folder and the names and sizes of the files that a folder, a file or a glob means.

    A path that is there counts as it is written, whatever signs of a glob are in it. Of a folder these are the files
    with one of ``endings``, in capitals or not, at any depth but for hidden ones; of a folder without any, the parquet
    files with other names, if those are asked for. Raises `DataError` when there are none, and for files that would
    only be missed later: empty ones, links that lead nowhere, names that are not UTF-8.
    """
    full = absolute(uri)
    folder, _, base = full.rpartition("/")
    if base and "://" not in base and not folder.endswith(":/"):
        store = Store(folder or "/", options)
        if (full.lower().endswith(endings) or _is_glob(base)) and store.is_file(base):
            return store, _checked(store, {base: store.size(base)})
        if _is_glob(base) and not store.exists(base):
            regex = re.compile(_glob(base))
            listed = store.list()
            _check_imported(store, listed)
            names = {name: size for name, size in listed.items() if regex.fullmatch(name)}
            if not names:
                raise DataError(f"No file matches {shown(uri)}, and none is called so.")
            return store, _checked(store, names)
    store = Store(full, options)
    listed = store.list()
    if "" in listed:  # a file of another ending
        store = Store(folder or "/", options)
        return store, _checked(store, {base: listed[""]})
    _check_imported(store, listed)
    visible = {name: size for name, size in listed.items() if not hidden(name)}
    names = {name: size for name, size in visible.items() if name.lower().endswith(endings)}
    if not names and endings == PARQUET:
        names = _unnamed_parquet(store, visible)
    if not names:
        veiled = [name for name in listed if name.lower().endswith(endings) and not name.startswith("_raydvae/")]
        others = f" (but {few(veiled)}; names that begin with _ or . are left out)" if veiled else _others(visible)
        state = f"holds no {endings[0]} files{others}" if store.exists() else "does not exist"
        hint = "; `raydvae import` makes one of other formats" if endings == PARQUET else ""
        raise DataError(f"{shown(uri)} {state}. Give a folder of {endings[0]} files{hint}.")
    return store, _checked(store, names)


def _check_imported(store: Store, listed: Iterable[str]) -> None:
    """Raise `DataError` where an import has not written all of its shards: the others are no data set."""
    for name in listed:
        folder, sign, _ = f"/{name}".partition(f"/{IMPORTING}/")
        if sign:
            where = shown(f"{store.uri}{folder}")
            raise DataError(
                f"The import into {where} has not ended: rows are missing. Wait for it; or, if it was killed, run the "
                f"same `raydvae import` again, which begins anew. To give it up, delete the folder."
            )


def _checked(store: Store, names: dict[str, int]) -> dict[str, int]:
    """Return ``names``; `DataError` where a file of them cannot be what it is called."""
    revisions = {name.split("/")[1] for name in names if re.match(r"snapshots/[^/]+/", name)}
    if len(revisions) > 1:  # the cache of Hugging Face: each has all files, as links to the same or to changed ones
        raise DataError(
            f"{store.uri} holds {len(revisions)} versions of one data set, in snapshots/: "
            f"{', '.join(sorted(map(shown, revisions))[:MAX_NAMED])}. Give the folder of one."
        )
    for name, size in names.items():
        where = shown(f"{store.uri}/{name}")
        if not utf8(f"{store.uri}/{name}"):
            raise DataError(
                f"{where} has a name that is not UTF-8, so rows could not be told by it. Rename it; "
                "`convmv -f latin1 -t utf8` does so for many."
            )
        if lost := lost_link(store, name):
            raise DataError(f"{where} is a link to {shown(lost)}, which is not there. Mend it, or delete it.")
        if not size and (store.is_local or store.uri.startswith(("s3://", "s3a://"))):
            raise DataError(
                f"{where} is empty (0 bytes): what should have written it did not. Get it again, or delete it."
            )
    return names


def lost_link(store: Store, name: str) -> str | None:
    """Return where a file that is a link says to lead to, if there is nothing; ``None`` for all other files."""
    path = store.path(name)
    if store.is_local and os.path.islink(path) and not os.path.exists(path):
        return os.readlink(path)
    return None


def utf8(name: str) -> bool:
    """Whether a file's name can be stored as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored(name: str) -> str:
    r"""Return a file's name as text to store: with bytes that are not UTF-8 as ``\xe9``, and then ``\\`` for ``\``."""
    if utf8(name):
        return name
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c.replace("\\", "\\\\") for c in name)


def _unnamed_parquet(store: Store, files: dict[str, int]) -> dict[str, int]:
    """Return those of the first ``files`` that are parquet by their content, such as the part-00000 of Hadoop."""
    probed = [name for name, size in islice(files.items(), MAX_PROBED) if size >= MIN_PARQUET]
    heads = store.read_spans([(name, 0, len(MAGIC)) for name in probed])
    return {name: files[name] for name, head in zip(probed, heads, strict=True) if head == MAGIC}


def _others(files: Iterable[str]) -> str:
    """Return what a folder holds instead, for a message."""
    known = list(files)
    if not known:
        return ""
    return f" (but {few(known)})"


def _is_glob(base: str) -> bool:
    return any(sign in base for sign in "*?[")


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
            of_word = [
                name
                for name in known
                if any(re.match(rf"{word}([-_.]|$)", part, re.IGNORECASE) for part in name.split("/"))
            ]
            if of_word:
                found[split] = of_word
                break
    return found if len(found) == len(SPLITS) else {}


def few(names: Iterable[object], most: int = MAX_NAMED) -> str:
    """Return the first of many names, `shown`, for a message."""
    known = list(names)
    return ", ".join(shown(str(name)) for name in known[:most]) + (", …" if len(known) > most else "")


def neither(names: Iterable[str], parts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how many files are in none of the ``parts``, by the reason why they become no rows."""
    taken = {name for part in parts.values() for name in part}
    left = [name for name in names if name not in taken]
    return {f"file of neither split ({few(left)})": len(left)} if left else {}


def left_out(split: str, taken: int, rows: int, left: Sequence[str]) -> str:
    """Return the sentence that says which files of a divided folder are taken for ``split``, and which are not."""
    return (
        f"taken: {_files(taken)} of {split}, {rows:,} rows; "
        f"left out: {_files(len(left))} of another part ({few(left)}). To take others, give their folder, file or glob."
    )


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
