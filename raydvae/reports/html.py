"""The report of a purification: one HTML file that opens anywhere, without a network, a script or another file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import tomli_w
from markupsafe import Markup

from raydvae.data.codecs import Array
from raydvae.data.failures import hide
from raydvae.errors import safe_lines
from raydvae.reports import figures
from raydvae.reports.advice import judge
from raydvae.reports.samples import Samples

SHOWN_CLASSES = 10  # in the image grid
SHOWN_FILES = 20
SHOWN_REASONS = 50
SHOWN_EPOCHS = 120
SHOWN_ROWS = 1000  # of the table of classes
IMAGE_BYTES = 1_200_000  # all images of the grid, uncompressed: with base64 they stay far below 3 MB
PAIR_PIXELS = 64  # two samples a class up to this image size, one above
PAPER_PIXELS = 32  # image size that the paper's lengths of p_hat are for
MEASURES = ("loss", "distortion", "residual", "kld", "psnr", "psnr_sum", "amplitude", "grad_norm", "lr")
STEPS = (
    ("x0", "Input", "x⁰"),
    ("p_hat", "Estimated perturbation", "p̂"),
    ("x1", "After pass 1", "x¹"),
    ("x3", "Output", "x³"),
)
ACCURACIES = {"clean": "Clean data", "poisoned": "Poisoned data", "purified": "Purified data"}
MARKS = {"good": "✓", "low": "▼", "high": "▲", "unknown": "?"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """All that a report tells.

    ``run`` is the run's ``run.json``; ``stages`` the metrics of each epoch of "stage1" and "stage2"; ``counts`` has
    rows_in, rows_out, rows_rejected, units and classes; ``rejected`` (reason, rows, row id of an example), most
    frequent first; ``timings`` seconds and ``speeds`` images a second, by step; ``psnr_histogram`` bin edges in dB and
    counts of PSNR(x1, x3); ``p_norms`` class name -> mean and standard deviation of ||p_hat||_2, and rows;
    ``accuracies`` percent for clean, poisoned and purified, where they are known.
    """

    title: str
    run: dict[str, Any]
    stages: dict[str, list[dict[str, float]]]
    counts: dict[str, int]
    rejected: list[tuple[str, int, str]]
    timings: dict[str, float]
    speeds: dict[str, float]
    psnr_histogram: tuple[list[float], list[int]]
    p_norms: dict[str, tuple[float, float, int]]
    samples: Samples | None
    accuracies: dict[str, float] | None


def render(data: ReportData) -> str:
    """Return the report as one HTML page. The same data gives the same text."""
    config = data.run["config"]
    source = data.run["source"]
    return fill(
        "report.html.j2",
        data=data,
        uri=hide(source["uri"]),
        balanced=data.counts["rows_in"] == data.counts["rows_out"] + data.counts["rows_rejected"],
        recovered=_recovered(data.accuracies),
        accuracies=_accuracies(data.accuracies),
        accuracy_chart=_accuracy_chart(data.accuracies),
        reasons=data.rejected[:SHOWN_REASONS],
        steps=STEPS,
        grid=_grid(data),
        stages=[_stage(name, config[name], rows) for name, rows in data.stages.items()],
        histogram=_histogram(data),
        norms=_norms(data),
        total_seconds=sum(data.timings.values()),
        toml=tomli_w.dumps(_plain(config)),
        files=source["files"][:SHOWN_FILES],
        more_files=max(0, len(source["files"]) - SHOWN_FILES),
        versions=data.run["versions"],
    )


def fill(template: str, **values: Any) -> str:
    """Return a page of this package's templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raydvae.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "size": size}
    page = environment.get_template(template).render(**values)
    # Names from a file system may hold bytes that are no text; they must not keep the page from being written.
    return page.encode("utf-8", "replace").decode()


def _visible(value: Any) -> Any:
    """Return text from outside with control characters and signs of direction as escapes; all else as it is."""
    return safe_lines(value) if type(value) is str else value


