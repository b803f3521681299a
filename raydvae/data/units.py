"""Units of work: bounded slices of files, with ids that tell them and their rows apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydvae.data.footers import Segment, SourceFile


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


def cut_file(file: SourceFile, unit_rows: int) -> Iterator[Unit]:
    """Cut a file at row groups into units of at most ``unit_rows`` rows."""
    start = group = skip = 0
    while start < file.rows:
        room, last, used = unit_rows, group, skip
        while last < len(file.groups) and file.groups[last] - used <= room:
            room -= file.groups[last] - used
            last, used = last + 1, 0
        if room == unit_rows:  # a row group larger than a unit is cut
            used, room = used + unit_rows, 0
        stop = start + unit_rows - room
        name = f"{file.base}-r{file.first + start:010d}"
        yield Unit(name, file.name, start, stop, group, skip, _cut(file.origin, start, stop))
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
