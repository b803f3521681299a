"""Gathering what a report tells from a run's folder."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raydvae.config import PurifyConfig, from_dict, preset, to_dict
from raydvae.data.classes import MAX_CLASSES, Classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.flags import parse_flags
from raydvae.data.manifest import Run
from raydvae.data.parquet_check import open_parquet, parquet_errors
from raydvae.data.rows import decode_rows
from raydvae.data.shapes import COUNT, NUMBER, check_shape
from raydvae.data.store import Store
from raydvae.errors import DataError, RaydvaeError, StorageError
from raydvae.purify.algorithm import FLAGS, Summary
from raydvae.purify.inference import Inference
from raydvae.purify.passes import PSNR_EDGES, SubtractPass
from raydvae.reports.html import SHOWN_CLASSES, ReportData, render
from raydvae.reports.samples import Samples
from raydvae.reports.status import STEPS

log = logging.getLogger("raydvae.reports")
PAGE = "report.html"
AGAIN = "Run the command that made it again, or put the file back from a copy."
SAMPLES = "samples.safetensors"
SEARCHED_UNITS = 8  # for samples of each class


def write_report(out: Store, accuracies: dict[str, float] | None = None, source: Dataset | None = None) -> str:
    """Write the report of the purification in folder ``out`` and return its address.

    Pictures are of the ``source``; without it, of the one that the run names if that lies in the same store: a run may
    come from a stranger, and whatever address it names would be sent this user's keys.
    """
    run = Run(out)
    known = run.read_purification()
    if known["kind"] != "purify":
        raise DataError(f"{out.uri} is a {known['kind']} run; reports are made of purifications.")
    summary = Summary.load(run)
    _check(run, known)
    config = from_dict(preset(known["config"]["preset"]), known["config"])
    known["config"] = to_dict(config)  # all of it, whatever is missing there
    first, last = run.records("pass1"), run.records("pass3")
    for record in first:
        where = f"{run.home.uri}/commits/pass1/{record['unit']}.json"
        check_shape(record, {"p_norms": {"": [NUMBER] * 3}}, where, AGAIN)
        if not record["p_norms"].keys() <= {str(label) for label in range(known["classes"]["count"])}:
            raise DataError(f"{where} is damaged or not ours: it has norms of other classes. {AGAIN}")
    for record in last:
        shape = {"psnr_counts": [COUNT] * (len(PSNR_EDGES) - 1)}
        check_shape(record, shape, f"{run.home.uri}/commits/pass3/{record['unit']}.json", AGAIN)
    names = known["classes"]["names"] or [str(number) for number in range(known["classes"]["count"])]
    data = ReportData(
        title="Purification report",
        run=known,
        stages={name: lines for name, lines in summary.history.items() if name in ("stage1", "stage2")},
        counts={
            "rows_in": summary.rows_in or known["source"]["rows"],
            "rows_out": summary.rows_out,
            "rows_rejected": summary.rows_rejected,
            "units": len(first),
            "classes": len(names),
        },
        rejected=_rejected(run, first),
        timings={name: summary.seconds[name] for name in STEPS["purify"] if name in summary.seconds},
        speeds=summary.speeds,
        psnr_histogram=(PSNR_EDGES, _sum([record["psnr_counts"] for record in last])),
        p_norms=_norms(first, names),
        samples=_samples(run, known, config, source) if summary.complete else None,
        accuracies=accuracies or _kept_accuracies(run),
    )
    if accuracies:
        run.home.write_json("accuracies.json", accuracies)
    run.home.write(PAGE, render(data).encode())
    return f"{run.home.uri}/{PAGE}"


def _check(run: Run, known: dict[str, Any]) -> None:
    check_shape(known, {"versions": {}}, f"{run.home.uri}/run.json", AGAIN)
    count, names = known["classes"]["count"], known["classes"]["names"]
    if not 0 < count <= MAX_CLASSES or (names and len(names) != count):
        raise DataError(f"{run.home.uri}/run.json is damaged or not ours: it has {count} classes. {AGAIN}")


def _kept_accuracies(run: Run) -> dict[str, float] | None:
    if not run.home.exists("accuracies.json"):
        return None
    known: dict[str, float] = run.home.read_json("accuracies.json")
    check_shape(known, {"": NUMBER}, f"{run.home.uri}/accuracies.json", "Delete it: the report has no accuracies then.")
    return known


def _rejected(run: Run, records: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for record in records:
        if not record["rows_rejected"]:
            continue
        name = f"rejected/{record['unit']}.parquet"
        file = open_parquet(run.home.read(name), f"{run.home.uri}/{name}")
        columns = file.schema_arrow.names[-2:]  # reasons and row ids, whatever the source's columns are called
        with parquet_errors(f"{run.home.uri}/{name}"):
            reasons, row_ids = (file.read([column])[column].to_pylist() for column in columns)
        for reason, row_id in zip(reasons, row_ids, strict=True):
            counts[reason] += 1
            example.setdefault(reason, row_id)
    return [(reason, count, example[reason]) for reason, count in counts.most_common()]


def _sum(rows: list[list[int]]) -> list[int]:
    if not rows:
        return [0] * (len(PSNR_EDGES) - 1)
    return [int(value) for value in np.sum(rows, axis=0)]


def _norms(records: list[dict[str, Any]], names: list[str]) -> dict[str, tuple[float, float, int]]:
    """Return mean, standard deviation and count of ||p_hat||_2 for each class, from the units' sums."""
    sums: dict[int, Any] = {}
    for record in records:
        for label, values in record["p_norms"].items():
            sums[int(label)] = sums.get(int(label), np.zeros(3)) + np.array(values)
    out = {}
    for label, (count, total, squares) in sorted(sums.items()):
        if not 0 < count < float("inf"):
            continue
        mean = total / count
        out[names[label]] = (float(mean), float(max(squares / count - mean * mean, 0.0) ** 0.5), int(count))
    return out


