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
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydvae.config import PurifyConfig, StageConfig, to_dict
from raydvae.data.classes import Classes
from raydvae.data.damage import mend, mending, open_committed
from raydvae.data.dataset import Dataset
from raydvae.data.flags import Flags
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.selection import Choice, sample
from raydvae.data.shapes import COUNT, NUMBER, mismatch
from raydvae.data.store import Store, checksum
from raydvae.data.units import Unit
from raydvae.engine import Engine, InProcess, Silent, Watch, apply_to_units, held, units_left
from raydvae.errors import ConfigError, DataError, StorageError
from raydvae.purify.passes import ReconstructPass, SubtractPass
from raydvae.purify.whole import SPARE, STAGES, adds_up, check_model, needed, sound, warn_of_models
from raydvae.seeds import derive
from raydvae.training.checkpoint import METRICS, MODEL, load_history, load_model
from raydvae.training.job import TrainJob
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import VAETask

log = logging.getLogger(__name__)
FILE, P1, FLAGS = "summary.json", "work/p1", "flags.parquet"
SUMMARY = {
    **{"complete?": bool, "rows_in?": COUNT, "rows_out?": COUNT, "rows_rejected?": COUNT},
    **{"seconds?": {"": NUMBER}, "rows?": {"": COUNT}, "history?": {"": [{"epoch": COUNT, "": NUMBER}]}},
}


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
        return {name: rows / self.seconds[name] for name, rows in self.rows.items() if self.seconds.get(name, 0) > 0}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows in, out and rejected."""
        return self.rows_in, self.rows_out, self.rows_rejected

    @classmethod
    def load(cls, run: Run) -> Summary:
        """Return what the run's folder says, or an empty summary; also for a damaged one: it is made again."""
        if not run.home.exists(FILE):
            return cls()
        try:
            known = run.home.read_json(FILE)
            if mismatch(known, SUMMARY):
                raise TypeError
            found = cls(**known)
        except (TypeError, StorageError) as error:
            if isinstance(error, StorageError) and "not valid JSON" not in str(error):
                raise
            log.warning("%s/%s is damaged; it is made again, without the times of earlier calls.", run.home.uri, FILE)
            return cls()
        return found

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
    models: Run | None = None,
    until: str | None = None,
    flags: Flags | None = None,
    verify: bool = False,
) -> Summary:
    """Purify data set ``p0`` into folder ``out``, or go on with a purification begun there.

    A source that has gained files since both stages were trained is gone on with too: the models purify the new files.
    With ``models``, a finished purification, its models are taken and nothing is trained. ``until`` "stage1", "pass1"
    or "stage2" ends after that step; a later call goes on from there. With ``flags`` both stages are trained on the
    flagged rows only and only these are purified (Tables 9 and 12); the others come out with the pixels they had.

    What is damaged of the folder's files is made again. Presence and sizes are always compared, SHA-256 sums of all
    committed files with ``verify``, or where that is cheap; those of P1 whenever it is read.
    """
    check_sample(config, p0, classes, flags)
    with held(Run(out), watch or Silent(), "purify", p0) as (run, watch):
        return _purify(p0, classes, run, config, engine or InProcess(), watch, models, until, flags, verify)


def check_sample(config: PurifyConfig, data: Dataset, classes: Classes, flags: Flags | None = None) -> None:
    """Raise `ConfigError` if ``config.train_rows`` cannot be had of ``data``, or not beside ``flags``."""
    if config.train_rows and flags:
        raise ConfigError("train_rows and flags both say which rows to train on; give one of them.")
    if config.train_rows and not classes.count <= config.train_rows <= data.rows:
        raise ConfigError(
            f"train_rows is {config.train_rows}, and {data.store.uri} has {data.rows} rows in {classes.count} classes; "
            f"give a number between {classes.count} and {data.rows}, or 0 to train on all."
        )


