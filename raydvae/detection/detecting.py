"""Which rows of a data set are unlearnable (section 5.1).

    stage1   train a D-VAE with a small KLD target on all rows, poisoned or not
    added    P_hat = x + p_hat: the estimate carries what poison there is to every image, clean ones too
    judge    train a classifier on P_hat: it learns the perturbations, which are easier than what images show
    score    ask it about the images as they came: it knows those that bring the perturbation with them; and keep what
             the D-VAE could not explain of each image
    trials   of rows that stand out (ours): does what they teach carry over to the others?

Every step leaves its result in the work folder and is skipped when it is there, so the same call resumes.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.config import to_dict
from raydvae.data.classes import Classes
from raydvae.data.damage import mending, open_committed
from raydvae.data.dataset import Dataset
from raydvae.data.flags import flags_table
from raydvae.data.manifest import Run, check_rejected
from raydvae.detection.configs import DetectConfig, Rule
from raydvae.detection.passes import ADDED, JUDGE, STAGE, AddPass, ScorePass, early_epoch
from raydvae.detection.rules import Judged, paper, shortcut
from raydvae.detection.trial import Trial, run_trial
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held, units_left
from raydvae.purify.algorithm import trained, training
from raydvae.seeds import derive
from raydvae.training.job import TrainJob
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import ClassifierTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """What was found of ``rows`` rows, of which ``rejected`` cannot be used.

    ``table`` has row_id, label and all evidence on the others; ``judged`` is in its order; ``flags`` is the parquet
    file that `raydvae.data.flags.read_flags` reads.
    """

    rule: Rule
    rows: int
    rejected: int
    judged: Judged
    table: pa.Table
    flags: bytes
    seconds: float


def detect(
    data: Dataset,
    classes: Classes,
    run: Run,
    config: DetectConfig,
    engine: Engine,
    watch: Watch | None = None,
    verify: bool = False,
) -> Detection:
    """Find out which rows of ``data`` are unlearnable, or go on with that; models and answers are kept in ``run``.

    Units whose answers are damaged are asked again; with ``verify`` all sums are compared.
    """
    started = time.monotonic()
    with held(run, watch or Silent(), "detect", data) as (run, watch):
        config = settled(config, run, engine)
        run.open("detect", lasting(config), data, {"classes": classes.to_dict()})
        work = ScorePass(run, data, classes, config)
        if left := units_left(run, work.name, data, verify):
            _prepare(data, classes, run, config, engine, watch)
            apply_to_units(engine, run, work, data, watch, left)
        run.home.delete("work")
        rejected = sum(record["rows_rejected"] for record in run.records(work.name))
        check_rejected(rejected, data.rows, data.data.reject_limit, f"see {run.home.uri}/rejected")
        table = work.answers()

        def attempt(name: str, suspects: npt.NDArray[np.bool_]) -> Trial:
            return run_trial(name, table, suspects, data, classes, run, config, engine, watch)

        judged = paper(table) if config.rule == "paper" else shortcut(table, attempt)
    columns = {
        "row_id": table["row_id"],
        "label": table["label"],
        "score": judged.score.astype(np.float32),
        "flagged": judged.flagged,
    }
    return Detection(
        rule=config.rule,
        rows=data.rows,
        rejected=rejected,
        judged=judged,
        table=table,
        flags=flags_table(columns, data),
        seconds=time.monotonic() - started,
    )


def _prepare(data: Dataset, classes: Classes, run: Run, config: DetectConfig, engine: Engine, watch: Watch) -> None:
    """Train both models and make P_hat between them, as far as that is not done."""
    stage, home = config.purify.stage1, run.home.sub(STAGE)
    if not trained(run, STAGE):
        job = training(home, STAGE, stage, data, classes, config.purify)
        with watch.step(STAGE, stage.train.epochs, "epochs") as advance:
            engine.train(job, progress=advance)
    if trained(run, JUDGE):
        return
    work = AddPass("added", run, data, classes, config.purify, stage.model, home)

    def train_judge() -> None:
        p_hat = open_committed(run, work.name, ADDED, data)
        with watch.step(JUDGE, config.classifier.train.epochs, "epochs") as advance:
            engine.train(judge(p_hat, classes, run, config), progress=advance)

    def mend_all() -> bool:
        left = units_left(run, work.name, data, verify=True)
        apply_to_units(engine, run, work, data, watch, left)
        return bool(left)

    apply_to_units(engine, run, work, data, watch)
    mending(train_judge, mend_all)


def judge(p_hat: Dataset, classes: Classes, run: Run, config: DetectConfig) -> TrainJob:
    """Return the training of the classifier on P_hat."""
    chosen = config.classifier
    return TrainJob(
        name=JUDGE,
        task=ClassifierTask(chosen.model, classes.count, chosen.crop_padding, chosen.flip),
        data=p_hat,
        classes=classes,
        image_size=config.purify.image_size,
        config=chosen.train,
        seed=derive(config.purify.seed, JUDGE),
        store=run.home.sub(JUDGE),
        keep=(early_epoch(config),),
    )


def settled(config: DetectConfig, run: Run, engine: Engine) -> DetectConfig:
    """Return ``config`` with the slices of both trainings decided: by the run that is gone on with, or the engine."""
    known: Any = run.read()["config"] if run.exists() else {}

    def settle(train: Any, name: str) -> Any:
        asked = dataclasses.replace(train, slices=train.slices or known.get("slices", {}).get(name, 0))
        slices = asked.slices if trained(run, name) else resolve_slices(asked, engine.workers, engine.device)
        return dataclasses.replace(asked, slices=slices)

    stage = dataclasses.replace(config.purify.stage1, train=settle(config.purify.stage1.train, STAGE))
    return dataclasses.replace(
        config,
        purify=dataclasses.replace(config.purify, stage1=stage),
        classifier=dataclasses.replace(config.classifier, train=settle(config.classifier.train, JUDGE)),
    )


def lasting(config: DetectConfig) -> dict[str, Any]:
    """Return the settings that a resumed run must share. Rules that share their scores share the run too."""
    stage, purify = config.purify.stage1, config.purify
    return {
        "seed": purify.seed,
        "stage1": to_dict(stage),
        "classifier": to_dict(dataclasses.replace(config.classifier, data=purify.data)),
        "sample_z": purify.sample_z,
        "quantize": purify.quantize,
        "pass_batch": purify.pass_batch,
        "slices": {STAGE: stage.train.slices, JUDGE: config.classifier.train.slices},
    }
