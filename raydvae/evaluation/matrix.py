"""A table as cells: rows, columns and seeds, each with the steps that its figure comes from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from raydvae.errors import ConfigError
from raydvae.evaluation.chains import Chains
from raydvae.evaluation.scales import Scale
from raydvae.evaluation.steps import Source, Step

if TYPE_CHECKING:
    from raydvae.evaluation.bench import Bench


@dataclass(frozen=True, slots=True)
class Measure:
    """What a cell shows: ``name`` of the results of ``steps`` ("seconds" of their records), times ``factor``.

    Of several steps it is the best, the mean or the sum.
    """

    steps: tuple[Step, ...]
    name: str = "test_acc"
    of: Literal["best", "mean", "sum"] = "best"
    factor: float = 1.0
    unit: str = "%"

    @property
    def key(self) -> str:
        """A hash of all that the figure comes from."""
        text = json.dumps([[step.key for step in self.steps], self.name, self.of, self.factor])
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def value(self, bench: Bench) -> float:
        """Do what is missing and return the figure."""
        results = [bench.result(step) for step in self.steps]
        if self.name == "seconds":
            results = [bench.record(step) or {} for step in self.steps]
        values = [float(result[self.name]) for result in results]
        whole = {"best": max(values), "mean": sum(values) / len(values), "sum": sum(values)}[self.of]
        return self.factor * whole


Pick = Callable[[Chains, str, str], Measure | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table or figure: its rows and columns, and what is in each cell, None where it is empty.

    A row is an attack, or an attack and a number. ``costly`` are columns that the subset leaves out unless they are
    asked for; ``halves`` says that the paper prints the table for CIFAR-10 and for CIFAR-100.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    pick: Pick = field(repr=False)
    costly: frozenset[str] = frozenset()
    halves: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure to be made: its place in the table, its seed, and its measure."""

    table: str
    row: str
    column: str
    seed: int
    measure: Measure

    @property
    def file(self) -> str:
        """Name of its card below the folder of cards."""
        place = "--".join(re.sub(r"[^a-z0-9.]+", "-", part).strip("-") for part in (self.row, self.column))
        return f"table-{self.table}/{place}--seed{self.seed}--{self.measure.key}.json"


def expand(
    table: Table,
    scale: Scale,
    train: Source,
    test: Source,
    seeds: int = 1,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> list[Cell]:
    """Return the cells of ``table``, row by row, or of the rows and columns that are named, or begin with the word.

    Raises `ConfigError` for names that the table does not have.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; give at least 1.")
    wanted = chosen("rows", table.rows, rows) if rows else [r for r in table.rows if _usual(r, scale)]
    left_out = table.costly if scale.name != "full" else frozenset[str]()
    across = chosen("columns", table.columns, columns) if columns else [c for c in table.columns if c not in left_out]
    cells: list[Cell] = []
    for row in wanted:
        for column in across:
            for seed in range(seeds):
                measure = table.pick(Chains(scale, train, test, seed), row, column)
                if measure is not None:
                    cells.append(Cell(table.name, row, column, seed, measure))
    return cells


def shared(cells: Sequence[Cell]) -> dict[str, Step]:
    """Return the steps of all ``cells`` by key: what is computed once, however many cells need it."""
    return {step.key: step for cell in cells for part in cell.measure.steps for step in part.chain()}


def chosen(what: str, there: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Return those of ``there`` that are ``asked`` for, in full or by their first word."""
    for name in asked:
        if not any(name in (one, one.split()[0]) for one in there):
            raise ConfigError(f"There is nothing called {name!r} among the {what}; choose of {', '.join(there)}.")
    return [one for one in there if one in asked or one.split()[0] in asked]


def _usual(row: str, scale: Scale) -> bool:
    attack, *more = row.split()
    if scale.name == "full":
        return True
    return more != ["larger"] and (attack in scale.usual or attack not in scale.attacks)
