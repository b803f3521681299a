"""raydvae detect: which rows of a data set are unlearnable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened
from raydvae.cli.purify import Purify
from raydvae.config import ClassifyConfig, sized
from raydvae.detection.configs import DetectConfig
from raydvae.errors import ConfigError


@dataclass(frozen=True)
class Detect:
    """Find out which rows of a data set are unlearnable, and how many; or go on with that."""

    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder, file, glob or URI of parquet files."""
    out: str
    """Parquet file to write: row_id, label, score and flagged of each row; a page about it goes beside it."""
    work: str | None = None
    """Folder or URI for models and scores, to go on from when stopped (by default beside --out)."""
    rule: Literal["shortcut", "paper"] = "shortcut"
    """Ours, which calibrates its decision; or the paper's: flagged is whose label the classifier predicts."""
    preset: Literal["cifar10", "cifar100", "imagenet100", "digits"] = "cifar10"
    """Settings of the D-VAE to start from: the paper's first stage for each data set."""
    epochs: int | None = None
    """Epochs of the D-VAE."""
    batch: int | None = None
    """Images in a step of it."""
    width: int | None = None
    """Channels of its first convolution (the paper's is 64)."""
    model: Literal["resnet18", "small", "tiny"] = "resnet18"
    """The classifier that learns the perturbations: the paper's ResNet-18, or one for small machines."""
    model_epochs: int = 60
    """Its epochs."""
    model_batch: int = 128
    """Images in a step of it."""
    model_lr: float = 0.1
    """Its learning rate, lowered along a cosine."""
    no_flip: bool = False
    """Do not mirror images at random (digits, text, signs)."""
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
        """Detect."""
        self.where.check()
        if not self.out.endswith(".parquet"):
            raise ConfigError(f"--out is {self.out}; flags are a parquet file, so give a name that ends in .parquet.")
        config = self.settings()
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store, absolute
        from raydvae.detection.detecting import detect
        from raydvae.reports.detection import write_page

        options, limits = self.where.options(), config.purify.data
        data = opened(self.source, limits, options, "train")
        given = self.classes or (None if data.schema.class_names else config.purify.num_classes)
        classes = find_classes(data, given)
        size = self.image_size or (probe_size(data) if limits.size_policy == "reject" else config.purify.image_size)
        config = dataclasses.replace(config, purify=sized(config.purify, classes.count, size))
        folder, name = absolute(self.out).rsplit("/", 1)
        work = self.work or f"{absolute(self.out).removesuffix('.parquet')}.work"
        with self.where.engine() as engine:
            found = detect(data, classes, Run(Store(work, options)), config, engine, Progress(), self.verify_files)
        store = Store(folder, options)
        page = write_page(found, data, classes, store, f"{name.removesuffix('.parquet')}.html")
        store.write(name, found.flags)
        about = result(found) | {"out": self.out, "report": page, "left_out": data.left_out}
        finish(about, self.json, described(found, self.out, page))

    def settings(self) -> DetectConfig:
        """Return the preset with the flags on top."""
        base = Purify(
            source=self.source,
            out=self.out,
            preset=self.preset,
            epochs=self.epochs,
            batch=self.batch,
            width=self.width,
            image_size=self.image_size,
            seed=self.seed,
        ).settings()
        classifier = ClassifyConfig(model=self.model, seed=base.seed, flip=not self.no_flip)
        train = dataclasses.replace(
            classifier.train, epochs=self.model_epochs, batch_size=self.model_batch, lr=self.model_lr
        )
        return DetectConfig(rule=self.rule, purify=base, classifier=dataclasses.replace(classifier, train=train))


def result(found: Any) -> dict[str, Any]:
    """Return the JSON line of a detection."""
    return {
        "rows": found.rows,
        "rows_rejected": found.rejected,
        "flagged": int(found.judged.flagged.sum()),
        "share": round(found.judged.share, 4),
        "share_error": round(found.judged.share_error, 4),
        "verdict": found.judged.verdict,
        "seconds": round(found.seconds, 2),
    }


def described(found: Any, out: str, page: str) -> str:
    """Return the closing words of a detection."""
    flagged = int(found.judged.flagged.sum())
    return f"Verdict: {found.judged.verdict}.\n{flagged} of {found.rows} rows are flagged: {out}\nReport: {page}"
