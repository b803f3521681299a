"""A training as one value that can be sent to a worker: what to train, on which data, and where results go."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raydvae.config import TrainConfig, described
from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import check_rejected
from raydvae.data.rows import Rows
from raydvae.data.selection import Choice
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.training.checkpoint import (
    MODEL,
    keep_model,
    load_history,
    load_state,
    read_metrics,
    save_model,
    save_state,
    write_metrics,
)
from raydvae.training.feed import Feed, ImageSet
from raydvae.training.group import Alone, Group
from raydvae.training.loop import Task, TrainState, train
from raydvae.training.stream import SHOWN_REASONS, Reader, Scan, Source, StreamFeed, read_ahead

GIB = 2**30
Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """One training. Running it again goes on from its last epoch, or returns at once when it is finished.

    ``keep`` are the epochs (from 0) after which the weights are kept too. ``config.slices`` must be settled beforehand
    (`resolve_slices`): it is part of what makes the result. ``selection`` restricts the training to ``selected`` rows.
    """

    name: str
    task: Task
    data: Dataset
    classes: Classes
    image_size: int
    config: TrainConfig
    seed: int
    store: Store
    keep: tuple[int, ...] = ()
    selection: Choice | None = None
    selected: int = 0

    @property
    def source(self) -> Source:
        """The rows to train on."""
        return Source(self.data, self.classes, self.image_size, self.selection)

    @property
    def rows(self) -> int:
        """Rows to train on, unusable ones included."""
        return self.data.rows if self.selection is None else self.selected

    @property
    def streamed(self) -> bool:
        """Whether the rows are streamed in each epoch because, decoded, they are more than fits."""
        return self.rows * self.source.row_bytes > self.data.data.memory_gib * GIB

    @property
    def scan(self) -> Scan | None:
        """What has to be done on every unit before a streamed training."""
        return Scan(self.source, self.store) if self.streamed and not self.finished else None

    @property
    def about(self) -> dict[str, Any]:
        """What a saved state must have been trained with to be resumed."""
        return {
            "task": described(self.task),
            "train": dataclasses.asdict(self.config),
            "seed": self.seed,
            "data": [[f.name, f.fingerprint] for f in self.data.files],
            "selection": None if self.selection is None else [*self.selection.about, self.selected],
        }

    @property
    def finished(self) -> bool:
        """Whether the final weights are there."""
        return self.store.exists(MODEL)

    def metrics(self) -> list[dict[str, float]]:
        """Return the metrics of the epochs done so far, as `raydvae.training.checkpoint.write_metrics` left them."""
        return read_metrics(self.store)

    def history(self) -> list[dict[str, float]]:
        """Return each epoch's metrics of a finished training; `ConfigError` if it had other settings."""
        return load_history(self.store, self.about)


def run_job(
    job: TrainJob,
    device: torch.device,
    threads: int,
    group: Group | None = None,
    progress: Progress | None = None,
    reader: Reader = read_ahead,
) -> None:
    """Run ``job`` as one worker of ``group``; rank 0 saves the state, metrics and final weights.

    ``reader`` is how a streamed data set is read; its scan must be complete.
    """
    group = group or Alone()
    first = group.rank == 0
    if job.finished:
        job.history()  # refuses other settings
        return
    state, tag = load_state(job.store, job.about)
    feed: Feed
    if scan := job.scan:
        feed = StreamFeed(job.source, scan.counts(), int(job.data.data.memory_gib * GIB), reader)
    else:
        feed = load_images(job.source, threads)

    def on_epoch(state: TrainState, metrics: dict[str, float]) -> None:
        nonlocal tag
        if first:
            if state.epoch - 1 in job.keep:
                keep_model(job.store, state, job.about)
            tag = save_state(job.store, state, job.about, tag)
            write_metrics(job.store, state.history)
        if progress is not None:
            progress(metrics)

    final = train(
        job.task,
        feed,
        job.config,
        seed=job.seed,
        device=device,
        group=group,
        threads=threads,
        resume=state,
        on_epoch=on_epoch,
    )
    if first:
        save_model(job.store, final, job.about)


def load_images(source: Source, threads: int = 1) -> ImageSet:
    """Decode a data set into memory; rows that cannot be used are left out, up to the reject limit."""
    data = source.data

    def one(unit: Unit) -> tuple[Rows, Counter[str]]:
        rows = source.read(unit)
        return rows, Counter(rows.reasons)

    units = data.units()
    size = source.image_size
    # Filled as units arrive, in the memory layout that convolutions like: the set is in memory once.
    images = np.empty((sum(unit.rows for unit in units), size, size, 3), np.uint8)
    labels, reasons, end = [], Counter[str](), 0
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for rows, why in pool.map(one, units):
            images[end : end + len(rows.images)] = rows.images
            end += len(rows.images)
            labels.append(rows.labels)
            reasons += why
    shown = "; ".join(f"{reason} ({count} rows)" for reason, count in reasons.most_common(SHOWN_REASONS))
    check_rejected(reasons.total(), data.rows, data.data.reject_limit, shown)
    return ImageSet(torch.from_numpy(images[:end]).permute(0, 3, 1, 2), torch.from_numpy(np.concatenate(labels)))


def pick_device() -> torch.device:
    """Return the GPU if this process has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
