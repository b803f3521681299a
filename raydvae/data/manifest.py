"""A run's folder: its configuration, one small record for each unit committed, rejected rows.

OUT/*.parquet                  the output data set, and nothing else
OUT/_raydvae/run.json          what was asked for, of what source
OUT/_raydvae/commits/STEP/     one record a unit: an object store cannot append
OUT/_raydvae/rejected/         bad rows with their original bytes and a reason
OUT/_raydvae/work/             intermediate data sets
"""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import raydvae
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.failures import hide_all
from raydvae.data.files import hidden
from raydvae.data.identity import BODY, body_sum
from raydvae.data.merging import revealed
from raydvae.data.rows import Rows, build_table
from raydvae.data.schema import ORIGIN
from raydvae.data.shapes import COUNT, NUMBER, WHOLE, check_shape, mismatch, parse_json
from raydvae.data.store import TEMPORARY, Store, checksum
from raydvae.data.units import Unit
from raydvae.errors import ConfigError, DataError, StorageError

FORMAT = 2
READABLE = (1, 2)  # 1: rows and units were called otherwise, and what was done by the names of classes
RUN = {
    "kind": str,
    "config": {},
    "source": {"uri": str, "files": [[str, COUNT, COUNT, str]], "rows": COUNT, "units?": COUNT},
    "classes?": {"count": COUNT, "names": (None, [str]), "ids?": (None, [WHOLE])},
    "versions?": {"": (None, str)},
}
MADE = {"config": {"preset": str}, "classes": {"count": COUNT}}  # of the folder of a purification
RECORD = {
    "unit": str,
    "source?": [(str, COUNT)],
    **{"rows_in": COUNT, "rows_out": COUNT, "rows_rejected": COUNT, "bytes?": COUNT, "sha256?": (None, str)},
    **{"rows_poisoned?": COUNT, "psnr_counts?": [COUNT], "psnr_sum?": NUMBER, "p_norms?": {"": [NUMBER]}},
}
SEAL = "record_sha256"
HOME = "_raydvae"


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one run. Cheap to pickle: what it has read of records stays behind."""

    store: Store
    _read: dict[str, tuple[int, bytes]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Run], tuple[Store]]:
        return Run, (self.store,)

    @property
    def home(self) -> Store:
        """Where everything but the output data lies."""
        return self.store.sub(HOME)

    def open(
        self, kind: str, config: dict[str, Any], dataset: Dataset, extra: dict[str, Any], may_grow: bool = False
    ) -> bool:
        """Start the run, or go on with it; return whether it was there before.

        With ``may_grow`` the source may have gained files: they are the run's from now on. Raises `ConfigError` when
        the folder belongs to a run with other settings or another source, and as `check` does.
        """
        self.check(kind, dataset)
        asked = {
            "format": FORMAT,
            "kind": kind,
            "config": config,
            "source": {
                "uri": dataset.store.uri,
                "files": [[f.name, f.size, f.rows, f.fingerprint] for f in dataset.files],
                "rows": dataset.rows,
                "units": len(dataset.units()),
            },
            **extra,
        }
        asked = hide_all(asked)
        if not self.exists():
            self.home.write_json("run.json", asked | {"versions": versions()})
            return False
        known = self.read()
        if _same(known, asked, self.store.uri, may_grow):
            self.home.write_json("run.json", known | {"source": asked["source"]})
        return True

    def check(self, kind: str, *sources: Dataset) -> None:
        """Raise when no run of ``kind`` can be had here: before anything is written.

        `ConfigError` where the folder is a source's, or lies where the source would be read with it the next time, and
        where a run of another kind is there; `StorageError` where it holds parquet files that no run made.
        """
        for source in sources:
            check_apart(self.store, source)
        if self.exists():
            known = self.read()
            if known["kind"] != kind:
                raise ConfigError(
                    f"{self.store.uri} holds a {known['kind']} run, not a {kind} run; give another folder."
                )
            if known["format"] != FORMAT:
                raise ConfigError(
                    f"{self.store.uri} was begun by an older version, which called rows and units otherwise (format "
                    f"{known['format']}, now {FORMAT}). End it with that version, or begin anew in another folder."
                )
            return
        there = self.store.list()
        if any(name.startswith(f"{HOME}/commits/") for name in there):
            raise StorageError(
                f"{self.home.uri}/run.json is missing, which says what was asked for here. Put it back from a copy, or "
                "give another folder; nothing was changed."
            )
        strangers = [name for name in there if name.endswith(".parquet") and not name.startswith(f"{HOME}/")]
        if strangers:
            raise StorageError(
                f"{self.store.uri} already holds data that no raydvae run made ({strangers[0]}). "
                "Give an empty or new folder; nothing was changed."
            )

    def exists(self) -> bool:
        """Whether a run began here."""
        return self.home.exists("run.json")

    def read(self) -> dict[str, Any]:
        """Return what run.json holds."""
        if not self.exists():
            raise DataError(f"{self.store.uri} is not the folder of a raydvae run: it has no {HOME}/run.json.")
        try:
            known: Any = parse_json(self.home.read("run.json"))
        except ValueError:
            raise StorageError(
                f"{self.home.uri}/run.json is not valid JSON: it was damaged, or is not ours. Put it back from a copy, "
                "or give another folder."
            ) from None
        if not isinstance(known, dict) or "format" not in known:
            raise DataError(
                f"{self.home.uri}/run.json is damaged or not ours: it says nothing of a run. Put it back from a copy, "
                "or give another folder."
            )
        if known["format"] not in READABLE:
            raise ConfigError(
                f"{self.store.uri} was written in format {known['format']}, this version reads up to {FORMAT}; "
                "use the version that wrote it."
            )
        check_shape(known, RUN, f"{self.home.uri}/run.json", "Put it back from a copy, or give another folder.")
        return dict(known)

    def read_purification(self) -> dict[str, Any]:
        """Return what run.json holds of a purification; `DataError` where it has no preset or classes."""
        known = self.read()
        if known["kind"] == "purify":
            check_shape(known, MADE, f"{self.home.uri}/run.json", "Put it back from a copy, or give another folder.")
        return known

    def done(self, step: str) -> set[str]:
        """Return the ids of the units committed in ``step``: a listing, no file is read."""
        return set(self._listed(step))

    def _listed(self, step: str) -> dict[str, tuple[str, int]]:
        """Return name and size of each unit's record, in the units' order."""
        out: dict[str, tuple[str, int]] = {}
        for name, size in self.home.list(f"commits/{step}").items():
            file = name.split("/", 2)[2]
            # A process that was killed in the middle of a commit has left a temporary file there.
            if file.endswith(".json") and not file.startswith(TEMPORARY):
                out[file.removesuffix(".json")] = (name, size)
        return dict(sorted(out.items()))

    def blobs(self, step: str) -> dict[str, bytes]:
        """Return all commit records of ``step`` as they lie there, by unit; each is read once, unless its size changes.

        There are as many as units, and a run that is gone on with looks at them again and again.
        """
        listed = self._listed(step)
        missing = [name for name, size in listed.values() if self._read.get(name, (None,))[0] != size]
        for name, blob in self.home.read_many(missing).items():
            self._read[name] = len(blob), blob
        return {unit: self._read[name][1] for unit, (name, _) in listed.items()}

    def drop(self, step: str, unit: str) -> None:
        """Delete a unit's commit record: the unit counts as not done."""
        name = f"commits/{step}/{unit}.json"
        self.home.delete(name)
        self._read.pop(name, None)

    def records(self, step: str) -> list[dict[str, Any]]:
        """Return all commit records of ``step``, in the units' order; `DataError` for a damaged one."""
        out: list[dict[str, Any]] = []
        for unit, data in self.blobs(step).items():
            record = unsealed(data)
            if record is None or mismatch(record, RECORD):
                raise DataError(
                    f"{self.home.uri}/commits/{step}/{unit}.json is damaged; run the command that made "
                    f"{self.store.uri} again to mend it."
                )
            out.append(record)
        return out

    def publish(self, dataset: Dataset, rows: Rows, images: Array, folder: str = "") -> bytes:
        """Write a unit's output file, if it has rows, and return its bytes."""
        data = parquet_bytes(build_table(dataset.schema, rows, images), dataset.schema.image)
        written = pq.read_metadata(pa.BufferReader(data)).num_rows
        if written != len(rows.images) or written + rows.rejected.num_rows != rows.unit.rows:
            raise DataError(f"Unit {rows.unit.id}: {rows.unit.rows} rows in, but {written} out; nothing was published.")
        if not written:
            return b""
        self.store.write(f"{folder}/{rows.unit.file}" if folder else rows.unit.file, data)
        return data

    def reject(self, rows: Rows) -> dict[str, bytes]:
        """Write a unit's rejected rows, if it has any, and return the file by its name in the run's folder."""
        if not rows.rejected.num_rows:
            return {}
        file = {f"{HOME}/rejected/{rows.unit.file}": parquet_bytes(rows.rejected)}
        self.write(file)
        return file

    def write(self, files: Mapping[str, bytes]) -> None:
        """Publish files by their names in the run's folder."""
        for name, data in files.items():
            self.store.write(name, data)

    def commit(
        self,
        step: str,
        dataset: Dataset,
        rows: Rows,
        images: Array,
        folder: str = "",
        notes: dict[str, Any] | None = None,
        written: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Publish a unit's output, then the record that makes it count; both whole or not at all.

        ``folder`` is where below the run the file goes; ``notes`` are kept in the record; ``written`` are other files
        of the unit, by their names in the run's folder, that were written before. Writing a unit twice gives the same
        bytes, so a retry is harmless.
        """
        files = dict(written or {})
        data = self.publish(dataset, rows, images, folder)
        if data:
            files[f"{folder}/{rows.unit.file}" if folder else rows.unit.file] = data
        files |= self.reject(rows)
        return self.record(
            step,
            {
                "unit": rows.unit.id,
                "source": [rows.unit.source, rows.unit.start, rows.unit.stop],
                "rows_in": rows.unit.rows,
                "rows_out": len(rows.images),
                "rows_rejected": rows.rejected.num_rows,
                "bytes": len(data),
                "sha256": checksum(data) if data else None,
                "files": described(files),
                **(notes or {}),
            },
        )

    def record(self, step: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Publish the record that makes a unit's files count, and return it."""
        out = sealed(record)
        self.home.write_json(f"commits/{step}/{out['unit']}.json", out)
        return out


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the sum of what it says."""
    told = {name: value for name, value in record.items() if name != SEAL}
    return {**told, SEAL: checksum(json.dumps(told, sort_keys=True).encode())}


def unsealed(blob: bytes) -> dict[str, Any] | None:
    """Return the record in a file that `sealed` made, or None where it says something else by now; old ones pass."""
    try:
        record = parse_json(blob)
    except ValueError:
        return None
    if not isinstance(record, dict) or (SEAL in record and record != sealed(record)):
        return None
    return record


def described(files: Mapping[str, bytes]) -> dict[str, list[int | str]]:
    """Return size and SHA-256 of files by name, as a commit record tells them (see `raydvae.data.damage`)."""
    return {name: [len(data), checksum(data)] for name, data in files.items()}


def parquet_bytes(table: pa.Table, image: str | None = None) -> bytes:
    """Return ``table`` as one parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table = pa.Table.from_arrays(table.columns, schema=revealed(table.schema))
    with pq.ParquetWriter(buffer, table.schema, **parquet_options(table.schema, image)) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        if ORIGIN in (table.schema.metadata or {}):
            body = buffer.getvalue()
            writer.add_key_value_metadata({BODY: body_sum(len(body), lambda spans: [body[a:b] for a, b in spans])})
    return buffer.getvalue()


def parquet_options(schema: pa.Schema, image: str | None = None) -> dict[str, Any]:
    """Return how pyarrow is to write files of ``schema``, whose image column is ``image``."""
    # Encoded images are compressed already, and never repeat. Statistics of them would only bloat the footer.
    plain = [] if image is None else [image, f"{image}.bytes"]
    columns = [c for c in _leaves(schema) if c not in plain]
    return {
        "compression": {c: "zstd" for c in columns} or "none",
        "write_statistics": columns or False,
        "use_dictionary": columns or False,
    }


def _leaves(schema: pa.Schema) -> list[str]:
    out: list[str] = []

    def walk(prefix: str, kind: pa.DataType) -> None:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if isinstance(kind, pa.StructType):
            for child in kind:
                walk(f"{prefix}.{child.name}", child.type)
        elif isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            walk(f"{prefix}.list.element", kind.value_type)
        else:
            out.append(prefix)

    for column in schema:
        walk(column.name, column.type)
    return out


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    from importlib.metadata import version

    names = ("torch", "numpy", "pyarrow", "pillow", "ray")
    return {"raydvae": raydvae.__version__, "python": platform.python_version()} | {n: version(n) for n in names}


def check_rejected(rejected: int, rows: int, limit: float, why: str) -> None:
    """Raise `DataError` when more rows were rejected than the limit allows; ``why`` tells or leads to the reasons."""
    if rows and rejected > limit * rows:
        raise DataError(
            f"{rejected} of {rows} rows cannot be used, more than the limit of {limit:.1%} (data.reject_limit): {why}. "
            "Mend the source; or allow for it with --reject-limit, --classes or --image-size, whichever fits."
        )


def check_apart(out: Store, source: Dataset) -> None:
    """Raise `ConfigError` where what is written to ``out`` would be read as a part of ``source`` the next time."""
    if source.whole and _inside(out, source.store):
        raise ConfigError(
            f"{out.uri} lies in the source, {source.store.uri}: what is written there would be read as a part of it "
            "the next time. Give a folder beside it."
        )


def _inside(out: Store, source: Store) -> bool:
    """Whether what is written to ``out`` would be among the files of the folder ``source``."""
    here, there = (os.path.realpath(store.path()) if store.is_local else store.address for store in (out, source))
    if _below(here, there):
        return True
    linked = source.linked() if source.is_local and out.is_local else {}
    return any(_below(here, folder) for name, folder in linked.items() if not hidden(name))


def _below(here: str, there: str) -> bool:
    rest = here.removeprefix(f"{there.rstrip('/')}/")
    return here == there or (rest != here and not hidden(rest))


def _same(known: dict[str, Any], asked: dict[str, Any], uri: str, may_grow: bool) -> bool:
    """Return whether the source has gained files; raise where the run is another one."""
    before = {name: rest for name, *rest in known["source"]["files"]}
    now = {name: rest for name, *rest in asked["source"]["files"]}
    gained = sorted(now.keys() - before.keys())
    for name in sorted(before):
        if before.get(name) != now.get(name):
            change = "is gone" if name not in now else "has changed"
            raise DataError(
                f"Source file {name} {change} since this run began; its results would not belong together. "
                f"Put the source back as it was, or start anew in another folder than {uri}."
            )
    if gained and not may_grow:
        raise DataError(
            f"Source file {gained[0]} is new since this run began. Only a purification whose models are trained takes "
            f"new files: let it finish on those it began with first, or start anew in another folder than {uri}."
        )
    for place, old, new in _differences(known, asked):
        raise ConfigError(
            f"{uri} was started with {place} = {old!r}, now it is {new!r}. Run it with the same settings, "
            "or give another folder."
        )
    return bool(gained)


def _differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        skip = {"versions", "source"}
        names = sorted((old.keys() | new.keys()) - skip)
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{place}.{n}".lstrip("."))]
    plain_new = list(new) if isinstance(new, tuple) else new
    return [] if old == plain_new else [(place, old, plain_new)]


__all__ = ["HOME", "Run", "Unit", "check_apart", "check_rejected", "parquet_bytes", "parquet_options", "versions"]
