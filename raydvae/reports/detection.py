"""The page of a detection: the verdict, what it rests on, and how many rows of each class are flagged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from markupsafe import Markup

from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.detection.detecting import Detection
from raydvae.detection.rules import Evidence
from raydvae.reports import figures
from raydvae.reports.html import fill

SHOWN_CLASSES = 1000
BINS = 60
CURVE_POINTS = 200


def write_page(found: Detection, data: Dataset, classes: Classes, store: Store, name: str) -> str:
    """Write the page into ``store`` as ``name`` and return its address."""
    store.write(name, render(found, data, classes).encode())
    return f"{store.uri}/{name}"


def render(found: Detection, data: Dataset, classes: Classes) -> str:
    """Return the page as HTML."""
    judged = found.judged
    labels = found.table["label"].to_numpy()
    rows = np.bincount(labels, minlength=classes.count)
    flagged = np.bincount(labels[judged.flagged], minlength=classes.count)
    lines = [
        {"name": classes.names[number] if classes.names else number, "rows": int(count), "flagged": int(marked)}
        for number, (count, marked) in enumerate(zip(rows, flagged, strict=True))
        if count
    ]
    return fill(
        "detection.html.j2",
        verdict=judged.verdict,
        source=data.store.uri,
        rule=found.rule,
        rows=found.rows,
        scored=len(labels),
        rejected=found.rejected,
        flagged=int(judged.flagged.sum()),
        share=judged.share,
        share_error=judged.share_error,
        trials=[_trial(evidence) for evidence in judged.evidence if evidence.trial],
        charts=[(Markup(_chart(evidence)), _caption(evidence)) for evidence in judged.evidence],
        classes=lines[:SHOWN_CLASSES],
        more_classes=max(0, len(lines) - SHOWN_CLASSES),
    )


def _trial(evidence: Evidence) -> dict[str, Any]:
    assert evidence.trial is not None
    return {"name": evidence.name, **dataclasses.asdict(evidence.trial), "unlearnable": evidence.trial.unlearnable}


def _caption(evidence: Evidence) -> str:
    mixture = evidence.mixture
    parts = (
        f"Two components: {100 * mixture.share:.1f} % of the rows in the upper one, separation {mixture.separation:.1f}"
    )
    if not evidence.stands_out:
        return f"{parts}. No two kinds of rows: they would need {evidence.lacking}."
    if evidence.trial is None:
        return f"{parts}. Not tried."
    return f"{parts}. {'This is what the flags rest on.' if evidence.trial.unlearnable else 'Dismissed by the trial.'}"


def _chart(evidence: Evidence) -> str:
    values, mixture = evidence.values[np.isfinite(evidence.values)], evidence.mixture
    counts, edges = np.histogram(values, BINS)
    x = np.linspace(edges[0], edges[-1], CURVE_POINTS)
    scale = len(values) * (edges[1] - edges[0])
    curves: dict[str, tuple[list[float], list[float]]] = {}
    if evidence.stands_out:
        for place, (name, share) in enumerate((("the others", 1 - mixture.share), ("stand out", mixture.share))):
            deviation = mixture.deviations[place]
            z = (x - mixture.means[place]) / deviation
            density = np.exp(-0.5 * z**2) / (deviation * np.sqrt(2 * np.pi))
            curves[name] = (x.tolist(), (scale * share * density).tolist())
    return figures.histogram(
        edges.tolist(),
        counts.tolist(),
        label=f"Rows by {evidence.axis}",
        title=f"{evidence.name}: rows",
        xlabel=evidence.axis,
        curves=curves,
    )
