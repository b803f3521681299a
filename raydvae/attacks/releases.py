"""Official releases of poisons laid over a clean data set, and ours written for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydvae.attacks.artifacts import Artifact, match, read_artifact, to_npy, to_pt
from raydvae.attacks.base import Array, measure
from raydvae.attacks.poisoning import collect, publish, to_poison
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset, probe_size
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.store import Options, Store, absolute, checksum
from raydvae.data.units import Unit
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held
from raydvae.errors import DataError, StorageError


@dataclass(slots=True)
class ReleaseWork:
    """Replace each row by its poisoned form in a release; rows that the release does not have stay as they are."""

    run: Run
    data: Dataset
    classes: Classes
    image_size: int
    artifact: Artifact
    name: str = "poison"
    places: dict[str, int] = field(default_factory=dict)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.image_size)

    def load(self, device: torch.device) -> None:
        """Find the release's row of every row of the data set: its place, or its bytes where the order is another."""
        start = 0
        for rows in (self.read(unit) for unit in self.data.units()):
            if self.artifact.clean is None:
                found = rows.kept + start
            else:
                found = match(self.artifact, rows.images)
                self._check_labels(found, rows)
            self.places.update(zip(rows.row_ids, found.tolist(), strict=True))
            start += rows.unit.rows

    def _check_labels(self, found: npt.NDArray[np.int64], rows: Rows) -> None:
        labels = self.artifact.labels
        if labels is not None and (labels[found[found >= 0]] != rows.labels[found >= 0]).any():
            raise DataError(
                f"{self.artifact.where} has other labels than {self.data.store.uri} for the same images; "
                "give the data set that it was made for."
            )

    def compute(self, rows: Rows) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Return poisoned images, which rows are poisoned, and the l2 norm of each row's change."""
        found = np.array([self.places[row_id] for row_id in rows.row_ids], dtype=np.int64)
        mask = found >= 0
        out = rows.images.copy()
        out[mask] = self.artifact.poison(rows.images[mask], rows.labels[mask], found[mask])
        return out, mask, measure((out.astype(np.float64) - rows.images) / 255, "l2")

    def commit(
        self, rows: Rows, result: tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Publish the unit, and beside the data which rows were poisoned, and how much."""
        return publish(self.run, self.data, rows, *result)


def import_poison(
    file: str,
    clean: Dataset,
    classes: Classes,
    image_size: int,
    out: Store,
    engine: Engine,
    options: Options | None = None,
    watch: Watch | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Lay the release at ``file`` (a file, or a folder of files) over ``clean``; return counts and measured norms.

    Units whose files are damaged are done again; with ``verify`` all sums are compared.
    """
    files = _files(file, options)
    artifact = read_artifact(files, file).fit(clean.rows, (image_size, image_size, 3), classes.count)
    sums = {name: checksum(data) for name, data in sorted(files.items())}
    about = {"release": sums, "holds": artifact.holds}
    with held(Run(out), watch or Silent(), "poison", clean) as (run, watch):
        run.open("poison", about, clean, {"classes": classes.to_dict()})
        left = to_poison(run, clean, verify)
        apply_to_units(engine, run, ReleaseWork(run, clean, classes, image_size, artifact), clean, watch, left)
        counts = collect(run)
    check_rejected(counts["rows_rejected"], clean.rows, clean.data.reject_limit, f"see {run.home.uri}/rejected")
    return {**counts, **norms(clean, run, classes, image_size)}


def norms(clean: Dataset, run: Run, classes: Classes, image_size: int) -> dict[str, float]:
    """Return mean and largest l2, and largest linf norm (levels of 1/255), of a poisoned data set's changes."""
    sizes: list[npt.NDArray[np.float64]] = []
    most = 0.0
    for before, after, _ in pairs(
        clean, open_dataset(run.store.address, clean.data, run.store.options), classes, image_size
    ):
        change = after.astype(np.float64) - before
        sizes.append(measure(change / 255, "l2"))
        most = max(most, float(np.abs(change).max(initial=0)))
    every = np.concatenate(sizes) if sizes else np.zeros(1)
    return {"l2_mean": float(every.mean()), "l2_max": float(every.max()), "linf_levels": most}


def pairs(
    clean: Dataset, poisoned: Dataset, classes: Classes, image_size: int
) -> Iterator[tuple[Array, Array, npt.NDArray[np.int64]]]:
    """Iterate over units of ``poisoned`` with the same rows of ``clean``, by row id: before, after, labels.

    Raises `DataError` when ``poisoned`` was not made from ``clean``.
    """
    for unit in poisoned.units():
        after = decode_rows(poisoned, unit, poisoned.read(unit), classes, image_size)
        before = images_of(clean, after, classes, image_size)
        if len(after.images):
            yield before, after.images, after.labels


def images_of(clean: Dataset, rows: Rows, classes: Classes, image_size: int) -> Array:
    """Return the images of ``clean`` (N, H, W, 3) uint8 that ``rows`` were made from, by row id.

    Raises `DataError` when one of them is not there, or has another label there: who shuffles or filters a data set
    with another program may leave rows under the ids of others.
    """
    wanted = dict(zip(rows.row_ids, rows.labels.tolist(), strict=True))
    found: dict[str, Array] = {}
    # As whatever made the rows did: rows that it refused for their size are not wanted.
    resized = dataclasses.replace(clean, data=dataclasses.replace(clean.data, size_policy="resize"))
    for candidate in _sources(clean, rows.unit):
        there = decode_rows(resized, candidate, clean.read(candidate), classes, image_size)
        for row_id, image, label in zip(there.row_ids, there.images, there.labels.tolist(), strict=True):
            if row_id in wanted:
                if label != wanted[row_id]:
                    raise DataError(
                        f"The row {row_id} of {rows.unit.source} is of class {wanted[row_id]}, and of class {label} in "
                        f"{clean.store.uri}: it is not the same row. Give the data set that it was made from, and the "
                        "poisoned one as raydvae wrote it, not sorted or filtered since."
                    )
                found[row_id] = image
    missing = wanted.keys() - found.keys()
    if missing:
        raise DataError(
            f"The row {min(missing)} of {rows.unit.source} is not in {clean.store.uri}; "
            "give the data set that it was made from."
        )
    return np.stack([found[row_id] for row_id in rows.row_ids]) if wanted else rows.images


def _sources(clean: Dataset, unit: Unit) -> list[Unit]:
    ranges = {(file, start, stop) for file, start, stop in unit.origin}

    def meets(candidate: Unit) -> bool:
        return any(
            file == other and start < end and begin < stop
            for file, start, stop in ranges
            for other, begin, end in candidate.origin
        )

    return [candidate for candidate in clean.units() if meets(candidate)]


def _files(file: str, options: Options | None) -> dict[str, bytes]:
    folder, name = absolute(file).rsplit("/", 1)
    parent = Store(folder or "/", options)
    if parent.is_file(name):
        return {name: parent.read(name)}
    store = Store(file, options)
    names = [name for name in store.list() if not name.split("/")[-1].startswith(".")]
    if not names:
        raise StorageError(f"There is no release at {file}: neither a file nor a folder with files. Check the path.")
    return store.read_many(names)


def export_poison(
    poisoned: Dataset, clean: Dataset, file: str, form: str, options: Options | None = None
) -> tuple[int, int]:
    """Write the noise between two data sets to ``file`` as "pt" or "npy"; return its rows and bytes.

    Rows are in the clean data set's order, and all of them must be there: these forms have no place for gaps.
    """
    classes, size = find_classes(clean), probe_size(poisoned)
    parts = list(pairs(clean, poisoned, classes, size))
    before, after = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
    if len(before) != clean.rows:
        raise DataError(
            f"{poisoned.store.uri} has {len(before)} of the {clean.rows} rows of {clean.store.uri}; "
            "a release is of all rows in order. Give the data set that it was made from."
        )
    data = to_pt(before, after) if form == "pt" else to_npy(before, after)
    folder, name = absolute(file).rsplit("/", 1)
    Store(folder, options).write(name, data)
    return len(before), len(data)
