"""raydvae classify: what a classifier learns from a data set."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened
from raydvae.config import ClassifierName, ClassifyConfig
from raydvae.errors import ConfigError
from raydvae.evaluation.presets import ClassifyPreset, classify_preset


@dataclass(frozen=True)
class Classify:
    """Train a classifier on one data set and report its accuracy on another (last epoch, as the paper does)."""

    train: Annotated[Positional[str], arg(metavar="TRAIN")]
    """Folder, file, glob or URI of parquet files to train on."""
    test: str
    """The same, to test on."""
    preset: ClassifyPreset = "cifar10"
    """The paper's recipe for that data set, or a shorter one for sweeps (fast); flags change it."""
    model: ClassifierName | None = None
    """The paper's for small images or for 224 px, or small ones (resnet18; fast: resnet9)."""
    defense: Literal["cutout", "cutmix", "mixup", "at", "ueraser"] | None = None
    """Train by a defense: images cut out or mixed, adversarial training, or the hardest of random views (ueraser)."""
    epochs: int | None = None
    """Epochs (60; fast: 24; cifar100 and imagenet100: 100; adversarial training and UEraser have their own)."""
    hard_epochs: int | None = None
    """ueraser: first epochs, in which the hardest of five views counts (50 of 200; other presets: 30 of 300)."""
    batch: int | None = None
    """Images in a step, of all workers together (128; fast: 512)."""
    lr: float | None = None
    """Learning rate, lowered along a cosine or, if fast, a line (0.1; ueraser: 0.01; fast: at most 0.4)."""
    image_size: int | None = None
    """Resize all images to this height and width (imagenet100: 256, of which 224 are seen)."""
    no_flip: bool = False
    """Do not mirror images at random (digits, text, signs)."""
    seed: int = 0
    """Seed of everything random."""
    out: str | None = None
    """Folder or URI to keep weights and metrics in, and to go on from when stopped; by default nothing is kept."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Classify."""
        self.where.check()
        config = self.settings()
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.store import Store
        from raydvae.defenses.recipes import find_recipe
        from raydvae.evaluation.protocol import classify

        recipe = find_recipe(self.defense)
        options = self.where.options()
        trained = opened(self.train, config.data, options, "train")
        tested = opened(self.test, config.data, options, "test")
        classes = find_classes(trained)
        size = config.image_size or probe_size(trained)
        with tempfile.TemporaryDirectory() as folder, self.where.engine() as engine:
            if engine.address and not self.out:
                raise ConfigError("On a cluster the classifier needs a folder that all its machines reach: give --out.")
            store = Store(self.out, options) if self.out else Store(folder)
            accuracy = classify(trained, tested, classes, size, config, store, engine, Progress(), recipe)
        text = (
            f"Accuracy {accuracy.test_acc:.2f} % on {self.test}, {accuracy.train_acc:.2f} % on what it was trained on."
        )
        finish(
            {
                "test_acc": round(accuracy.test_acc, 3),
                "train_acc": round(accuracy.train_acc, 3),
                "seconds": round(accuracy.seconds, 2),
                "left_out": trained.left_out,
            },
            self.json,
            text,
        )

    def settings(self) -> ClassifyConfig:
        """Return the preset with the flags on top."""
        base = classify_preset(self.preset, self.model, self.defense)
        train = dataclasses.replace(
            base.train,
            epochs=base.train.epochs if self.epochs is None else self.epochs,
            batch_size=base.train.batch_size if self.batch is None else self.batch,
            lr=base.train.lr if self.lr is None else self.lr,
        )
        size = base.image_size if self.image_size is None else self.image_size
        return dataclasses.replace(
            base,
            seed=self.seed,
            train=train,
            image_size=size,
            data=dataclasses.replace(base.data, size_policy="resize" if size else "reject"),
            flip=not self.no_flip,
            hard_epochs=base.hard_epochs if self.hard_epochs is None else self.hard_epochs,
        )
