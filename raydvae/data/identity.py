"""What rows and units are called: names that hold through every later step, and that no two share.

A row goes by the file and row that it first came from. Files that raydvae writes say where their rows came from
(`raydvae.origin` in the schema's metadata), and a sum of their own bytes in the footer (`raydvae.body`), which no other
program keeps: who filters, joins or shuffles such a file with pyarrow copies the first and not the second. Then, and
where several files claim the same rows, rows go by the file in which they lie now.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from raydvae.data.footers import Segment, SourceFile, samples
from raydvae.data.partitions import without_keys
from raydvae.errors import shown

MAX_ROW = 2**53
BODY = b"raydvae.body"
LONGEST = 255 - len("-r0000000000.parquet")  # bytes of a file's name
CONTINUED = re.compile(r"(.*)-r(\d{10})")  # what our own files are called: BASE-rFIRST_ROW
log = logging.getLogger("raydvae.data")


def body_sum(end: int, read: Callable[[list[tuple[int, int]]], Iterable[bytes]]) -> str:
    """Return a sum of samples of a file's first ``end`` bytes, all but its footer; ``read`` returns parts of it."""
    digest = hashlib.sha256(str(end).encode())
    for part in read(samples(end)):
        digest.update(part)
    return digest.hexdigest()[:32]


def claim(text: bytes | None, rows: int) -> tuple[Segment, ...] | None:
    """Return where a file's ``rows`` rows came from, as its metadata says; None where that cannot be."""
    try:
        value: Any = json.loads(text or b"")
        segments = tuple((file, start, stop) for file, start, stop in value)
    except (ValueError, TypeError, RecursionError):
        return None
    sound = all(
        _is_name(file) and type(start) is int and type(stop) is int and 0 <= start < stop < MAX_ROW
        for file, start, stop in segments
    )
    return segments if sound and sum(stop - start for _, start, stop in segments) == rows else None


def _is_name(file: object) -> bool:
    try:
        return isinstance(file, str) and bool(file.encode())
    except UnicodeEncodeError:
        return False


def settle(files: Sequence[SourceFile], uri: str) -> tuple[SourceFile, ...]:
    """Return ``files`` with origins that are disjoint and with names for their units that are, too.

    Says in the log which files lost the ids that their rows had. The fingerprint of a file that is called otherwise
    because of another file changes, so that a run that began without that file is not gone on with.
    """
    known = list(files)
    while doubled := _doubled(known):
        known = [_disown(file) if file.name in doubled else file for file in known]
    lost = [file.name for file, now in zip(files, known, strict=True) if file.claimed and not now.claimed]
    if lost:
        tell(f"{_new_ids(lost, uri)}: other files there hold the same rows.")
    return _named(known)


@cache
def tell(sentence: str) -> None:
    """Say a sentence once: a data set is opened by several parts of a command."""
    log.warning("%s", sentence)


def tell_rewritten(names: Sequence[str], uri: str) -> None:
    """Say that files were written again by others, if there are any."""
    if names:
        tell(f"{_new_ids(names, uri)}: another program, or an older version of raydvae, wrote what raydvae had made.")


class _Taken:
    """Ranges that are taken, by name."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {}

    def meets(self, name: str, start: int, stop: int) -> bool:
        there = self.ranges.get(name, [])
        at = bisect_left(there, (start, start))
        return (at > 0 and there[at - 1][1] > start) or (at < len(there) and there[at][0] < stop)

    def take(self, name: str, start: int, stop: int) -> None:
        there = self.ranges.setdefault(name, [])
        there.insert(bisect_left(there, (start, stop)), (start, stop))


def _doubled(files: Sequence[SourceFile]) -> set[str]:
    """Return the files that claim rows which files before them have, or which are a file's own."""
    taken, doubled = _Taken(), set()
    for file in sorted(files, key=lambda file: (file.claimed, file.name)):
        for segment in file.origin:
            if file.claimed and taken.meets(*segment):
                doubled.add(file.name)
                break
            taken.take(*segment)
    return doubled


def _disown(file: SourceFile) -> SourceFile:
    own = ((file.name, 0, file.rows),)
    return dataclasses.replace(file, origin=own, claimed=False, fingerprint=_salted(file.fingerprint, "rows"))


def _named(files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    taken, out = _Taken(), {}
    for file in sorted(files, key=lambda file: (file.claimed, not file.name.endswith(".parquet"), file.name)):
        base, first = wanted = _wanted(file)
        if taken.meets(base, first, first + max(1, file.rows)):
            base, first = _short(file.name), 0
        while taken.meets(base, first, first + max(1, file.rows)):
            base += "~"
        taken.take(base, first, first + max(1, file.rows))
        fingerprint = file.fingerprint if (base, first) == wanted else _salted(file.fingerprint, base)
        out[file.name] = dataclasses.replace(file, base=base, first=first, fingerprint=fingerprint)
    return tuple(out[file.name] for file in files)


def _wanted(file: SourceFile) -> tuple[str, int]:
    stem, dot, ending = file.name.rpartition(".")
    stem = without_keys(stem if dot and ending.lower() in ("parquet", "pq") else file.name)
    found = CONTINUED.fullmatch(stem) if file.claimed else None
    return (found[1], int(found[2])) if found else (_short(stem), 0)


def _short(stem: str) -> str:
    """Return a name to which a file system lets us append, where the last part is too long for that."""
    folder, slash, last = stem.rpartition("/")
    if len(last.encode()) <= LONGEST:
        return stem
    digest = hashlib.sha256(last.encode()).hexdigest()[:16]
    return f"{folder}{slash}{last.encode()[: LONGEST - 20].decode(errors='ignore')}~{digest}"


def _salted(fingerprint: str, salt: str) -> str:
    return hashlib.sha256(f"{fingerprint} {salt}".encode()).hexdigest()[:32]


def _new_ids(names: Sequence[str], uri: str) -> str:
    some = shown(", ".join(names[:3])) + (", …" if len(names) > 3 else "")
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    return f"Rows of {files} of {uri} ({some}) go by new ids, which flags and poisons made before do not know"
