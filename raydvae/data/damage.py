"""Damage to what a run has committed: noticed before it counts, and mended by dropping the records of those units.

A commit record names each file of its unit with its size and SHA-256. Presence and sizes cost one listing; sums cost
reading everything, so they are compared when that is asked for, or cheap.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import HOME, Run, unsealed
from raydvae.data.shapes import COUNT, mismatch, parse_json
from raydvae.data.store import Store, checksum
from raydvae.data.units import Unit
from raydvae.errors import ConfigError, DataError

COMMITTED = {"files?": {"": [COUNT, str]}, "bytes?": COUNT, "sha256?": (None, str)}
log = logging.getLogger(__name__)

CHEAP = 256 * 2**20  # bytes on a local disk whose sums are always compared: a second or less
MISSING = "is missing"
SHOWN = 3  # names in a message
OUTPUTS = ("pass3", "poison", "defend")  # steps whose older records name no files: those are in the run's folder
Record = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file, by its name in the run's folder, and the unit that it belongs to."""

    unit: str
    file: str
    what: str


@dataclass(slots=True)
class Found:
    """The records of a step's units that are whole, by unit, and what is damaged of the others."""

    good: dict[str, Record] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Name what is damaged, in a few words."""
        names = [f"{damage.file} {damage.what}" for damage in self.damaged]
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{len(names)} {'file is' if len(names) == 1 else 'files are'} damaged: {'; '.join(names[:SHOWN])}{more}"


def examine(
    run: Run, step: str, sums: bool | None = None, spare: str = "", only: Collection[str] | None = None
) -> Found:
    """Compare the files that ``step`` has committed with their records, and change nothing.

    ``sums`` says whether to compare SHA-256 sums too: None does where that is cheap. Files whose names begin with
    ``spare`` may be gone: they are deleted once they are used. ``only`` looks at those units.
    """
    found = Found()
    there = run.store.list()
    for unit, blob in run.blobs(step).items():
        if only is not None and unit not in only:
            continue
        if (record := _record(blob, unit)) is None:
            found.damaged.append(Damage(unit, f"{HOME}/commits/{step}/{unit}.json", "is no commit record"))
            continue
        found.good[unit] = record
        for file, (size, _) in files_of(record, step).items():
            if file not in there:
                if not (spare and file.startswith(spare)):
                    found.damaged.append(Damage(unit, file, MISSING))
            elif there[file] != size:
                found.damaged.append(Damage(unit, file, f"has {there[file]} bytes instead of {size}"))
    _drop(found)
    if sums is None:
        sums = run.store.is_local and sum(r.get("bytes", 0) for r in found.good.values()) <= CHEAP
    if sums:
        for unit, record in found.good.items():
            for file, (_, told) in files_of(record, step).items():
                if file in there and checksum(run.store.read(file)) != told:
                    found.damaged.append(Damage(unit, file, "has other bytes than were written"))
        _drop(found)
    return found


def mend(
    run: Run,
    step: str,
    sums: bool | None = None,
    spare: str = "",
    only: Collection[str] | None = None,
    deleted: bool = False,
) -> Found:
    """Do as `examine`, and make units with damage count as not done, so that they are done again; the log tells.

    Of files that were ``deleted`` on purpose the log says nothing.
    """
    found = examine(run, step, sums, spare, only)
    units = sorted({damage.unit for damage in found.damaged})
    if deleted:
        found.damaged = [damage for damage in found.damaged if damage.what != MISSING]
    if found.damaged:
        log.warning("%s, %s: %s. Doing units again: %d.", run.store.uri, step, found.text, len(units))
    for unit in units:
        run.drop(step, unit)
    return found


def files_of(record: Record, step: str) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of each file of a unit, by name in the run's folder."""
    if "files" in record:
        return {file: (size, told) for file, (size, told) in record["files"].items()}
    if step in OUTPUTS and record.get("sha256"):
        return {f"{record['unit']}.parquet": (record["bytes"], record["sha256"])}
    return {}


def _drop(found: Found) -> None:
    for damage in found.damaged:
        found.good.pop(damage.unit, None)


def _record(blob: bytes, unit: str) -> Record | None:
    """Return a commit record, or None for what is none: a crash of the machine can leave an empty file."""
    record = unsealed(blob)
    if record is None or mismatch(record, COMMITTED) or (record.get("sha256") and "bytes" not in record):
        return None
    try:
        if record["unit"] != unit or not all(isinstance(record[f"rows_{of}"], int) for of in ("in", "out", "rejected")):
            return None
        files_of(record, "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def sound_json(store: Store, name: str, shape: Any) -> Any:
    """Return what a file tells that can be made again; None where it is missing or, which the log tells, damaged."""
    if not store.exists(name):
        return None
    with contextlib.suppress(ValueError):
        known = parse_json(store.read(name))
        if not mismatch(known, shape):
            return known
    log.warning("%s/%s is damaged; it is made again.", store.uri, name)
    return None


@dataclass(frozen=True, slots=True)
class Committed(Dataset):
    """An intermediate data set of a run, whose files are compared with their records as they are read."""

    sums: Mapping[str, str] = field(default_factory=dict)

    def read(self, unit: Unit, columns: Any = None) -> pa.Table:
        """See `Dataset.read`. Raises `DataError` for a file with other bytes than were written."""
        return Dataset.read(self if columns is None else self.unchecked(), unit, columns)

    def unchecked(self) -> Dataset:
        """Return the same without sums, for those who read parts of files only."""
        return Dataset(self.store, self.files, self.schema, self.data, self.whole)

    def open(self, name: str) -> Any:
        """Open a file for random-access reading, once it is compared."""
        if name not in self.sums:
            return self.store.open(name)
        data = self.store.read(name)
        if checksum(data) != self.sums[name]:
            raise DataError(f"{self.store.uri}/{name} is damaged: it has other bytes than were written. Run it again.")
        return pa.BufferReader(data)


def open_committed(run: Run, step: str, folder: str, like: Dataset) -> Committed:
    """Open what ``step`` has committed to ``folder`` of the run's home, with the settings of ``like``."""
    found = open_dataset(run.home.sub(folder).address, like.data, run.store.options)
    prefix = f"{HOME}/{folder}/"
    sums = {
        file.removeprefix(prefix): told
        for record in run.records(step)
        for file, (_, told) in files_of(record, step).items()
        if file.startswith(prefix)
    }
    return Committed(found.store, found.files, found.schema, found.data, found.whole, sums=sums)


def mending(use: Callable[[], T], mend_all: Callable[[], bool]) -> T:
    """Return ``use()``. Where that fails and ``mend_all`` then finds and mends damage, it is called once more."""
    try:
        return use()
    except (DataError, ConfigError):
        if not mend_all():
            raise
    return use()
