"""Result cards: one JSON a cell, which holds its figure, the paper's, and all that the figure comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from raydvae.data.damage import sound_json
from raydvae.data.failures import hide
from raydvae.data.manifest import versions
from raydvae.data.shapes import COUNT, NUMBER
from raydvae.data.store import Store
from raydvae.evaluation.bench import Bench
from raydvae.evaluation.matrix import Cell, Table
from raydvae.evaluation.paper import printed
from raydvae.evaluation.steps import Source

FORMAT = 1
CARDS = "cards"
CARD = {
    **{"row": str, "column": str, "seed": COUNT, "scale": str, "value": NUMBER, "unit": str, "seconds": NUMBER},
    **{"paper": (None, NUMBER), "paper_doubt": (None, str), "device": str, "workers": COUNT, "versions": {"": str}},
    "data": {"uri": str, "rows": COUNT, "classes": COUNT, "image_size": COUNT},
    "config": {"": {"step": str}},
}
Card = dict[str, Any]


def make(cells: Sequence[Cell], table: Table, scale: str, bench: Bench) -> list[Card]:
    """Return the cards of ``cells``, and make those that are not there yet with whatever they still need."""
    store = bench.out.sub(CARDS)
    cards: list[Card] = []
    for number, cell in enumerate(cells):
        card = sound_json(store, cell.file, CARD)
        if card is None:
            bench.say(f"table {table.name}: {cell.row}, {cell.column}, seed {cell.seed} ({number + 1} of {len(cells)})")
            value = cell.measure.value(bench)
            store.write_json(cell.file, _card(cell, table, scale, value, bench))
            card = store.read_json(cell.file)
        cards.append(card)
    return cards


def there(cells: Sequence[Cell], out: Store) -> list[Card]:
    """Return the cards of those of ``cells`` that have been made."""
    store = out.sub(CARDS)
    found = (sound_json(store, cell.file, CARD) for cell in cells)
    return [card for card in found if card is not None]


def _card(cell: Cell, table: Table, scale: str, value: float, bench: Bench) -> Card:
    half = table.halves and bench.classes.count == 100
    paper = printed(f"{table.name} cifar100" if half else table.name, cell.row, cell.column)
    steps = {step.key: step for part in cell.measure.steps for step in part.chain()}
    records = {key: bench.record(step) or {} for key, step in steps.items()}
    source = bench.source
    return {
        "format": FORMAT,
        "table": cell.table,
        "row": cell.row,
        "column": cell.column,
        "seed": cell.seed,
        "scale": scale,
        "value": value,
        "unit": cell.measure.unit,
        "paper": paper.value,
        "paper_doubt": paper.doubt,
        "seconds": round(sum(record["seconds"] for record in records.values()), 2),
        "device": bench.engine.device.type,
        "workers": bench.engine.workers,
        "versions": versions(),
        "data": {
            "uri": hide(source.uri),
            "fingerprints": source.fingerprints,
            "rows": bench.dataset(source).rows,
            "classes": bench.classes.count,
            "image_size": bench.image_size,
        },
        "config": {key: _config(step, records[key]) for key, step in steps.items()},
        "measure": {"of": cell.measure.of, "name": cell.measure.name, "factor": cell.measure.factor},
    }


def _config(step: Any, record: dict[str, Any]) -> dict[str, Any]:
    settings = {"split": step.split, "limit": step.limit} if isinstance(step, Source) else step.settings
    told = {name: record[name] for name in ("result", "seconds", "sessions", "device")}
    return {"step": step.kind, **settings, "from": [below.key for below in step.inputs], **told}


@dataclasses.dataclass(frozen=True, slots=True)
class Summed:
    """A cell over its seeds: mean, sample standard deviation (None for one seed), seeds, and the paper's figure."""

    mean: float
    spread: float | None
    seeds: int
    unit: str
    paper: float | None
    doubt: str
    seconds: float


def summed(cards: Sequence[Card]) -> dict[tuple[str, str], Summed]:
    """Return each row and column of ``cards`` over its seeds."""
    groups: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        groups.setdefault((card["row"], card["column"]), []).append(card)
    return {place: _summed(group) for place, group in groups.items()}


def _summed(group: Sequence[Card]) -> Summed:
    values = [float(card["value"]) for card in group]
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    spread = (squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    first = group[0]
    seconds = sum(card["seconds"] for card in group)
    return Summed(mean, spread, len(values), first["unit"], first["paper"], first["paper_doubt"], seconds)