def _purify(
    p0: Dataset,
    classes: Classes,
    run: Run,
    config: PurifyConfig,
    engine: Engine,
    watch: Watch,
    models: Run | None,
    until: str | None,
    flags: Flags | None,
    verify: bool,
) -> Summary:
    taken = adopt(run, models) if models else {}
    config = _settled(config, run, engine)
    may_grow = trained(run, "stage1") and trained(run, "stage2")
    known = {"classes": classes.to_dict(), "models": taken}
    if flags:
        known["flags"] = flags.about
    run.open("purify", _lasting(config), p0, known, may_grow=may_grow)
    if flags and not (run.home.exists(FLAGS) and run.home.read(FLAGS) == flags.data):
        run.home.write(FLAGS, flags.data)
    marked = flags.marked if flags else None
    summary = Summary.load(run)
    sums = verify or None
    mend(run, "pass3", sums, SPARE)
    mend(run, "pass1", sums, SPARE)
    if summary.complete and adds_up(run, summary.counts, p0.rows):
        warn_of_models(run, sums)
        _clean_up(run, config)
        return summary
    deleted, summary.complete = summary.complete, False  # P1 of a run that was complete

    def train(name: str, stage: StageConfig, data: Callable[[], Dataset]) -> None:
        started = time.monotonic()
        if not trained(run, name):
            job = training(run.home.sub(name), name, stage, data(), classes, config, flags)
            with watch.step(name, stage.train.epochs, "epochs") as advance:
                engine.train(job, progress=advance)
        summary.seconds[name] = summary.seconds.get(name, 0.0) + time.monotonic() - started
        summary.history[name] = load_history(run.home.sub(name))
        summary.save(run)

    def apply(work: SubtractPass | ReconstructPass, left: Sequence[Unit]) -> None:
        check_model(run, work)
        rows, seconds = apply_to_units(engine, run, work, work.data, watch, left)
        summary.seconds[work.name] = summary.seconds.get(work.name, 0.0) + seconds
        summary.rows[work.name] = summary.rows.get(work.name, 0) + rows
        summary.save(run)

    def p1() -> Dataset:
        return open_committed(run, "pass1", P1, p0)

    def pass1(sums: bool | None = sums) -> bool:
        """Make what is missing or damaged of P1 and still needed; return whether that was anything."""
        mend(run, "pass1", sums, only=needed(run, P1, trained(run, "stage2")), deleted=deleted)
        left = units_left(run, "pass1", p0, spare=SPARE)
        apply(
            SubtractPass("pass1", run, p0, classes, config, config.stage1.model, run.home.sub("stage1"), marked), left
        )
        _count(run, summary, p0, config)
        return bool(left)

    def pass3() -> None:
        data, stage = p1(), config.stage2
        left = units_left(run, "pass3", data, spare=SPARE)
        apply(ReconstructPass("pass3", run, data, classes, config, stage.model, run.home.sub("stage2"), marked), left)

    def mend_p1() -> bool:
        return pass1(sums=True)

    train("stage1", config.stage1, lambda: p0)
    if until == "stage1":
        return summary
    pass1()
    if until == "pass1":
        return summary

    mending(lambda: train("stage2", config.stage2, p1), mend_p1)
    if until == "stage2":
        return summary
    if run.home.list(P1):  # none is left of a run that had ended and now got only rows that cannot be used
        mending(pass3, mend_p1)
    _check_complete(run, summary)
    summary.complete = True
    summary.save(run)
    _clean_up(run, config)  # last: a run killed before this line would look for P1 again
    return summary


def trained(run: Run, stage: str) -> bool:
    """Whether a stage's final model is there."""
    return run.home.exists(f"{stage}/{MODEL}")


def _clean_up(run: Run, config: PurifyConfig) -> None:
    if not config.keep_intermediate:
        run.home.delete("work")


def adoptable(models: Run, data: Dataset) -> Classes:
    """Return the classes of the run whose models are to be taken; `DataError` if ``data`` cannot be of them."""
    classes = Classes.from_dict(models.read_purification()["classes"], data)
    names = data.schema.class_names
    if (classes.text and not classes.names) or (names and list(names) != list(classes.names or ())):
        raise DataError(
            f"{data.store.uri} and the models in {models.store.uri} are of other classes; "
            "train models for this data set, without --models."
        )
    return classes


def adopt(run: Run, models: Run) -> dict[str, Any]:
    """Copy the models of a purification into ``run``'s folder; return where they came from and their checksums."""
    taken: dict[str, Any] = {"run": models.store.uri}
    for stage in STAGES:
        if not trained(models, stage):
            raise DataError(
                f"{models.store.uri} has no trained model of {stage}; give the folder of a purification that is "
                "complete, or let it finish first."
            )
        load_model(models.home.sub(stage))
        model = models.home.read(f"{stage}/{MODEL}")
        taken[stage] = checksum(model)
        if not sound(run, stage):
            run.home.write(f"{stage}/{METRICS}", models.home.read(f"{stage}/{METRICS}"))
            run.home.write(f"{stage}/{MODEL}", model)
    return taken


def training(
    store: Store,
    name: str,
    stage: StageConfig,
    data: Dataset,
    classes: Classes,
    config: PurifyConfig,
    flags: Flags | None = None,
) -> TrainJob:
    """Return the training of one stage: a fresh D-VAE, with its own seed, on all rows, flagged ones or a sample."""
    chosen: Choice | None = flags.marked if flags else None
    if config.train_rows:
        chosen = sample(data, classes, config.train_rows, derive(config.seed, "train rows"))
    return TrainJob(
        name=name,
        task=VAETask(stage.model, stage.loss),
        data=data,
        classes=classes,
        image_size=config.image_size,
        config=stage.train,
        seed=derive(config.seed, name),
        store=store,
        selection=chosen,
        selected=flags.flagged if flags else config.train_rows,
    )


def _settled(config: PurifyConfig, run: Run, engine: Engine) -> PurifyConfig:
    """Return ``config`` with the number of slices decided: by the run that is gone on with, or for this engine."""
    known = run.read()["config"] if run.exists() else {}

    def settle(name: str, stage: StageConfig) -> StageConfig:
        before = known.get(name, {}).get("train", {}).get("slices", 0)
        asked = dataclasses.replace(stage.train, slices=stage.train.slices or before)
        # Passes can have more workers than a training has slices.
        slices = asked.slices if trained(run, name) else resolve_slices(asked, engine.workers, engine.device)
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
