"""Training on more than fits in memory: every epoch streams the rows from storage, in windows that are shuffled.

An epoch is one long row of units, in an order drawn anew. It is cut into as many equal pieces as a batch has slices;
each slice reads its own piece, a window of units at a time, and shuffles inside of the window. So every row comes once
an epoch, a worker reads only what its slices need, and the order is a function of seed and epoch, whoever reads.

Which rows can be used is found out beforehand, by a scan that decodes each row once (`Scan`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import check_rejected, sealed, unsealed
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.selection import Choice
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.errors import DataError
from raydvae.seeds import derive
from raydvae.training.feed import Cut, Slice

SHOWN_REASONS = 3
Array = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Piece = tuple[Unit, int, int]  # usable rows start..stop of a unit
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of a training: those of ``data`` that can be decoded and, with ``selection``, that it selects."""

    data: Dataset
    classes: Classes
    image_size: int
    selection: Choice | None = None

    def read(self, unit: Unit) -> Rows:
        """Return a unit's usable rows."""
        table = self.data.read(unit)
        only = None
        if self.selection is not None:
            labels = self.classes.numbers(table.column(self.data.schema.label))
            only = self.selection.mask(unit.row_ids(), labels)
        return decode_rows(self.data, unit, table, self.classes, self.image_size, only)

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded image."""
        return 3 * self.image_size**2


@dataclass(frozen=True, slots=True)
class Window:
    """Some pieces that are read, decoded and shuffled together."""

    pieces: tuple[Piece, ...]
    seed: int

    @property
    def rows(self) -> int:
        """Rows in the window."""
        return sum(stop - start for _, start, stop in self.pieces)


# How windows are read: ahead of their use, in order. On a cluster they come as a Ray Data stream.
Reader = Callable[[Source, Sequence[Window]], Iterator[tuple[Array, Labels]]]


def read_window(source: Source, window: Window) -> tuple[Array, Labels]:
    """Return a window's images (N, H, W, 3) and labels (N,), shuffled."""
    images, labels = [], []
    for unit, start, stop in window.pieces:
        rows = source.read(unit)
        if len(rows.images) < stop:
            raise DataError(
                f"{source.data.store.uri}/{unit.source} has fewer usable rows than when it was scanned: it changed. "
                "Put it back as it was, or start anew in another folder."
            )
        images.append(rows.images[start:stop])
        labels.append(rows.labels[start:stop])
    order = np.random.default_rng(window.seed).permutation(window.rows)
    return np.concatenate(images)[order], np.concatenate(labels)[order]


def read_ahead(source: Source, windows: Sequence[Window]) -> Iterator[tuple[Array, Labels]]:
    """Read windows in this process."""
    return ahead(lambda window: read_window(source, window), windows)


