"""The page of a table, made from its cards alone: our figure beside the paper's; and the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydvae.data.store import Store
from raydvae.evaluation.cards import Card, Summed, summed
from raydvae.evaluation.matrix import Table
from raydvae.evaluation.paper import printed
from raydvae.reports.html import duration, fill
from raydvae.reports.plots import draw

DIGITS = {"%": 2, "dB": 2, "": 3, "l2": 2, "1e-4": 2, "min": 2}
NAMES = {
    "w/o": "none", "at": "AT", "aa": "AA", "bdr": "BDR", "gray": "Gray", "jpeg": "JPEG", "iss": "ISS", "ava": "AVATAR",
    "lfu": "LFU", "ours": "D-VAE", "rn-50": "D-VAE, RN-50", "dn-121": "D-VAE, DN-121", "mn-v2": "D-VAE, MN-v2",
    "p_hat": "p̂", "mse": "MSE/1e-4", "psnr": "PSNR", "t": "T", "d": "D", "p": "P", "acc": "accuracy", "f1": "F1",
    "mean": "mean", "clean": "clean", "d-vae": "D-VAE",
}  # fmt: skip
NOT_ATTACKS = ("clean", "psnr", "at", "ours")  # rows that no mean over attacks counts


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell as it is read: our figure, the paper's, and what is wrong with that."""

    ours: str
    paper: str
    doubt: str = ""


def write_tables(table: Table, cards: Sequence[Card], out: Store) -> dict[str, str]:
    """Write ``table-NAME.html`` and ``table-NAME.md`` of these cards; return their addresses."""
    grid = Grid(table, cards)
    files = {"page": f"table-{table.name}.html", "markdown": f"table-{table.name}.md"}
    label = f"Table {table.name}" if table.name.isdecimal() else f"Figure {table.name.removeprefix('fig')}"
    charts = draw(table.name, grid.cells, grid.rows, name)
    page = fill("table.html.j2", grid=grid, table=table, label=label, facts=grid.facts(), charts=charts)
    out.write(files["page"], page.encode())
    out.write(files["markdown"], markdown(grid).encode())
    return {name: f"{out.uri}/{file}" for name, file in files.items()}


