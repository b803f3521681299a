"""Poisoning a data set, unit by unit: the same committed, resumable work as a purification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydvae.attacks.base import Array, Attack, apply, measure
from raydvae.attacks.selection import Selection
from raydvae.data.dataset import Classes, Dataset, Rows, Unit, decode_rows
from raydvae.data.manifest import Run, check_rejected, parquet_bytes
from raydvae.engine import Engine, Watch, apply_to_units

PARTS = "work/poison"
TABLE = "poison.parquet"


@dataclass(slots=True)
class PoisonWork:
    """Add an attack's noise to the selected rows of each unit."""

    run: Run
    data: Dataset
    classes: Classes
    image_size: int
    attack: Attack
    selection: Selection
    name: str = "poison"

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.image_size)

    def load(self, device: torch.device) -> None:
        """Nothing to load: the attack holds what it needs."""

    def compute(self, rows: Rows) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Return poisoned images, which rows are poisoned, and the norm of each row's change."""
        mask = self.selection.mask(rows.row_ids, rows.labels)
        out = rows.images.copy()
        if mask.any():
            ids = [row_id for row_id, chosen in zip(rows.row_ids, mask, strict=True) if chosen]
            noise = self.attack.noise(rows.images[mask], rows.labels[mask], ids)
            out[mask] = apply(rows.images[mask], noise, self.attack.bound)
        change = (out.astype(np.float64) - rows.images) / 255
        return out, mask, measure(change, self.attack.bound.norm)

    def commit(
        self, rows: Rows, result: tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Publish the unit, and beside the data which rows were poisoned, and how much."""
        out, mask, norms = result
        table = pa.table({"row_id": rows.row_ids, "poisoned": mask, "norm": norms})
        self.run.home.write(f"{PARTS}/{rows.unit.file}", parquet_bytes(table))
        return self.run.commit(self.name, self.data, rows, out, notes={"rows_poisoned": int(mask.sum())})


def poison(work: PoisonWork, config: dict[str, Any], engine: Engine, watch: Watch | None = None) -> dict[str, int]:
    """Poison a data set into ``work.run``'s folder, or go on with it; return the counts of rows."""
    run, data = work.run, work.data
    run.open("poison", config, data, {"classes": {"count": work.classes.count, "names": work.classes.names}})
    apply_to_units(engine, run, work, data, watch)
    records = run.records(work.name)
    counts = {
        key: sum(record[key] for record in records) for key in ("rows_in", "rows_out", "rows_rejected", "rows_poisoned")
    }
    check_rejected(counts["rows_rejected"], data.rows, data.data.reject_limit, f"{run.home.uri}/rejected")
    if not run.home.exists(TABLE):
        parts = [run.home.read(f"{PARTS}/{record['unit']}.parquet") for record in records]
        run.home.write(TABLE, parquet_bytes(pa.concat_tables(pq.read_table(pa.BufferReader(part)) for part in parts)))
        run.home.delete(PARTS)
    return counts


def rows_of(data: Dataset, classes: Classes) -> Iterator[tuple[str, int]]:
    """Iterate over id and class of every row, reading label columns only."""
    for unit in data.units():
        labels = classes.numbers(data.read(unit, columns=[data.schema.label]).column(0))
        yield from zip(unit.row_ids(), (int(label) for label in labels), strict=True)
