"""Making more unlearnable examples of a few (section 5.2, Table 8): what a D-VAE takes for the perturbation is one.

The D-VAE of stage 1 is trained on the poisoned rows alone. Given a clean image and its label it estimates a
perturbation too, which added to the image makes it unlearnable.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raydvae.attacks.poisoning import STEP, collect, publish, to_poison
from raydvae.config import to_dict
from raydvae.data.classes import Classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.rows import Rows
from raydvae.data.store import Store
from raydvae.detection.configs import GrowConfig
from raydvae.detection.passes import added
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held
from raydvae.errors import DataError
from raydvae.purify.algorithm import trained, training
from raydvae.purify.passes import Pass
from raydvae.training.feed import Cut
from raydvae.training.loop import resolve_slices

STAGE = "stage1"
Grown = tuple[Array, npt.NDArray[np.float64]]


class GrowPass(Pass):
    """P1 = clamp(T1 + p_hat), all rows of it."""

    def compute(self, rows: Rows) -> Grown:
        """Return x + p_hat (N, H, W, 3) uint8, and the l2 norm of each row's change on the scale of [0, 1]."""
        assert self.inference is not None
        out = added(rows.images, self.inference.subtracted(rows)[1], self.config.quantize)
        change = (out.astype(np.float64) - rows.images) / 255
        return out, np.sqrt(np.square(change).sum(axis=(1, 2, 3)))

    def commit(self, rows: Rows, result: Grown) -> dict[str, Any]:
        """Publish the unit, and beside the data how much each row was changed, as `raydvae poison` does."""
        out, norms = result
        return publish(self.run, self.data, rows, out, np.ones(len(out), np.bool_), norms)


def grow(
    poisoned: Dataset,
    clean: Dataset,
    classes: Classes,
    out: Store,
    config: GrowConfig,
    engine: Engine,
    watch: Watch | None = None,
    verify: bool = False,
) -> dict[str, int]:
    """Poison data set ``clean`` into folder ``out`` with what ``poisoned`` shows, or go on with it.

    ``classes`` are those of both. Units whose files are damaged are done again; with ``verify`` all sums are compared.
    Returns the counts of rows, as `raydvae.attacks.poisoning.poison` does.
    """
    check_pair(poisoned, clean)
    with held(Run(out), watch or Silent(), "grow", poisoned, clean) as (run, watch):
        config = scheduled(config, poisoned.rows, engine, known_slices(run), trained(run, STAGE))
        settings = {
            "seed": config.purify.seed,
            "steps": config.steps,
            "stage": to_dict(config.purify.stage1),
            "sample_z": config.purify.sample_z,
            "quantize": config.purify.quantize,
            "pass_batch": config.purify.pass_batch,
        }
        known = {
            "classes": classes.to_dict(),
            "poisoned": {"files": [[file.name, file.fingerprint] for file in poisoned.files]},
        }
        run.open("grow", settings, clean, known)
        stage, home = config.purify.stage1, run.home.sub(STAGE)
        if not trained(run, STAGE):
            job = training(home, STAGE, stage, poisoned, classes, dataclasses.replace(config.purify, train_rows=0))
            with watch.step(STAGE, stage.train.epochs, "epochs") as advance:
                engine.train(job, progress=advance)
        work = GrowPass(STEP, run, clean, classes, config.purify, stage.model, home)
        if left := to_poison(run, clean, verify):
            apply_to_units(engine, run, work, clean, watch, left)
        counts = collect(run)
    check_rejected(counts["rows_rejected"], clean.rows, clean.data.reject_limit, f"see {run.home.uri}/rejected")
    return counts


def known_slices(run: Run) -> int:
    """Return the slices that the run of this folder was begun with; 0 for none."""
    known = run.read()["config"] if run.exists() else {}
    return int(known.get("stage", {}).get("train", {}).get("slices", 0))


def check_pair(poisoned: Dataset, clean: Dataset) -> None:
    """Raise `DataError` if the two cannot have the same classes."""
    first, second = poisoned.schema, clean.schema
    names = first.class_names, second.class_names
    if first.labels_are_text != second.labels_are_text or (all(names) and names[0] != names[1]):
        raise DataError(
            f"{poisoned.store.uri} and {clean.store.uri} are of other classes: their labels differ in "
            "type or names. Give poisoned and clean rows of one data set."
        )


def scheduled(config: GrowConfig, rows: int, engine: Engine, slices: int, trained: bool) -> GrowConfig:
    """Return ``config`` with the slices settled, ``slices`` of them if not 0, and as many epochs as make the steps."""
    stage = config.purify.stage1
    asked = dataclasses.replace(stage.train, slices=stage.train.slices or slices)
    count = asked.slices if trained else resolve_slices(asked, engine.workers, engine.device)
    epochs = math.ceil(config.steps / len(Cut.of(rows, asked.batch_size, count).sizes))
    stage = dataclasses.replace(stage, train=dataclasses.replace(asked, slices=count, epochs=epochs))
    return dataclasses.replace(config, purify=dataclasses.replace(config.purify, stage1=stage))
