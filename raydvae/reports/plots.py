"""The paper's Figures 2, 5 and 6 drawn from the cells of their tables: one attack a chart, a purifier a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydvae.evaluation.cards import Summed
from raydvae.reports import figures

Cells = Mapping[tuple[str, str], Summed]
Line = tuple[list[float], list[float]]
CLEAN, LARGER = "clean", "larger"
AXES = {"psnr": ("PSNR", "dB"), "acc": ("test accuracy", "%")}
KINDS = {"vae": "VAE", "ae": "AE", "jpeg": "JPEG", "d-vae": "D-VAE"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart as SVG, and a sentence on it."""

    svg: str
    caption: str


def draw(table: str, cells: Cells, names: Mapping[str, str]) -> list[Drawn]:
    """Return the charts of figure ``table`` ("fig2", "fig5", "fig6"; none for others), as far as there are cells.

    ``names`` are the attacks in their order, with the names to show. A line needs two points.
    """
    charts = {"fig2": _figure2, "fig5": _figure5, "fig6": _figure6}
    return charts[table](cells, names) if table in charts else []


def _figure2(cells: Cells, names: Mapping[str, str]) -> list[Drawn]:
    by_target = [
        drawn
        for attack, name in names.items()
        for shown in AXES
        for drawn in _by_target(cells, {attack: name}, "vae", shown)
    ]
    return by_target + _by_psnr(cells, names, ("vae", "jpeg"))


def _figure5(cells: Cells, names: Mapping[str, str]) -> list[Drawn]:
    return _by_psnr(cells, names, ("vae", "ae"))


def _figure6(cells: Cells, names: Mapping[str, str]) -> list[Drawn]:
    return _by_target(cells, names, "d-vae", "acc")


def _by_target(cells: Cells, names: Mapping[str, str], kind: str, shown: str) -> list[Drawn]:
    what, unit = AXES[shown]
    drawn = []
    reference = {"clean images": _line(cells, CLEAN, kind, None, shown)}
    for attack, name in names.items():
        if attack == CLEAN or attack.endswith(LARGER):
            continue
        larger = {f"{name}, larger bound": _line(cells, f"{attack} {LARGER}", kind, None, shown)}
        series = _drawable({name: _line(cells, attack, kind, None, shown)} | larger | reference)
        if name in series:
            text = f"{name}: {what} by the KLD target of the {KINDS[kind]}"
            svg = figures.lines(
                series, label=text, title=f"{name}, {KINDS[kind]}", xlabel="KLD target, nats a position",
                ylabel=f"{what}, {unit}", log=True,
            )  # fmt: skip
            drawn.append(Drawn(svg, f"{text}."))
    return drawn


def _by_psnr(cells: Cells, names: Mapping[str, str], kinds: Sequence[str]) -> list[Drawn]:
    drawn = []
    for attack, name in names.items():
        series = _drawable({KINDS[kind]: _line(cells, attack, kind, "psnr", "acc") for kind in kinds})
        if series:
            text = f"{name}: test accuracy by PSNR to the poisoned images, {' and '.join(series)}"
            svg = figures.lines(
                series, label=text, title=name, xlabel="PSNR, dB", ylabel="test accuracy, %"
            )  # fmt: skip
            drawn.append(Drawn(svg, f"{text}. Higher at the same PSNR is a better trade."))
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
