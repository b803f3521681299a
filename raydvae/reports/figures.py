"""Charts as inline SVG and image grids as PNG data URIs, for pages that must open anywhere without a network.

Charts carry no colors of their own: ink, grid and accent are CSS variables of the page (``--ink``, ``--chart-ink``,
``--chart-grid``, ``--accent``, each with a fallback), and text is text in the page's font, so one chart suits light and
dark pages. Every chart has a ``label``, a sentence that is read out in its place; labels on a page must differ.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from PIL import Image

from raydvae.data.codecs import Array

INK, STRONG, GRID, ACCENT = "#66707c", "#1b2127", "#dfe3e8", "#0b6e99"
VARIABLES = {INK: "--chart-ink", STRONG: "--ink", GRID: "--chart-grid", ACCENT: "--accent"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
}
WIDTH, HEIGHT = 5.2, 2.4  # inches of 72 SVG units
NAMED_BARS = 24  # more bars than this are drawn upright, ranked and without names
NAME_LENGTH = 22


def curve(
    epochs: Sequence[float],
    values: Sequence[float],
    *,
    label: str,
    title: str,
    window: tuple[float, float] | None = None,
    target: float | None = None,
    unit: str = "",
) -> str:
    """Return a line over epochs as SVG, with a shaded ``window`` and a dashed ``target``; non-finite values are gaps.

    The axis is not widened by a first tenth of the epochs that lies far from all that follows.
    """
    with _chart(label) as (axes, out):
        shown = np.array([value if math.isfinite(value) else math.nan for value in values], dtype=float)
        axes.plot(epochs, shown, color=ACCENT, marker="o" if len(shown) == 1 else None, markersize=5)
        if window is not None:
            axes.axhspan(*window, color=ACCENT, alpha=0.16, linewidth=0)
            _beside(axes, sum(window) / 2, f"target\n{window[0]:g}–{window[1]:g}{unit}")
        if target is not None:
            axes.axhline(target, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            _beside(axes, target, f"target\n{target:g}{unit}")
        if np.isfinite(shown).any():
            last = np.flatnonzero(np.isfinite(shown))[-1]
            axes.plot(epochs[last], shown[last], color=ACCENT, marker="o", markersize=5)
            axes.set_title(f"ends at {shown[last]:.2f}{unit}", loc="right", color=ACCENT, fontweight="bold")
            axes.set_ylim(*_reach(shown, [*(window or ()), *([] if target is None else [target])]))
        else:
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="bottom")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if len(shown) == 1:
            axes.set_xticks([epochs[0]])
    return out[0]


def _reach(values: npt.NDArray[np.float64], marks: Sequence[float]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    whole = [*finite, *marks]
    settled = [*finite[len(finite) // 10 :], *marks]
    if max(whole) - min(whole) > 4 * (max(settled) - min(settled)) > 0:
        whole = settled
    low, high = min(whole), max(whole)
    pad = 0.08 * (high - low) or 1.0
    return (max(0.0, low - pad) if low >= 0 else low - pad), high + pad


def response(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    fit: tuple[Sequence[float], Sequence[float]],
    *,
    label: str,
    title: str,
    xlabel: str,
    ylabel: str,
    window: tuple[float, float] | None = None,
    chosen: tuple[float, float] | None = None,
    log: bool = True,
) -> str:
    """Return measured points (x, y) by name and a curve through them as SVG, with a shaded ``window`` of y.

    ``chosen`` is a point that is marked and named. The first series is drawn in ink, the others in the accent color.
    """
    with _chart(label, width=2 * WIDTH) as (axes, out):
        if log:
            axes.set_xscale("log")
        if len(fit[0]):
            axes.plot(*fit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for number, (name, (x, y)) in enumerate(series.items()):
            mark, color = ("o", INK) if number == 0 else ("D", ACCENT)
            axes.plot(x, y, mark, color=color, markersize=5, linestyle="none", label=name)
        if window is not None:
            axes.axhspan(*window, color=ACCENT, alpha=0.16, linewidth=0)
            _beside(axes, sum(window) / 2, f"window\n{window[0]:g}–{window[1]:g} dB")
        if chosen is not None:
            axes.axvline(chosen[0], color=STRONG, linewidth=1)
            axes.annotate(
                f"{chosen[0]:g}: {chosen[1]:.2f} dB", chosen, xytext=(6, -12), textcoords="offset points", color=STRONG
            )
        if len(series) > 1:
            axes.legend(frameon=False, loc="upper left", fontsize=8.5)
        if log:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return out[0]


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    label: str,
    title: str,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> str:
    """Return up to three lines through measured points (x, y) by name as SVG; the first is in the accent color."""
    with _chart(label) as (axes, out):
        looks = (("o", ACCENT, "-"), ("D", STRONG, (0, (4, 3))), ("s", INK, (0, (1, 2))))
        for (mark, color, dashes), (name, (x, y)) in zip(looks, series.items(), strict=False):
            axes.plot(x, y, marker=mark, color=color, linestyle=dashes, linewidth=1.4, markersize=4.5, label=name)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8.5)
        if log:
            axes.set_xscale("log")
            axes.set_xticks(sorted({value for x, _ in series.values() for value in x}))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return out[0]


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    label: str,
    title: str,
    xlabel: str,
    window: tuple[float, float] | None = None,
    marker: tuple[float, str] | None = None,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> str:
    """Return counts (B) between ``edges`` (B + 1) as SVG, with a shaded ``window`` and a named vertical line.

    Bins that reach to infinity are not drawn, empty ones at either end are cut off. ``curves`` (x, y) by name lie
    above the counts, the first one dashed.
    """
    with _chart(label, width=2 * WIDTH) as (axes, out):
        bins = [
            (low, high, count)
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            if math.isfinite(low) and math.isfinite(high)
        ]
        filled = [place for place, (_, _, count) in enumerate(bins) if count]
        bins = bins[filled[0] : filled[-1] + 1] if filled else []
        for low, high, count in bins:
            axes.bar(low, count, width=0.92 * (high - low), align="edge", color=ACCENT)
        for (name, (x, y)), dashes in zip((curves or {}).items(), ((0, (4, 3)), "solid", "solid"), strict=False):
            axes.plot(x, y, color=STRONG, linewidth=1.2, linestyle=dashes, label=name)
        if curves:
            axes.legend(frameon=False, loc="upper center", fontsize=8.5)
        if window is not None:
            axes.axvspan(*window, color=ACCENT, alpha=0.16, linewidth=0, zorder=0)
        if marker is not None and bins:
            axes.axvline(marker[0], color=STRONG, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                marker[1],
                (marker[0], 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -2),
                textcoords="offset points",
                va="top",
            )
            axes.set_ylim(0, 1.18 * max(count for _, _, count in bins))
        if not bins:
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="bottom")
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    return out[0]


def bars(
    values: Mapping[str, float],
    *,
    label: str,
    title: str,
    errors: Mapping[str, float] | None = None,
    highlight: str | None = None,
    limit: float | None = None,
    digits: int = 2,
    unit: str = "",
) -> str:
    """Return named values as SVG, with ``errors`` as whiskers; all in the accent color, or only ``highlight``.

    Up to 24 lie in the given order, each with its name and number; more stand upright, ranked, without names.
    ``limit`` is the axis's end. Non-finite values have no bar.
    """
    names, numbers = list(values), [value if math.isfinite(value) else 0.0 for value in values.values()]
    whiskers = [_finite(errors[name]) for name in names] if errors else [0.0] * len(names)
    if len(names) > NAMED_BARS:
        return _ranked(numbers, whiskers, label=label, title=title)
    with _chart(label, width=2 * WIDTH, height=0.55 + 0.24 * max(1, len(names)), grid="x") as (axes, out):
        places = np.arange(len(names))
        colors = [ACCENT if highlight in (None, name) else INK for name in names]
        axes.barh(places, numbers, height=0.62, color=colors, alpha=0.5 if errors else None)
        if errors:
            axes.errorbar(numbers, places, xerr=whiskers, fmt="none", ecolor=STRONG, elinewidth=1)
        end = limit or 1.04 * max([a + b for a, b in zip(numbers, whiskers, strict=True)], default=0.0) or 1.0
        axes.set_xlim(min([0.0, *numbers]), end)
        for place, name in enumerate(names):
            text = f"{values[name]:.{digits}f}{unit}" if math.isfinite(values[name]) else "n/a"
            _beside(axes, place, text)
        axes.set_yticks(places, [shorten(name, NAME_LENGTH) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(title)
    return out[0]


def _ranked(numbers: list[float], whiskers: list[float], *, label: str, title: str) -> str:
    order = np.argsort(numbers, kind="stable")[::-1]
    with _chart(label, width=2 * WIDTH) as (axes, out):
        places = np.arange(1, len(order) + 1)
        axes.bar(places, np.array(numbers)[order], width=0.8, color=ACCENT, alpha=0.5)
        axes.errorbar(
            places, np.array(numbers)[order], yerr=np.array(whiskers)[order], fmt="none", ecolor=STRONG, elinewidth=0.7
        )
        axes.set_xlim(0, len(order) + 1)
        axes.set_ylim(bottom=min([0.0, *numbers]))
        axes.set_title(title)
        axes.set_xlabel("rank among the classes")
    return out[0]


def shorten(text: str, length: int) -> str:
    """Return ``text`` on one line, cut to ``length`` characters with an ellipsis."""
    flat = "".join(sign if sign.isprintable() else " " for sign in text)
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def normalize(images: npt.NDArray[np.float32]) -> Array:
    """Return (N, H, W, C) floats as bytes, each image stretched from its own minimum..maximum; a flat one is grey."""
    low = images.min(axis=(1, 2, 3), keepdims=True)
    spread = images.max(axis=(1, 2, 3), keepdims=True) - low
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(spread > 0, (images - low) / spread, 0.5)
    return (np.nan_to_num(scaled, nan=0.5) * 255).round().clip(0, 255).astype(np.uint8)


def image_grid(images: Array, columns: int, side: int, gap: int) -> str:
    """Return (N, H, W, 3) bytes as one PNG data URI: rows of ``columns`` images with a transparent ``gap`` between.

    Images wider or higher than ``side`` pixels are shrunk to it; smaller ones are left for the page to enlarge.
    """
    tiles = [_shrink(image, side) for image in images]
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet)
    (picture if len(tiles) > 1 else picture.convert("RGB")).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shrink(image: Array, side: int) -> Array:
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _beside(axes: Axes, y: float, text: str) -> None:
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points", va="center"
    )


@contextmanager
def _chart(
    label: str, width: float = WIDTH, height: float = HEIGHT, grid: str = "y"
) -> Iterator[tuple[Axes, list[str]]]:
    """Give empty axes to draw on; the finished SVG is the one item of the list afterwards."""
    out: list[str] = []
    style = STYLE | {"axes.grid.axis": grid, "svg.hashsalt": label}
    with matplotlib.style.context(["default", style]), warnings.catch_warnings():
        # The browser draws the text, with its own fonts; here it is only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot(), out
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    out.append(_inline(buffer.getvalue(), label))


def _inline(svg: str, label: str) -> str:
    """Return matplotlib's SVG document as an element of an HTML page: no header, no global style, no repeated ids."""
    body = svg[svg.index("<svg") :]
    head, body = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href=", "href=")
    body = re.sub(r"font-family: [^;\"]*; ", "", body)  # the page's font
    for color, variable in VARIABLES.items():
        body = re.sub(f"(fill|stroke): {color}", rf"\1: var({variable}, {color})", body)
    return (
        f'<svg {box.group()} role="img" aria-label="{html.escape(label)}" '
        f'style="stroke-linejoin:round;stroke-linecap:butt">{body}'
    )
