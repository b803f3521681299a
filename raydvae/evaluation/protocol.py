"""The paper's evaluation: train a classifier on one data set, report its accuracy on another (last epoch)."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch

from raydvae.config import ClassifyConfig
from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset, probe_size
from raydvae.data.manifest import check_rejected
from raydvae.data.store import Store
from raydvae.engine import Engine, Silent, Watch
from raydvae.errors import ConfigError
from raydvae.models.classifiers import build_classifier, check_side, predict
from raydvae.training.checkpoint import load_model
from raydvae.training.feed import ImageSet, to_float
from raydvae.training.job import TrainJob
from raydvae.training.loop import resolve_slices
from raydvae.training.stream import Source, ahead
from raydvae.training.tasks import ClassifierTask, center_crop, view_side

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracies in percent, on images as they are (no augmentation), and the seconds that all of it took."""

    test_acc: float
    train_acc: float
    seconds: float


def classify(
    train: Dataset,
    test: Dataset,
    classes: Classes,
    image_size: int,
    config: ClassifyConfig,
    store: Store,
    engine: Engine,
    watch: Watch | None = None,
    recipe: type[ClassifierTask] = ClassifierTask,
) -> Accuracy:
    """Train a classifier on ``train`` and return its accuracies; its state and weights go to ``store``.

    ``recipe`` is how it is trained; the defenses have some of their own. Raises `ConfigError` for too small images, and
    for test images of another size that may not be resized.
    """
    started = time.monotonic()
    check_side(config.model, view_side(image_size) if config.crop == "resized" else image_size)
    check_test(test, image_size)
    slices = resolve_slices(config.train, engine.workers, engine.device)
    job = TrainJob(
        name="classifier",
        task=recipe.of(config, classes.count),
        data=train,
        classes=classes,
        image_size=image_size,
        config=dataclasses.replace(config.train, slices=slices),
        seed=config.seed,
        store=store,
    )
    with (watch or Silent()).step(job.name, config.train.epochs, "epochs") as advance:
        engine.train(job, progress=advance)
    model = load_classifier(config, classes.count, store, engine.device, job.about)
    on_test = accuracy(model, Source(test, classes, image_size), engine.device)
    on_train = accuracy(model, Source(train, classes, image_size), engine.device)
    return Accuracy(on_test, on_train, time.monotonic() - started)


def check_test(test: Dataset, image_size: int) -> None:
    """Raise `ConfigError` if the images of ``test`` have another size and may not be resized."""
    if test.data.size_policy == "reject" and (side := probe_size(test)) != image_size:
        raise ConfigError(
            f"The classifier is for images of {image_size}x{image_size} pixels, and those of {test.store.uri} have "
            f"{side}x{side}. Give --image-size {image_size} to have them resized."
        )


def load_classifier(
    config: ClassifyConfig, num_classes: int, store: Store, device: torch.device, about: dict[str, Any] | None = None
) -> torch.nn.Module:
    """Return the finished classifier that lies in ``store``; with ``about`` it must have been trained so."""
    model = build_classifier(config.model, num_classes)
    model.load_state_dict(load_model(store, about)[0])
    model = model.eval().to(device).to(memory_format=torch.channels_last)
    return _CenterCropped(model) if config.crop == "resized" else model


class _CenterCropped(torch.nn.Module):
    """A classifier that is shown the middle of each image."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(center_crop(x))
        return logits


def accuracy(model: torch.nn.Module, source: Source, device: torch.device) -> float:
    """Return the percentage of the usable rows of ``source`` whose label ``model`` predicts."""
    right, total, rejected = 0, 0, 0
    for rows in ahead(source.read, source.data.units()):
        images = ImageSet(torch.from_numpy(rows.images).permute(0, 3, 1, 2), torch.from_numpy(rows.labels))
        total, rejected = total + len(images), rejected + rows.rejected.num_rows
        right += hits(model, images, device)
    check_rejected(rejected, source.data.rows, source.data.data.reject_limit, f"in {source.data.store.uri}")
    return 100 * right / max(1, total)


def hits(model: torch.nn.Module, images: ImageSet, device: torch.device) -> int:
    """Return how many of ``images`` get their label from ``model``."""
    right = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(images), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        labels = predict(model, to_float(images.images[part].to(device)))
        right += (labels == images.labels[part].to(device)).sum()
    return int(right)
