"""The page of a tuning: PSNR against the KLD target, the windows, the targets, and what images look like at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from raydvae.data.classes import Classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.evaluation.sweep import Point
from raydvae.purify.inference import load_dvae, to_uint8
from raydvae.reports import figures
from raydvae.reports.html import fill
from raydvae.training.feed import to_float
from raydvae.tuning.experiment import StageResult, Tuned, full_store, result, rows
from raydvae.tuning.search import monotone, predict

PAGE, SWEEP_PAGE = "tuning.html", "accuracy.html"
SHOWN = 8  # images
SEARCHED = 512  # rows of the first unit that they are chosen from
CURVE_POINTS = 60
SIDE = 96  # pixels that a tile is shrunk to


def write_page(data: Dataset, classes: Classes, out: Store, tuned: Tuned) -> str:
    """Write the page of the tuning in folder ``out`` and return its address."""
    pictures = _reconstructions(data, classes, Run(out), tuned)
    names = {"stage1": "Stage 1", "stage2": "Stage 2"}
    stages = [
        {
            "title": names[name],
            "result": stage,
            "chart": Markup(_chart(names[name], stage)),
            "picture": pictures[name],
            "error": stage.measured - stage.estimated,
        }
        for name, stage in tuned.stages.items()
    ]
    page = fill(
        "tuning.html.j2",
        stages=stages,
        input=pictures["input"],
        table=rows(tuned),
        summary=result(tuned),
        source=data.store.uri,
    )
    out.write(PAGE, page.encode())
    return f"{out.uri}/{PAGE}"


def write_sweep(out: Store, points: Sequence[Point], kind: str, source: str) -> str:
    """Write the page of a sweep in folder ``out``: accuracy against PSNR and the targets; return its address."""
    best = [point for point in points if point.front]
    charts = [
        figures.response(
            {
                "surpassed": _columns([p for p in points if not p.front], "psnr", "test_acc"),
                "on the Pareto front": _columns(best, "psnr", "test_acc"),
            },
            _columns(sorted(best, key=lambda point: point.psnr), "psnr", "test_acc"),
            label="Test accuracy against PSNR, with the Pareto front",
            title="Accuracy against PSNR",
            xlabel="PSNR of the reconstructions, dB",
            ylabel="test accuracy, %",
            log=False,
        )
    ]
    names = ("kld1",) if kind != "pairs" else ("kld1", "kld2")
    for name in names:
        others = sorted({point.kld2 if name == "kld1" else point.kld1 for point in points})
        series = {
            f"{'kld2' if name == 'kld1' else 'kld1'} {value:g}" if kind == "pairs" else "accuracy": _columns(
                [p for p in points if (p.kld2 if name == "kld1" else p.kld1) == value], name, "test_acc"
            )
            for value in others
        }
        charts.append(
            figures.response(
                series,
                ([], []),
                label=f"Test accuracy against {name}",
                title=f"Accuracy against {name}",
                xlabel="KLD target, nats a latent position",
                ylabel="test accuracy, %",
            )
        )
    page = fill("sweep.html.j2", points=points, charts=[Markup(c) for c in charts], kind=kind, source=source)
    out.write(SWEEP_PAGE, page.encode())
    return f"{out.uri}/{SWEEP_PAGE}"


def _columns(points: Sequence[Point], x: str, y: str) -> tuple[list[float], list[float]]:
    return [getattr(point, x) for point in points], [getattr(point, y) for point in points]


def _chart(title: str, stage: StageResult) -> str:
    most = max(trial["epochs"] for trial in stage.trials)
    short = {t["kld_target"]: t["psnr"] for t in stage.trials if t["epochs"] == most or t["plateau"]}
    full = [(v["kld_target"], v["psnr"]) for v in stage.verifications]
    klds, psnrs = monotone(short)
    x = np.geomspace(klds[0], klds[-1], CURVE_POINTS)
    y = [predict(klds, psnrs, kld) + stage.measured for kld in x]
    found = sorted(short)
    return figures.response(
        {
            "trials": (found, [short[kld] for kld in found]),
            "full training": ([kld for kld, _ in full], [psnr for _, psnr in full]),
        },
        (x.tolist(), y),
        label=f"{title}: PSNR of trials and of full trainings against the KLD target",
        title=f"{title}: trials, and the curve through them with the measured {stage.measured:+.2f} dB",
        xlabel="KLD target, nats a latent position",
        ylabel="PSNR(x, x̂), dB",
        window=stage.window,
        chosen=(stage.kld_target, stage.psnr),
    )


@torch.no_grad()
def _reconstructions(data: Dataset, classes: Classes, run: Run, tuned: Tuned) -> dict[str, str]:
    """Return images of different classes, and x_hat of each stage's verified model, as data URIs.

    Stage 2 is shown on its own input, x1 = x0 - p_hat(x0); latents are at their mean.
    """
    unit = data.units()[0]
    few = np.arange(unit.rows) < SEARCHED
    decoded = decode_rows(data, unit, data.read(unit), classes, tuned.config.image_size, few)
    first = [int(np.flatnonzero(decoded.labels == label)[0]) for label in np.unique(decoded.labels)]
    chosen = first[:SHOWN]
    x = to_float(torch.from_numpy(decoded.images[chosen].transpose(0, 3, 1, 2)))
    y = torch.from_numpy(decoded.labels[chosen])
    out = {"input": _strip(decoded.images[chosen])}
    for name, stage in tuned.stages.items():
        model = load_dvae(full_store(run, name, stage.kld_target), getattr(tuned.config, name).model)
        x_hat = to_uint8(model.reconstruct(x, None), tuned.config.quantize)
        out[name] = _strip(np.asarray(x_hat.permute(0, 2, 3, 1)))
        x = (x - model.estimate_perturbation(x, y, None)).clamp_(0, 1)
    return out


def _strip(images: Array) -> Any:
    return figures.image_grid(images, len(images), SIDE, 2)
