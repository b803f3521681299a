"""raydvae grow: make a clean data set unlearnable with what a few poisoned rows show."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened
from raydvae.cli.purify import Purify
from raydvae.config import sized
from raydvae.detection.configs import GrowConfig


@dataclass(frozen=True)
class Grow:
    """Train the first D-VAE on a few poisoned rows and add the perturbations it estimates to clean ones."""

    poisoned: Annotated[Positional[str], arg(metavar="POISONED")]
    """Folder, file, glob or URI of parquet files: the poisoned rows, and no others."""
    clean: Annotated[Positional[str], arg(metavar="CLEAN")]
    """The same, of the clean rows."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the clean rows made unlearnable; running again goes on with it."""
    preset: Literal["cifar10", "cifar100", "imagenet100", "digits"] = "cifar10"
    """Settings to start from: the paper's for each data set."""
    steps: int = 2000
    """Steps of the training; they are few rows, so epochs would say little."""
    kld: float | None = None
    """KLD target, nats a latent position (by default the preset's of stage 1)."""
    batch: int | None = None
    """Images in a step, of all workers together."""
    width: int | None = None
    """Channels of the first convolution (the paper's is 64)."""
    classes: int | None = None
    """Number of classes, where the data do not say."""
    image_size: int | None = None
    """Resize all images to this height and width."""
    seed: int | None = None
    """Seed of everything random (default 0)."""
    verify_files: bool = False
    """Compare checksums of all files that the run has committed; presence and sizes always are. Damage is mended."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Grow."""
        started = time.monotonic()
        self.where.check()
        base = Purify(
            source=self.clean,
            out=self.out,
            preset=self.preset,
            kld1=self.kld,
            batch=self.batch,
            width=self.width,
            image_size=self.image_size,
            seed=self.seed,
        ).settings()
        config = GrowConfig(purify=base, steps=self.steps)
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.store import Store
        from raydvae.detection.growing import check_pair, grow

        options = self.where.options()
        poisoned = opened(self.poisoned, base.data, options, "train")
        clean = opened(self.clean, base.data, options, "train")
        check_pair(poisoned, clean)
        classes = find_classes(clean, self.classes or (None if clean.schema.class_names else base.num_classes))
        size = self.image_size or (probe_size(clean) if base.data.size_policy == "reject" else base.image_size)
        config = dataclasses.replace(config, purify=sized(base, classes.count, size))
        with self.where.engine() as engine:
            counts = grow(
                poisoned, clean, classes, Store(self.out, options), config, engine, Progress(), self.verify_files
            )
        seconds = time.monotonic() - started
        text = f"{counts['rows_poisoned']} of {counts['rows_in']} rows made unlearnable: {self.out}"
        finish({**counts, "seconds": round(seconds, 2), "out": self.out}, self.json, text)