def number(value: float, digits: int = 4) -> str:
    """Return a number as read by people: thousands separated, ``digits`` significant ones if it is no integer."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value or 0:.{digits}g}"  # no -0


def duration(seconds: float) -> str:
    """Return seconds as time: "0.42 s", "12.3 s", "3 min 05 s", "2 h 03 min"."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Return bytes in the unit that fits."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _plain(value: Any) -> Any:
    """Return nested settings without None, which TOML cannot hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def _recovered(accuracies: Mapping[str, float] | None) -> str:
    if not accuracies or not set(ACCURACIES) <= set(accuracies):
        return ""
    lost = accuracies["clean"] - accuracies["poisoned"]
    gained = accuracies["purified"] - accuracies["poisoned"]
    if not math.isfinite(lost + gained):
        return ""
    if lost < 1:
        return "The poison cost less than one point here, so there was nothing to recover."
    return f"The poison cost {lost:.1f} points of accuracy; purification won back {gained:.1f} of them."


def _accuracies(accuracies: Mapping[str, float] | None) -> list[tuple[str, str, str]]:
    return [
        (name, title, f"{accuracies[name]:.1f}" if math.isfinite(accuracies[name]) else "n/a")
        for name, title in ACCURACIES.items()
        if accuracies and name in accuracies
    ]


def _accuracy_chart(accuracies: Mapping[str, float] | None) -> Markup:
    if not accuracies:
        return Markup()
    values = {title: accuracies[name] for name, title in ACCURACIES.items() if name in accuracies}
    spoken = ", ".join(f"{title.lower()} {value} %" for _, title, value in _accuracies(accuracies))
    return Markup(
        figures.bars(
            values,
            label=f"Bar chart of test accuracy: {spoken}.",
            title="Test accuracy, %",
            limit=100.0,
            digits=1,
            highlight=ACCURACIES["purified"],
        )
    )


def _stage(name: str, settings: Mapping[str, Any], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    title = name.replace("stage", "Stage ")
    low, high = settings["psnr_window"]
    target = settings["loss"]["kld_target"]
    advice = judge(name, settings, rows[-1] if rows else None)
    epochs = [row["epoch"] for row in rows]
    psnr = figures.curve(
        epochs,
        [row.get("psnr", math.nan) for row in rows],
        window=(low, high),
        unit=" dB",
        title="PSNR of image and reconstruction, dB",
        label=f"{title}: line chart of PSNR over epochs, with the target window. {advice.text}",
    )
    final = number(rows[-1].get("kld", math.nan)) if rows else "n/a"
    kld = figures.curve(
        epochs,
        [row.get("kld", math.nan) for row in rows],
        target=target,
        title="KLD, nats a latent position",
        label=f"{title}: line chart of KLD over epochs. It ends at {final}; the target is {target:g}.",
    )
    thin = sorted({round(place) for place in np.linspace(0, len(rows) - 1, min(len(rows), SHOWN_EPOCHS))})
    return {
        "name": name,
        "title": title,
        "low": low,
        "high": high,
        "target": target,
        "advice": advice,
        "mark": MARKS[advice.status],
        "psnr": Markup(psnr),
        "kld": Markup(kld),
        "epochs": len(rows),
        "measures": [measure for measure in MEASURES if any(measure in row for row in rows)],
        "rows": [rows[place] for place in thin],
    }


def _histogram(data: ReportData) -> dict[str, Any]:
    edges, counts = data.psnr_histogram
    window = tuple(data.run["config"]["stage2"]["psnr_window"])
    median = _median(edges, counts)
    marker = None if math.isnan(median) else (median, f"median {median:.1f} dB")
    chart = figures.histogram(
        edges,
        counts,
        window=window,
        marker=marker,
        title="Images",
        xlabel="PSNR of x¹ and x³, dB",
        label=f"Histogram of PSNR(x1, x3) of {sum(counts):,} images; the median is {number(median, 3)} dB.",
    )
    outside = sum(
        count
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if not (math.isfinite(low) and math.isfinite(high))
    )
    return {"chart": Markup(chart), "median": median, "count": sum(counts), "outside": outside, "window": window}


def _median(edges: Sequence[float], counts: Sequence[int]) -> float:
    """Return the median of a histogram, taking values as spread evenly inside a bin; NaN if it cannot be told."""
    half, seen = sum(counts) / 2, 0
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count and seen + count >= half:
            place = low + (high - low) * (half - seen) / count
            return place if math.isfinite(place) else math.nan
        seen += count
    return math.nan


def _norms(data: ReportData) -> dict[str, Any] | None:
    means = {name: mean for name, (mean, _, _) in data.p_norms.items()}
    known = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    if not known:
        return None
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    chart = figures.bars(
        means,
        errors={name: deviation for name, (_, deviation, _) in data.p_norms.items()},
        title="Mean length of p̂ with standard deviation",
        label=f"Bar chart of the mean length of the estimated perturbation for {len(means)} classes, from "
        f"{known[least]:.2f} ({_short(least)}) to {known[most]:.2f} ({_short(most)}).",
    )
    return {
        "chart": Markup(chart),
        "least": (least, known[least]),
        "most": (most, known[most]),
        "rows": [(name, *values) for name, values in data.p_norms.items()][:SHOWN_ROWS],
        "more": max(0, len(means) - SHOWN_ROWS),
        "ranked": len(means) > figures.NAMED_BARS,
        "paper": data.run["config"]["stage1"]["model"]["image_size"] == PAPER_PIXELS,
    }


def _grid(data: ReportData) -> list[dict[str, Any]]:
    """Return up to ten classes, each with its name and, for every step, the data URI of its one or two samples."""
    samples = data.samples
    if samples is None or not samples.row_ids:
        return []
    height, width = samples.x0.shape[1:3]
    each = 2 if max(height, width) <= PAIR_PIXELS else 1
    chosen = {
        int(label): np.flatnonzero(samples.labels == label)[:each]
        for label in np.unique(samples.labels)[:SHOWN_CLASSES]
    }
    tiles = len(STEPS) * sum(map(len, chosen.values()))
    side = min(max(height, width), int(math.sqrt(IMAGE_BYTES / 3 / tiles)))
    gap = 1 if side < 16 else 2
    enlarged = max(1, round(88 / side))
    names = data.run["classes"]["names"]
    return [
        {
            "name": names[label] if names else str(label),
            "cells": [
                {
                    "step": title,
                    "uri": figures.image_grid(_pixels(samples, key)[rows], len(rows), side, gap),
                    "width": enlarged * (side * len(rows) + gap * (len(rows) - 1)),
                    "ids": ", ".join(samples.row_ids[row] for row in rows),
                }
                for key, title, _ in STEPS
            ],
        }
        for label, rows in chosen.items()
    ]


def _pixels(samples: Samples, key: str) -> Array:
    pixels: Array = figures.normalize(samples.p_hat) if key == "p_hat" else getattr(samples, key)
    return pixels


def _short(name: str) -> str:
    return figures.shorten(name, figures.NAME_LENGTH)
