"""A trial of rows under suspicion: does what they teach a classifier carry over to the other rows?

That it does not is what makes a row unlearnable, and it can be measured without any clean data. The rows are cut into
halves. One classifier is trained on suspects of a half, another on other rows of the same half, of each class as many,
and both are asked about the other half. If the suspects bring a shortcut, the first one knows suspects it has not seen
and not the others, while the second one knows the others: few rows are enough to learn them, these rows are not.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.selection import Marked
from raydvae.detection.configs import DetectConfig
from raydvae.detection.passes import SIDES, TrialPass, halves
from raydvae.engine import Engine, Watch, apply_to_units, units_left
from raydvae.seeds import derive
from raydvae.training.job import TrainJob
from raydvae.training.tasks import ClassifierTask

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]
MOST_ROWS = 5000  # that a classifier of a trial is trained on
FEWEST_ROWS = 3  # of a class in a half, on both sides, for the class to take part
EPOCHS, STEPS = 10, 100  # of a classifier of a trial: at least
LEARNED = 0.5  # of what others teach about others, suspects must teach about suspects
CARRIED = 0.75  # of it, suspects may teach about others: below, what they teach does not carry over
ERRORS = 3.0  # standard errors that the difference must be larger than


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Accuracies on rows that were not trained on, means over ``classes`` classes, as shares.

    ``suspects`` and ``others`` by the classifier that was trained on suspects; ``control`` on others, by the one that
    was trained on as many others. ``error`` is the standard error of the last two's difference.
    """

    classes: int
    suspects: float
    others: float
    control: float
    error: float

    @property
    def unlearnable(self) -> bool:
        """Whether the suspects teach something that holds for suspects only."""
        if self.classes < 2:
            return False
        chance = 1 / self.classes
        known, carried, control = (value - chance for value in (self.suspects, self.others, self.control))
        return known > LEARNED * control and carried < CARRIED * control and control - carried > ERRORS * self.error


NONE = Trial(classes=0, suspects=0.0, others=0.0, control=0.0, error=0.0)


def run_trial(
    name: str,
    table: pa.Table,
    suspects: Mask,
    data: Dataset,
    classes: Classes,
    run: Run,
    config: DetectConfig,
    engine: Engine,
    watch: Watch,
) -> Trial:
    """Try the ``suspects`` among the rows of ``table``, or go on with that."""
    row_ids, labels = table["row_id"].to_pylist(), table["label"].to_numpy()
    seed = config.purify.seed
    half = halves(row_ids, seed)
    counts = quotas(labels, suspects, half, classes.count)
    used = np.flatnonzero(counts.min(axis=0))
    if len(used) < 2:
        return NONE
    order = np.argsort([derive(seed, "trial", row_id) for row_id in row_ids], kind="stable")
    work = TrialPass(run, data, classes, config, name)
    if left := units_left(run, name, data):
        for number in (0, 1):
            for side, mask in zip(SIDES, (suspects, ~suspects), strict=True):
                chosen = drawn(order, mask & (half == number), labels, counts[number])
                folder = f"{side}-{number}"
                job = training(f"trials/{name}/{folder}", row_ids, chosen, data, classes, run, config)
                with watch.step(f"{name}: {folder}", job.config.epochs, "epochs") as advance:
                    engine.train(job, progress=advance)
        apply_to_units(engine, run, work, data, watch, left)
    answers = work.answers()
    return measured(labels, suspects, used, *(answers[side].to_numpy() > 0 for side in SIDES))


def quotas(labels: Labels, suspects: Mask, half: Labels, num_classes: int) -> Labels:
    """Return how many rows of each class (2, C) to train on in each half: as many suspects as others."""
    limit = max(1, MOST_ROWS // num_classes)
    out = np.zeros((2, num_classes), np.int64)
    for number in (0, 1):
        sides = [np.bincount(labels[mask & (half == number)], minlength=num_classes) for mask in (suspects, ~suspects)]
        out[number] = np.minimum(limit, np.minimum(*sides))
    out[:, out.min(axis=0) < FEWEST_ROWS] = 0
    return out


def drawn(order: Places, among: Mask, labels: Labels, counts: Labels) -> Mask:
    """Return a mask of the first ``counts`` rows of each class in ``order`` that are ``among`` those to choose of."""
    out = np.zeros(len(labels), np.bool_)
    for label in np.flatnonzero(counts):
        mine = order[(among & (labels == label))[order]]
        out[mine[: counts[label]]] = True
    return out


def training(
    folder: str,
    row_ids: list[str],
    chosen: Mask,
    data: Dataset,
    classes: Classes,
    run: Run,
    config: DetectConfig,
) -> TrainJob:
    """Return the training of a classifier on the ``chosen`` rows, as they are: a shortcut may lie in a single pixel."""
    rows, train = int(chosen.sum()), config.classifier.train
    batch = max(2 * train.slices, min(train.batch_size, rows // 4))
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    return TrainJob(
        name=folder.rsplit("/", 1)[1],
        task=ClassifierTask(config.classifier.model, classes.count, crop_padding=0, flip=False),
        data=data,
        classes=classes,
        image_size=config.purify.image_size,
        config=dataclasses.replace(train, epochs=epochs, batch_size=batch),
        seed=derive(config.purify.seed, folder),
        store=run.home.sub(folder),
        selection=marked(row_ids, chosen),
        selected=rows,
    )


def marked(row_ids: list[str], chosen: Mask) -> Marked:
    """Return the ``chosen`` rows as a selection."""
    ids = [row_ids[index] for index in np.flatnonzero(chosen)]
    return Marked.of(ids, f"{derive(0, *sorted(ids))}")


def measured(labels: Labels, suspects: Mask, used: Places, by_suspects: Mask, by_others: Mask) -> Trial:
    """Return a trial's accuracies: ``by_suspects`` and ``by_others`` are the rows that each classifier knows."""
    parts = [
        [hits[mask & (labels == label)] for label in used]
        for hits, mask in ((by_suspects, suspects), (by_suspects, ~suspects), (by_others, ~suspects))
    ]
    means = [float(np.mean([part.mean() for part in side])) for side in parts]
    spread = [sum(part.var() / len(part) for part in side) / len(used) ** 2 for side in parts[1:]]
    return Trial(classes=len(used), suspects=means[0], others=means[1], control=means[2], error=math.sqrt(sum(spread)))
