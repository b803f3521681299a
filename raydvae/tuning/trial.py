"""One short training of a D-VAE at one KLD target, and the record that is left of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from raydvae.config import PurifyConfig, StageConfig
from raydvae.data.classes import Classes
from raydvae.data.damage import sound_json
from raydvae.data.dataset import Dataset
from raydvae.data.selection import Selection, sample
from raydvae.data.shapes import COUNT, NUMBER
from raydvae.data.store import Store
from raydvae.engine import Engine
from raydvae.seeds import derive
from raydvae.training.checkpoint import STATE
from raydvae.training.feed import Cut
from raydvae.training.job import Progress, TrainJob
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import VAETask

RECORD = "trial.json"
TOLD = {
    **{"kld_target": NUMBER, "psnr": NUMBER, "kld": NUMBER, "seconds": NUMBER},
    **{"epochs": COUNT, "selected": COUNT, "plateau": bool},
}
PATIENCE = 5  # epochs that a plateau is judged by
PLATEAU = 0.1  # dB that the epochs left may still bring when a trial is ended on a plateau
Trained = Callable[[TrainJob, Progress], None]


class Plateau(Exception):
    """Ends a training whose PSNR no longer rises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """The trials of one stage: what they share. Cheap to pickle.

    All are trained for ``stage.train.epochs`` on the same ``selected`` rows from the same seed, so that they differ by
    the KLD target alone. ``stage.train.slices`` is settled.
    """

    name: str
    data: Dataset
    classes: Classes
    stage: StageConfig
    image_size: int
    selection: Selection | None
    selected: int
    seed: int
    store: Store

    @classmethod
    def of(
        cls,
        name: str,
        data: Dataset,
        classes: Classes,
        config: PurifyConfig,
        fraction: float,
        epochs: int,
        store: Store,
        engine: Engine,
    ) -> Trials:
        """Return the trials of stage ``name`` on a seeded ``fraction`` of the rows, each class in proportion."""
        stage: StageConfig = getattr(config, name)
        rows = max(classes.count, round(fraction * data.rows))
        slices = resolve_slices(stage.train, 1, engine.device)
        train = dataclasses.replace(stage.train, epochs=epochs, slices=slices)
        chosen = None if rows >= data.rows else sample(data, classes, rows, derive(config.seed, "tune rows"))
        Cut.of(rows, train.batch_size, slices)  # says now if there are too few rows
        return cls(
            name=name,
            data=data,
            classes=classes,
            stage=dataclasses.replace(stage, train=train),
            image_size=config.image_size,
            selection=chosen,
            selected=min(rows, data.rows),
            seed=derive(config.seed, "tune", name),
            store=store,
        )

    @property
    def steps(self) -> int:
        """Steps of a whole trial."""
        train = self.stage.train
        return train.epochs * len(Cut.of(self.selected, train.batch_size, train.slices).sizes)

    def halved(self) -> Trials:
        """Return the same trials with half the epochs."""
        train = dataclasses.replace(self.stage.train, epochs=max(1, self.stage.train.epochs // 2))
        return dataclasses.replace(self, stage=dataclasses.replace(self.stage, train=train))

    def job(self, kld: float) -> TrainJob:
        """Return the training at target ``kld``."""
        return TrainJob(
            name=f"{self.name} kld {kld:g}",
            task=VAETask(self.stage.model, dataclasses.replace(self.stage.loss, kld_target=kld)),
            data=self.data,
            classes=self.classes,
            image_size=self.image_size,
            config=self.stage.train,
            seed=self.seed,
            store=self.store.sub(f"epochs-{self.stage.train.epochs}/kld-{kld:g}"),
            selection=self.selection,
            selected=self.selected,
        )

    def record(self, kld: float) -> dict[str, Any] | None:
        """Return what a finished trial left, or None; also for a damaged record: it is made again."""
        found: dict[str, Any] | None = sound_json(self.job(kld).store, RECORD, TOLD)
        return found

    def run(self, kld: float, train: Trained, progress: Progress | None = None) -> dict[str, Any]:
        """Run the trial at target ``kld``, or go on with it, and return its record; a finished one is not run again.

        The record holds ``psnr`` in dB and ``kld`` in nats of the last epoch, ``epochs``, ``plateau`` (whether it was
        ended on one), ``selected`` rows and ``seconds`` since it was begun or gone on with. Weights are not kept.
        """
        if (found := self.record(kld)) is not None:
            return found
        job, started = self.job(kld), time.monotonic()
        history: list[float] = [line["psnr"] for line in job.metrics()]

        def follow(metrics: dict[str, float]) -> None:
            history.append(metrics["psnr"])
            if progress is not None:
                progress(metrics)
            if is_plateau(history, self.stage.train.epochs):
                raise Plateau

        plateau = is_plateau(history, self.stage.train.epochs)
        if not plateau:
            try:
                train(job, follow)
            except Plateau:
                plateau = True
        last = job.metrics()[-1]
        record = {
            "kld_target": kld,
            "psnr": last["psnr"],
            "kld": last["kld"],
            "epochs": int(last["epoch"]) + 1,
            "plateau": plateau,
            "selected": self.selected,
            "seconds": round(time.monotonic() - started, 2),
        }
        job.store.write_json(RECORD, record)
        for name in (STATE, "model.safetensors"):
            job.store.delete(name)
        return record


def is_plateau(psnrs: list[float], epochs: int) -> bool:
    """Whether a training of ``epochs`` epochs may end here: the rest would bring less than `PLATEAU`.

    The rest is taken to rise as fast as the fastest of the last `PATIENCE` epochs did, so what is compared between
    trials is within `PLATEAU` of PSNR after equally many epochs. The learning rate only falls, and late gains with it.
    """
    left = epochs - len(psnrs)
    if left < 1 or len(psnrs) <= PATIENCE:
        return False
    tail = psnrs[-PATIENCE - 1 :]
    return max(abs(after - before) for before, after in pairwise(tail)) * left < PLATEAU