def ahead(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Yield ``work(item)`` for each item, the next one under way in a thread while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for item in items:
            current, coming = coming, pool.submit(work, item)
            if current is not None:
                yield current.result()
        if coming is not None:
            yield coming.result()


@dataclass(frozen=True, slots=True)
class StreamFeed:
    """A `raydvae.training.feed.Feed` over ``counts``, the usable rows of each unit of the source.

    ``memory`` are the bytes of decoded images that all slices together may hold, two windows each.
    """

    source: Source
    counts: tuple[int, ...]
    memory: int
    reader: Reader = read_ahead

    def __len__(self) -> int:
        return sum(self.counts)

    def epoch(self, cut: Cut, seed: int, epoch: int, mine: range) -> Iterator[list[Slice]]:
        """See `Feed.epoch`."""
        plans = self.windows(cut, seed, epoch)
        streams = [_Rows(self.reader(self.source, plans[part])) for part in mine]
        for size in cut.sizes:
            share = cut.share(size)
            yield [stream.take(share[part]) for stream, part in zip(streams, mine, strict=True)]

    def windows(self, cut: Cut, seed: int, epoch: int) -> list[list[Window]]:
        """Return the windows of each slice in one epoch."""
        units = self.source.data.units()
        order = np.random.default_rng(derive(seed, "units", epoch)).permutation(len(units))
        line = [(units[index], 0, self.counts[index]) for index in order if self.counts[index]]
        limit = max(1, self.memory // (2 * cut.slices * self.source.row_bytes))
        out = []
        for part, pieces in enumerate(_cut(line, cut.totals())):
            groups = _group(pieces, limit)
            out.append(
                [Window(group, derive(seed, "window", epoch, part, index)) for index, group in enumerate(groups)]
            )
        return out


class _Rows:
    """Rows of consecutive windows, taken so many at a time."""

    def __init__(self, windows: Iterator[tuple[Array, Labels]]) -> None:
        self.windows = windows
        self.images, self.labels = np.empty((0, 0, 0, 3), np.uint8), np.empty(0, np.int64)

    def take(self, rows: int) -> Slice:
        images, labels, missing = [], [], rows
        while missing:
            if not len(self.images):
                self.images, self.labels = next(self.windows)
            images.append(self.images[:missing])
            labels.append(self.labels[:missing])
            self.images, self.labels = self.images[missing:], self.labels[missing:]
            missing = rows - sum(map(len, images))
        x = np.ascontiguousarray(np.concatenate(images).transpose(0, 3, 1, 2))
        return torch.from_numpy(x), torch.from_numpy(np.concatenate(labels))


def _cut(line: Iterable[Piece], totals: Sequence[int]) -> Iterator[list[Piece]]:
    """Cut a row of pieces into consecutive ones of ``totals`` rows."""
    left = iter(line)
    piece = next(left, None)
    for total in totals:
        out: list[Piece] = []
        while total:
            assert piece is not None
            unit, start, stop = piece
            middle = min(stop, start + total)
            out.append((unit, start, middle))
            total -= middle - start
            piece = (unit, middle, stop) if middle < stop else next(left, None)
        yield out


def _group(pieces: Iterable[Piece], limit: int) -> Iterator[tuple[Piece, ...]]:
    """Group pieces into windows of at most ``limit`` rows, or of one piece."""
    group: list[Piece] = []
    rows = 0
    for piece in pieces:
        size = piece[2] - piece[1]
        if group and rows + size > limit:
            yield tuple(group)
            group, rows = [], 0
        group.append(piece)
        rows += size
    if group:
        yield tuple(group)


@dataclass(slots=True)
class Scan:
    """Work on units that finds out which rows can be used; its records lie with the training, in ``scan/``."""

    source: Source
    store: Store
    name: str = "scan"

    def read(self, unit: Unit) -> Rows:
        """Decode one unit; what travels on are counts, not images."""
        rows = self.source.read(unit)
        return replace(rows, images=rows.images[:0])

    def load(self, device: torch.device) -> None:
        """There is no model."""

    def compute(self, rows: Rows) -> None:
        """There is nothing to compute."""

    def commit(self, rows: Rows, result: None) -> dict[str, Any]:
        """Write the unit's record."""
        record = {
            "unit": rows.unit.id,
            "rows_in": rows.unit.rows,
            "rows_usable": len(rows.labels),
            "rows_rejected": rows.rejected.num_rows,
            "reasons": Counter(rows.reasons),
        }
        self.store.write_json(f"scan/{rows.unit.id}.json", sealed(record))
        return record

    def left(self) -> list[Unit]:
        """Return the units that are not scanned yet."""
        done = self._records()
        return [unit for unit in self.source.data.units() if unit.id not in done]

    def _records(self) -> dict[str, dict[str, Any]]:
        """Return the records by unit; a damaged one is none."""
        there, out = self.store.list("scan"), {}
        units = [unit for unit in self.source.data.units() if f"scan/{unit.id}.json" in there]
        blobs = self.store.read_many([f"scan/{unit.id}.json" for unit in units]).values()
        for unit, blob in zip(units, blobs, strict=True):
            with contextlib.suppress(TypeError, KeyError):
                record = unsealed(blob) or {}
                if record["unit"] == unit.id and record["rows_in"] >= record["rows_usable"] + record["rows_rejected"]:
                    out[unit.id] = record | {"reasons": Counter(record["reasons"])}
        return out

    def counts(self) -> tuple[int, ...]:
        """Return the usable rows of each unit; `DataError` where more cannot be used than the reject limit allows."""
        found = self._records()
        records = [found[unit.id] for unit in self.source.data.units()]
        reasons = sum((record["reasons"] for record in records), Counter[str]())
        why = "; ".join(f"{reason} ({count} rows)" for reason, count in reasons.most_common(SHOWN_REASONS))
        limit = self.source.data.data.reject_limit
        check_rejected(reasons.total(), sum(record["rows_in"] for record in records), limit, why)
        return tuple(record["rows_usable"] for record in records)
