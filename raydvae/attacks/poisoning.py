"""Poisoning a data set, unit by unit: the same committed, resumable work as a purification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydvae.attacks.base import Array, Attack, Floats, apply, measure
from raydvae.attacks.configs import NTGAConfig
from raydvae.attacks.recipes import Recipe, prepare
from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import HOME, Run, check_rejected, parquet_bytes
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.selection import Selection, select
from raydvae.data.store import checksum
from raydvae.data.units import Unit
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held, units_left

BATCH = 128
STEP = "poison"
PARTS = "work/poison"
TABLE, TABLE_SUM = "poison.parquet", "poison.sha256"


@dataclass(slots=True)
class PoisonWork:
    """Add an attack's noise to the selected rows of each unit."""

    run: Run
    data: Dataset
    classes: Classes
    recipe: Recipe
    selection: Selection
    name: str = STEP
    attack: Attack | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"attack": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.recipe.image_size)

    def load(self, device: torch.device) -> None:
        """Load the surrogates or statistics of the attack."""
        self.attack = self.recipe.build(device)

    def compute(self, rows: Rows) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Return poisoned images, which rows are poisoned, and the norm of each row's change."""
        assert self.attack is not None
        mask = self.selection.mask(rows.row_ids, rows.labels)
        out = rows.images.copy()
        if mask.any():
            ids = [row_id for row_id, chosen in zip(rows.row_ids, mask, strict=True) if chosen]
            noise = self._noise(rows.images[mask], rows.labels[mask], ids)
            out[mask] = apply(rows.images[mask], noise, self.attack.bound)
        change = (out.astype(np.float64) - rows.images) / 255
        return out, mask, measure(change, self.attack.bound.norm)

    def _noise(self, images: Array, labels: npt.NDArray[np.int64], ids: list[str]) -> Floats:
        # Batches of fixed size from the unit's first row: some noise depends on its batch in the last bit.
        assert self.attack is not None
        config = self.recipe.config
        size = config.block_rows if isinstance(config, NTGAConfig) else BATCH
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        return np.concatenate([self.attack.noise(images[part], labels[part], ids[part]) for part in parts])

    def commit(
        self, rows: Rows, result: tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]
    ) -> dict[str, Any]:
        """Publish the unit, and beside the data which rows were poisoned, and how much."""
        return publish(self.run, self.data, rows, *result)


def publish(
    run: Run,
    data: Dataset,
    rows: Rows,
    out: Array,
    mask: npt.NDArray[np.bool_],
    norms: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Publish a poisoned unit: its part of the table of poisoned rows, its file, and the record."""
    table = pa.table({"row_id": rows.row_ids, "poisoned": mask, "norm": norms})
    part = {f"{HOME}/{PARTS}/{rows.unit.file}": parquet_bytes(table)}
    run.write(part)
    return run.commit(STEP, data, rows, out, notes={"rows_poisoned": int(mask.sum())}, written=part)


def to_poison(run: Run, data: Dataset, verify: bool = False) -> list[Unit]:
    """Return the units that are left to poison, damaged ones included; all of them where the table is lost."""
    if not whole(run):
        run.home.delete(TABLE)
        return units_left(run, STEP, data, verify)
    return units_left(run, STEP, data, verify, spare=f"{HOME}/{PARTS}/")


def whole(run: Run) -> bool:
    """Whether the table of poisoned rows is there, as it was written."""
    if not run.home.exists(TABLE) or not run.home.exists(TABLE_SUM):  # an older version wrote no sum
        return run.home.exists(TABLE)
    return bool(checksum(run.home.read(TABLE)) == run.home.read(TABLE_SUM).decode(errors="replace"))


def collect(run: Run) -> dict[str, int]:
    """Put the parts of the table of poisoned rows together, once, and return the counts of rows."""
    records = run.records(STEP)
    if not run.home.exists(TABLE):
        parts = [run.home.read(f"{PARTS}/{record['unit']}.parquet") for record in records]
        tables = [pq.ParquetFile(pa.BufferReader(part)).read() for part in parts]
        table = parquet_bytes(pa.concat_tables(tables))
        run.home.write(TABLE_SUM, checksum(table).encode())
        run.home.write(TABLE, table)
    run.home.delete(PARTS)
    names = ("rows_in", "rows_out", "rows_rejected", "rows_poisoned")
    return {name: sum(record[name] for record in records) for name in names}


def poison(
    recipe: Recipe,
    data: Dataset,
    classes: Classes,
    run: Run,
    engine: Engine,
    *,
    ratio: float = 1.0,
    stratified: bool = False,
    watch: Watch | None = None,
    verify: bool = False,
) -> dict[str, int]:
    """Poison a data set into ``run``'s folder, or go on with it; return the counts of rows.

    ``ratio`` of the rows are poisoned, or of each class's if ``stratified``; the others keep their pixels. Units whose
    files are damaged are done again; with ``verify`` all sums are compared.
    """
    chosen = rows_of(data, classes) if 0 < ratio < 1 else ()
    selection = select(chosen, ratio, recipe.config.seed, stratified)
    about = {"attack": recipe.config.kind, "ratio": ratio, "stratified": stratified, **asdict(recipe.config)}
    with held(run, watch or Silent(), "poison", data) as (run, watch):
        recipe = replace(recipe, store=run.home)
        run.open("poison", about, data, {"classes": classes.to_dict()})
        work = PoisonWork(run, data, classes, recipe, selection)
        if left := to_poison(run, data, verify):
            prepare(recipe, data, classes, engine, watch)
            apply_to_units(engine, run, work, data, watch, left)
        counts = collect(run)
    check_rejected(counts["rows_rejected"], data.rows, data.data.reject_limit, f"see {run.home.uri}/rejected")
    return counts


def rows_of(data: Dataset, classes: Classes) -> Iterator[tuple[str, int]]:
    """Iterate over id and class of every row, reading label columns only."""
    for unit in data.units():
        labels = classes.numbers(data.read(unit, columns=[data.schema.label]).column(0))
        yield from zip(unit.row_ids(), (int(label) for label in labels), strict=True)