class Grid:
    """A table's cells as text: the rows and columns that have any, and a mean over attacks where accuracies are."""

    def __init__(self, table: Table, cards: Sequence[Card]) -> None:
        self.table, self.cards = table, cards
        self.cells = summed(cards)
        self.rows = [row for row in table.rows if any(place[0] == row for place in self.cells)]
        self.columns = [column for column in table.columns if any(place[1] == column for place in self.cells)]
        self.lines = [(name(row), [self._shown(row, column) for column in self.columns]) for row in self.rows]
        attacks = [row for row in self.rows if row not in NOT_ATTACKS and " " not in row]
        if len(attacks) > 1 and {cell.unit for cell in self.cells.values()} <= {"%", "dB"}:
            self.lines.append(("mean", [self._mean(attacks, column) for column in self.columns]))
        self.doubts = [
            (f"{line}, {name(column)}", cell.doubt)
            for line, shown in self.lines
            for column, cell in zip(self.columns, shown, strict=True)
            if cell.doubt
        ]

    @property
    def heads(self) -> list[str]:
        """Names of the columns."""
        return [name(column) for column in self.columns]

    @property
    def printed(self) -> bool:
        """Whether the paper prints any of it."""
        return any(cell.paper is not None for cell in self.cells.values())

    def facts(self) -> list[tuple[str, str]]:
        """What the figures were made of and with."""
        first = self.cards[0] if self.cards else {}
        if not first:
            return []
        data = first["data"]
        steps = {key: step for card in self.cards for key, step in card["config"].items()}
        trained = [step for step in steps.values() if step["step"] == "classified"]
        model = trained[0]["config"] if trained else None
        test = [step for step in steps.values() if step["step"] == "source" and step["split"] == "test"]
        facts = [
            ("Data", f"{_last(data['uri'])}: {data['rows']} rows in {data['classes']} classes at "
             f"{data['image_size']} px" + (f", tested on {test[0]['result']['rows']}" if test else "")),
            ("Scale", first["scale"]),
            ("Seeds", str(len({card["seed"] for card in self.cards}))),
        ]  # fmt: skip
        if model:
            train = model["train"]
            text = (
                f"{model['model']}, {train['epochs']} epochs of batches of {train['batch_size']}, rate {train['lr']:g}"
            )
            facts.append(("Classifier", text))
        facts += _stages(steps)
        devices = sorted({card["device"] for card in self.cards})
        spent = sum(step["seconds"] for step in steps.values())
        facts += [
            ("Made on", f"{', '.join(devices)}, {first['workers']} worker(s)"),
            ("Time", f"{duration(spent)} for {len(steps)} steps, each done once for all cells that need it"),
            ("Versions", ", ".join(f"{part} {version}" for part, version in first["versions"].items())),
        ]
        return facts

    def _shown(self, row: str, column: str) -> Shown:
        cell = self.cells.get((row, column))
        if cell is None:
            return Shown("", "")
        return Shown(_ours(cell), _number(cell.paper, cell.unit), cell.doubt)

    def _mean(self, attacks: Sequence[str], column: str) -> Shown:
        found = [self.cells.get((row, column)) for row in attacks]
        there = [cell for cell in found if cell is not None]
        if len(there) < len(attacks):
            return Shown("", "")
        unit = there[0].unit
        ours = _number(sum(cell.mean for cell in there) / len(there), unit)
        papers = [cell.paper for cell in there if cell.paper is not None]
        whole = {row for row in self.table.rows if row not in NOT_ATTACKS} == set(attacks)
        as_printed = printed(self.table.name, "mean", column)
        if whole and as_printed.value is not None:
            return Shown(ours, _number(as_printed.value, unit), as_printed.doubt)
        return Shown(ours, _number(sum(papers) / len(papers), unit) if len(papers) == len(there) else "")


def markdown(grid: Grid) -> str:
    """Return the table as Markdown: in each cell ours, then the paper's in brackets; a doubtful one has an asterisk."""
    lines = [
        "| | " + " | ".join(grid.heads) + " |",
        "| --- |" + " --- |" * len(grid.heads),
    ]
    for head, cells in grid.lines:
        lines.append(f"| {head} | " + " | ".join(_markdown(cell) for cell in cells) + " |")
    lines += ["", *(f"- {what}: {text}." for what, text in grid.facts())]
    if grid.doubts:
        lines += ["", "Marked with *: " + "; ".join(f"{where}: {doubt}" for where, doubt in grid.doubts) + "."]
    return "\n".join(lines) + "\n"


def name(part: str) -> str:
    """Return a row or column as it is read."""
    first, *more = part.split()
    if first == "ours" and more:  # a score of a detection
        first = "our rule,"
    first = NAMES.get(first, first.upper() if first.isalpha() and len(first) < 5 else first)
    return " ".join([first, *(NAMES.get(word, word) for word in more)])


def _ours(cell: Summed) -> str:
    text = _number(cell.mean, cell.unit)
    return text if cell.spread is None else f"{text} ± {_number(cell.spread, cell.unit)}"


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.{DIGITS.get(unit, 2)}f}"


def _markdown(cell: Shown) -> str:
    paper = f" ({cell.paper}{'*' if cell.doubt else ''})" if cell.paper else ""
    return f"{cell.ours}{paper}"


def _last(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _stages(steps: dict[str, Any]) -> list[tuple[str, str]]:
    told: dict[str, tuple[str, str]] = {}
    for step in steps.values():
        if step["step"] == "model":
            stage = step["stage"]
            kind = "D-VAE" if step["disentangle"] else "VAE"
            text = (
                f"width {stage['model']['width']}, KLD target {stage['loss']['kld_target']:g}, "
                f"{stage['train']['epochs']} epochs of batches of {stage['train']['batch_size']}"
            )
            told.setdefault(text + kind + step["name"], (f"{kind}, {step['name']}", text))
    return sorted(told.values()) if len(told) <= 6 else []
