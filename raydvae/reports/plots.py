"""The paper's Figures 2, 5 and 6 drawn from the cells of their tables: one attack a chart, a purifier a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raydvae.evaluation.cards import Summed
from raydvae.reports import figures

Cells = Mapping[tuple[str, str], Summed]
Line = tuple[list[float], list[float]]
CLEAN, LARGER = "clean", "larger"
AXES = {"psnr": ("PSNR", "dB"), "acc": ("test accuracy", "%")}
Name = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart as SVG, and a sentence on it."""

    svg: Markup
    caption: str


def draw(table: str, cells: Cells, rows: Sequence[str], name: Name) -> list[Drawn]:
    """Return the charts of figure ``table`` ("fig2", "fig5", "fig6"; none for others), as far as there are cells.

    ``rows`` are in the order to show, and ``name`` gives what a row or column is called. A line needs two points.
    """
    charts = {"fig2": _figure2, "fig5": _figure5, "fig6": _figure6}
    return charts[table](cells, rows, name) if table in charts else []


def _figure2(cells: Cells, rows: Sequence[str], name: Name) -> list[Drawn]:
    by_target = [
        drawn for attack in rows for shown in AXES for drawn in _by_target(cells, [attack], name, "vae", shown)
    ]
    return by_target + _by_psnr(cells, rows, name, ("vae", "jpeg"))


def _figure5(cells: Cells, rows: Sequence[str], name: Name) -> list[Drawn]:
    return _by_psnr(cells, rows, name, ("vae", "ae"))


def _figure6(cells: Cells, rows: Sequence[str], name: Name) -> list[Drawn]:
    return _by_target(cells, rows, name, "d-vae", "acc")


def _by_target(cells: Cells, rows: Sequence[str], name: Name, kind: str, shown: str) -> list[Drawn]:
    what, unit = AXES[shown]
    drawn = []
    reference = {"clean images": _line(cells, CLEAN, kind, None, shown)}
    for attack in rows:
        if attack == CLEAN or attack.endswith(LARGER):
            continue
        shown_as = name(attack)
        larger = {f"{shown_as}, larger bound": _line(cells, f"{attack} {LARGER}", kind, None, shown)}
        series = _drawable({shown_as: _line(cells, attack, kind, None, shown)} | larger | reference)
        if shown_as in series:
            text = f"{shown_as}: {what} by the KLD target of the {name(kind)}"
            svg = figures.lines(
                series, label=text, title=f"{shown_as}, {name(kind)}", xlabel="KLD target, nats a position",
                ylabel=f"{what}, {unit}", log=True,
            )  # fmt: skip
            drawn.append(Drawn(Markup(svg), f"{text}."))
    return drawn


def _by_psnr(cells: Cells, rows: Sequence[str], name: Name, kinds: Sequence[str]) -> list[Drawn]:
    drawn = []
    for attack in rows:
        series = _drawable({name(kind): _line(cells, attack, kind, "psnr", "acc") for kind in kinds})
        if series:
            text = f"{name(attack)}: test accuracy by PSNR to the poisoned images, {' and '.join(series)}"
            svg = figures.lines(series, label=text, title=name(attack), xlabel="PSNR, dB", ylabel="test accuracy, %")
            drawn.append(Drawn(Markup(svg), f"{text}. Higher at the same PSNR is a better trade."))
    return drawn


def _line(cells: Cells, row: str, kind: str, x: str | None, y: str) -> Line:
    """Return the points of one purifier on one attack; their x is the cell ``x``, or the setting itself."""
    points = []
    for (there, column), cell in cells.items():
        of, setting, shown = column.split()
        if (there, of, shown) != (row, kind, y):
            continue
        across = None if x is None else cells.get((row, f"{of} {setting} {x}"))
        if x is None or across is not None:
            points.append((float(setting) if across is None else across.mean, cell.mean))
    points.sort()
    return [point[0] for point in points], [point[1] for point in points]


def _drawable(series: Mapping[str, Line]) -> dict[str, Line]:
    return {name: line for name, line in series.items() if len(line[0]) > 1}
