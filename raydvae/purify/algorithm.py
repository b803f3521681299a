"""Algorithm 1: the two-stage purification of unlearnable examples with D-VAE. The file to read first.

    P0  the data set as it came, possibly unlearnable
        stage 1   train a D-VAE on P0 with a small KLD target: much of the poison stays out of x_hat
        pass 1    x1 = x0 - p_hat(x0)                               -> P1
        stage 2   train a fresh D-VAE on P1 with a larger target: x_hat keeps the image's quality
        pass 2    x2 = x1 - p_hat(x1)                               -> P2 (in memory)
        pass 3    x3 = x_hat(x2)                                    -> P3, the purified data set

Every step leaves its result on storage and is skipped when it is there already, so the same call resumes a run that
was stopped anywhere. Where the work is done is the engine's matter: in this process, or on a Ray cluster.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from raydvae.config import PurifyConfig, StageConfig, to_dict
from raydvae.data.dataset import Classes, Dataset, open_dataset
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.store import Store
from raydvae.engine import Engine, InProcess, Silent, Watch, apply_to_units
from raydvae.errors import DataError
from raydvae.purify.passes import ReconstructPass, SubtractPass
from raydvae.seeds import derive
from raydvae.training.job import TrainJob
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import VAETask

FILE = "summary.json"


@dataclass(slots=True)
class Summary:
    """What a purification did so far, all calls that worked on it together; kept in ``summary.json``.

    ``seconds`` and ``rows`` are by step; ``history`` holds each epoch's metrics by stage.
    """

    complete: bool = False
    rows_in: int = 0
    rows_out: int = 0
    rows_rejected: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def speeds(self) -> dict[str, float]:
        """Images a second of each pass."""
        return {name: rows / self.seconds[name] for name, rows in self.rows.items() if self.seconds[name] > 0}

    @classmethod
    def load(cls, run: Run) -> Summary:
        """Return what the run's folder says, or an empty summary."""
        return cls(**run.home.read_json(FILE)) if run.home.exists(FILE) else cls()

    def save(self, run: Run) -> None:
        """Keep the summary in the run's folder."""
        run.home.write_json(FILE, dataclasses.asdict(self))


def purify(
    p0: Dataset,
    classes: Classes,
    out: Store,
    config: PurifyConfig,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Purify data set ``p0`` into folder ``out``, or go on with a purification begun there."""
    engine, watch = engine or InProcess(), watch or Silent()
    run = Run(out)
    config = _settled(config, run, engine)
    run.open("purify", _lasting(config), p0, {"classes": {"count": classes.count, "names": classes.names}})
    summary = Summary.load(run)
    if summary.complete:
        return summary

    def train(job: TrainJob) -> None:
        started = time.monotonic()
        with watch.step(job.name, job.config.epochs, "epochs") as advance:
            engine.train(job, progress=advance)
        summary.seconds[job.name] = summary.seconds.get(job.name, 0.0) + time.monotonic() - started
        summary.history[job.name] = job.history()
        summary.save(run)

    def apply(work: SubtractPass | ReconstructPass) -> None:
        rows, seconds = apply_to_units(engine, run, work, work.data, watch)
        summary.seconds[work.name] = summary.seconds.get(work.name, 0.0) + seconds
        summary.rows[work.name] = summary.rows.get(work.name, 0) + rows
        summary.save(run)

    stage1 = _training(run, "stage1", config.stage1, p0, classes, config)
    train(stage1)
    apply(SubtractPass("pass1", run, p0, classes, config, config.stage1.model, stage1.store))
    _count(run, summary, p0, config)
    p1 = open_dataset(run.home.sub("work/p1").uri, p0.data, out.options)

    stage2 = _training(run, "stage2", config.stage2, p1, classes, config)
    train(stage2)
    apply(ReconstructPass("pass3", run, p1, classes, config, config.stage2.model, stage2.store))
    _check_complete(run, summary)
    summary.complete = True
    summary.save(run)
    if not config.keep_intermediate:  # last: a run killed before this line would look for P1 again
        run.home.delete("work")
    return summary


def _training(
    run: Run, name: str, stage: StageConfig, data: Dataset, classes: Classes, config: PurifyConfig
) -> TrainJob:
    """Return the training of one stage: a fresh D-VAE, whose seed is its own."""
    return TrainJob(
        name=name,
        task=VAETask(stage.model, stage.loss),
        data=data,
        classes=classes,
        image_size=config.image_size,
        config=stage.train,
        seed=derive(config.seed, name),
        store=run.home.sub(name),
    )


def _settled(config: PurifyConfig, run: Run, engine: Engine) -> PurifyConfig:
    """Return ``config`` with the number of slices decided: by the run that is gone on with, or for this engine."""
    known = run.read()["config"] if run.exists() else {}

    def settle(name: str, stage: StageConfig) -> StageConfig:
        before = known.get(name, {}).get("train", {}).get("slices", 0)
        asked = dataclasses.replace(stage.train, slices=stage.train.slices or before)
        slices = resolve_slices(asked, engine.workers, engine.device)
        return dataclasses.replace(stage, train=dataclasses.replace(asked, slices=slices))

    return dataclasses.replace(config, stage1=settle("stage1", config.stage1), stage2=settle("stage2", config.stage2))


def _lasting(config: PurifyConfig) -> dict[str, Any]:
    """Return the settings that a resumed run must share; keeping P2 or not does not change the output."""
    return to_dict(dataclasses.replace(config, keep_intermediate=False))


def _count(run: Run, summary: Summary, p0: Dataset, config: PurifyConfig) -> None:
    records = run.records("pass1")
    summary.rows_in = sum(record["rows_in"] for record in records)
    summary.rows_rejected = sum(record["rows_rejected"] for record in records)
    if summary.rows_in != p0.rows:
        raise DataError(f"{p0.rows} rows went in, but {summary.rows_in} were accounted for; report this as a bug.")
    check_rejected(summary.rows_rejected, p0.rows, config.data.reject_limit, f"see {run.home.uri}/rejected")


def _check_complete(run: Run, summary: Summary) -> None:
    summary.rows_out = sum(record["rows_out"] for record in run.records("pass3"))
    if summary.rows_in != summary.rows_out + summary.rows_rejected:
        raise DataError(
            f"{summary.rows_in} rows went in, {summary.rows_out} came out and {summary.rows_rejected} were rejected: "
            "that does not add up; report this as a bug. Nothing was deleted."
        )