def _samples(run: Run, known: dict[str, Any], config: PurifyConfig, source: Dataset | None) -> Samples | None:
    """Return samples of the first classes: kept ones, or made anew from source, stage 1 and output."""
    if run.home.exists(SAMPLES):
        try:
            return Samples.load(run.home, SAMPLES, known["classes"]["count"])
        except StorageError as error:
            if "holds no samples" not in str(error):
                raise
            log.warning("%s/%s is damaged; it is made again.", run.home.uri, SAMPLES)
    if source is None:
        store = run.store.beside(known["source"]["uri"])
        if store is None:
            log.warning("The report has no pictures: the run's source lies elsewhere. Name it with --source.")
            return None
        try:
            source = open_dataset(store.address, config.data, store.options)
        except RaydvaeError as error:
            log.warning(
                "The report has no pictures. Name the run's source with --source, if it is elsewhere. %s", error
            )
            return None
    source = replace(source, data=config.data)
    listed = {name for name, *_ in known["source"]["files"]}
    source = replace(source, files=tuple(file for file in source.files if file.name in listed))
    classes = Classes.from_dict(known["classes"], source)
    work = SubtractPass("pass1", run, source, classes, config, config.stage1.model, run.home.sub("stage1"))
    marked = parse_flags(run.home.read(FLAGS), FLAGS, source).marked if "flags" in known else None
    inference = Inference.load(work.store, work.architecture, config, torch.device("cpu"))
    result = open_dataset(run.store.address, config.data, run.store.options)
    output = {unit.id: unit for unit in result.units()}
    wanted = {label: 2 for label in range(min(classes.count, SHOWN_CLASSES))}
    parts: list[tuple[Any, ...]] = []
    units = [unit for unit in source.units() if unit.id in output]
    for unit in units[:SEARCHED_UNITS]:
        rows = work.read(unit)
        chosen = []
        purified_too = marked.mask(rows.row_ids) if marked else np.ones(len(rows.labels), np.bool_)
        for index, label in enumerate(rows.labels):
            if purified_too[index] and wanted.get(int(label), 0):
                wanted[int(label)] -= 1
                chosen.append(index)
        if chosen:
            x1, p_hat = inference.subtracted(rows)
            target = output[unit.id]
            purified = decode_rows(result, target, result.read(target), classes, config.image_size)
            ids = rows.row_ids
            x0, x3, labels = rows.images[chosen], purified.images[chosen], rows.labels[chosen]
            parts.append((x0, p_hat[chosen], x1[chosen], x3, labels, [ids[index] for index in chosen]))
        if not any(wanted.values()):
            break
    if not parts:
        return None
    x0, p_hat, x1, x3, labels = (np.concatenate([part[column] for part in parts]) for column in range(5))
    samples = Samples(x0=x0, p_hat=p_hat, x1=x1, x3=x3, labels=labels, row_ids=[i for part in parts for i in part[5]])
    samples.save(run.home, SAMPLES)
    return samples
