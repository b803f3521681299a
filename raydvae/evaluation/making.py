"""`make_table`: all of a table, or the rows and columns asked for, from the data set to the cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset, probe_size
from raydvae.data.lease import Lease
from raydvae.data.manifest import HOME, check_apart
from raydvae.data.store import Store
from raydvae.engine import Engine, Watch
from raydvae.errors import ConfigError
from raydvae.evaluation.bench import Bench
from raydvae.evaluation.cards import Card, make, there
from raydvae.evaluation.matrix import Cell, Table, expand, shared
from raydvae.evaluation.scales import Scale, full, subset
from raydvae.evaluation.steps import FAINT, Source
from raydvae.evaluation.tables import find_table

DIGITS = "digits"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a table comes to: its cells, and all cells of the same settings that may have been made before."""

    table: Table
    scale: Scale
    train: Source
    test: Source
    cells: list[Cell]
    every: list[Cell]
    data: Dataset | None  # where it is no part of a library

    @property
    def steps(self) -> int:
        """How many different steps the cells need."""
        return len(shared(self.cells))


def plan(
    name: str,
    uri: str,
    scale: str,
    seeds: int = 1,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    options: dict[str, object] | None = None,
) -> Plan:
    """Return the plan of table ``name`` on the data set at ``uri``, before any work.

    Raises `ConfigError` for what the table does not have, and `DataError` for a data set without two splits.
    """
    table = find_table(name)
    if scale not in ("full", "subset"):
        raise ConfigError(f"There is no scale {scale!r}; choose full or subset.")
    prints: dict[str, tuple[str, ...]] = {"train": (), "test": ()}
    splits: dict[str, Dataset] = {}
    if uri in (DIGITS, FAINT):  # the second is what pages call them
        uri = FAINT
        if scale == "full":
            raise ConfigError("scikit-learn's digits have no full scale: the paper has no settings for them.")
        settings = subset(True, 10, 0)
    else:
        splits = {split: open_dataset(uri, DataConfig(), options, split=split) for split in ("train", "test")}
        if splits["train"].files == splits["test"].files:
            raise ConfigError(
                f"{uri} is not divided into files train-* and test-*; give a folder that is, as `raydvae import` makes."
            )
        classes = find_classes(splits["train"]).count
        size = probe_size(splits["train"])
        settings = full(name, classes, size) if scale == "full" else subset(False, classes, size)
        prints = {split: tuple(file.fingerprint for file in found.files) for split, found in splits.items()}
    train = Source(uri, "train", settings.rows, prints["train"])
    test = Source(uri, "test", settings.test_rows, prints["test"])
    cells = expand(table, settings, train, test, seeds, rows, columns)
    every = expand(table, settings, train, test, seeds, table.rows, table.columns)
    return Plan(table, settings, train, test, cells, every, splits.get("train"))


def make_table(
    planned: Plan, out: Store, engine: Engine, watch: Watch, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Card], Bench]:
    """Make the cards of a plan in folder ``out``, or go on with them; return all of the table's that are there.

    Raises `ConfigError` for a folder among the data set's files.
    """
    if planned.data is not None:
        check_apart(out, planned.data)
    settings = planned.scale
    bench = Bench(out, planned.train, settings.image_size, settings.data, engine, watch, say)
    with Lease(out.sub(HOME)):
        make(planned.cells, planned.table, settings.name, bench)
    return there(planned.every, out), bench
