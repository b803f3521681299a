"""raydvae tune: the KLD targets of a purification, found by trials on a part of the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened, trials_on
from raydvae.cli.purify import Purify
from raydvae.config import ClassifierName, ClassifyConfig, PurifyConfig, sized
from raydvae.errors import ConfigError

if TYPE_CHECKING:
    from raydvae.data.classes import Classes
    from raydvae.data.dataset import Dataset
    from raydvae.data.store import Store
    from raydvae.distributed.engine import RayEngine


@dataclass(frozen=True)
class Tune:
    """Find the KLD targets whose PSNR(x, x_hat) lies in section 3.5's windows, or go on with that."""

    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder, file, glob or URI of parquet files."""
    out: str
    """Folder or URI for the settings found (purify.toml), the table, the page; running again goes on with it."""
    stage1_psnr: str | None = None
    """Window of stage 1 in dB, LOW:HIGH (by default the preset's; 20:22 for cifar10)."""
    stage2_psnr: str | None = None
    """Window of stage 2 in dB, LOW:HIGH (28:30 for cifar10)."""
    trials: int = 8
    """Most trials a stage."""
    fraction: float = 0.25
    """Share of the rows that trials are trained on, each class in proportion."""
    epochs: int = 0
    """Epochs of a trial (by default those of a full training)."""
    concurrency: int = 2
    """Trials at a time; each gets its share of the cores and GPUs."""
    search: Literal["bisect", "grid", "random", "optuna"] = "bisect"
    """How targets are searched; optuna is an extra."""
    preset: Literal["cifar10", "cifar100", "imagenet100", "digits"] = "cifar10"
    """Settings of the purification that is tuned for."""
    config: str | None = None
    """TOML file of them, laid over its own preset; flags given here come on top."""
    full_epochs: int | None = None
    """Epochs of a full training."""
    batch: int | None = None
    """Images in a step."""
    width: int | None = None
    """Channels of the first convolution."""
    image_size: int | None = None
    """Height and width to purify at; by default what the first images have (imagenet100: 224)."""
    train_rows: int | None = None
    """Full trainings take a seeded sample of so many rows."""
    seed: int | None = None
    """Seed of everything random (default 0)."""
    objective: Literal["psnr", "accuracy"] = "psnr"
    """Find targets by PSNR; or measure --test accuracy at the targets given."""
    test: str | None = None
    """With --objective accuracy: clean data to test on."""
    sweep: Literal["pairs", "dvae", "vae"] = "pairs"
    """accuracy: purify with pairs of targets (Table 18), or take x_hat of one D-VAE (Figure 6) or VAE (Figure 2)."""
    kld1: tuple[float, ...] = ()
    """accuracy: targets of stage 1, or of the one model (by default the paper's, or 0.25 to 4)."""
    kld2: tuple[float, ...] = ()
    """accuracy: targets of stage 2; each is paired with each --kld1."""
    model: ClassifierName = "resnet18"
    """accuracy: the classifier."""
    model_epochs: int = 60
    """accuracy: its epochs."""
    model_batch: int = 128
    """accuracy: images in a step of it."""
    model_lr: float = 0.1
    """accuracy: its learning rate."""
    no_flip: bool = False
    """accuracy: do not mirror images at random."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Tune."""
        self.where.check()
        options = self.where.options()
        config = self.settings()
        if (self.objective == "accuracy") != (self.test is not None):
            raise ConfigError("--objective accuracy and --test belong together; give both or none.")
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store
        from raydvae.purify.preflight import preflight
        from raydvae.reports.tuning import write_page
        from raydvae.tuning.experiment import Here, TuneConfig, result, tune

        settings = TuneConfig(
            trials=self.trials,
            fraction=self.fraction,
            epochs=self.epochs,
            concurrency=self.concurrency,
            search=self.search,
        )
        data = opened(self.source, config.data, options, "train")
        classes = find_classes(data, None if data.schema.class_names else config.num_classes)
        size = self.image_size
        if size is None and not self.config and config.data.size_policy == "reject":
            size = probe_size(data)
        config = sized(config, classes.count, size or config.image_size)
        out = Store(self.out, options)
        Run(out).check("tune" if self.objective == "psnr" else "sweep", data)
        with self.where.engine() as engine:
            if self.objective == "accuracy":
                self.measure(data, classes, out, config, engine)
                return
            preflight(data, classes, out, config, engine).check()
            runner = trials_on(engine, settings.concurrency) or Here()
            tuned = tune(data, classes, out, config, settings, engine, runner, Progress())
        page = write_page(data, classes, out, tuned)
        about = result(tuned) | {"config": f"{out.uri}/purify.toml", "page": page, "left_out": data.left_out}
        finish(about, self.json, described(tuned, self.out))

    def measure(self, data: Dataset, classes: Classes, out: Store, config: PurifyConfig, engine: RayEngine) -> None:
        """Measure accuracy at each target."""
        from raydvae.evaluation.sweep import sweep
        from raydvae.reports.tuning import write_sweep

        base = ClassifyConfig()
        train = dataclasses.replace(base.train, epochs=self.model_epochs, batch_size=self.model_batch, lr=self.model_lr)
        classifier = dataclasses.replace(
            base, model=self.model, seed=config.seed, train=train, data=config.data, flip=not self.no_flip
        )
        test = opened(str(self.test), config.data, self.where.options(), "test")
        points = sweep(data, test, classes, out, config, classifier, self.sweep, self.targets(), engine, Progress())
        page = write_sweep(out, points, self.sweep, data.store.uri)
        best = max(points, key=lambda point: point.test_acc)
        result = {"points": [dataclasses.asdict(point) for point in points], "page": page}
        at = f"{best.kld1:g}/{best.kld2:g}" if self.sweep == "pairs" else f"{best.kld1:g}"
        text = f"Best of {len(points)}: {best.test_acc:.2f} % at {at}, {best.psnr:.2f} dB.\nPage: {page}"
        finish(result, self.json, text)

    def targets(self) -> list[tuple[float, float]]:
        """Return the targets to measure at: each of --kld1 with each of --kld2, or the paper's."""
        from raydvae.evaluation.sweep import FIGURES, TABLE_18

        if self.sweep == "pairs":
            if bool(self.kld1) != bool(self.kld2):
                raise ConfigError("Pairs take both --kld1 and --kld2; give both, or none for those of Table 18.")
            return [(first, second) for first in self.kld1 for second in self.kld2] or list(TABLE_18)
        if self.kld2:
            raise ConfigError(f"--sweep {self.sweep} trains one model a target; leave --kld2 out.")
        return [(kld, 0.0) for kld in self.kld1] or list(FIGURES)

    def settings(self) -> PurifyConfig:
        """Return the settings that are tuned for, with the windows asked for."""
        base = Purify(
            source=self.source,
            out=self.out,
            preset=self.preset,
            config=self.config,
            epochs=self.full_epochs,
            batch=self.batch,
            width=self.width,
            image_size=self.image_size,
            train_rows=self.train_rows,
            seed=self.seed,
        ).settings()
        return dataclasses.replace(
            base,
            stage1=_windowed(base.stage1, "--stage1-psnr", self.stage1_psnr),
            stage2=_windowed(base.stage2, "--stage2-psnr", self.stage2_psnr),
        )


def window(flag: str, text: str) -> tuple[float, float]:
    """Return the two dB values of LOW:HIGH; `ConfigError` for anything else."""
    from raydvae.tuning.search import check_window

    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"{flag} is {text!r}; give two dB values as LOW:HIGH, such as 20:22.") from None
    check_window((low, high))
    return low, high


def _windowed(stage: Any, flag: str, text: str | None) -> Any:
    return stage if text is None else dataclasses.replace(stage, psnr_window=window(flag, text))


def described(tuned: Any, out: str) -> str:
    """Return the closing words of a tuning."""
    lines = [
        f"{name}: KLD target {stage.kld_target:g} gives {stage.psnr:.2f} dB (window {stage.window[0]:g} to "
        f"{stage.window[1]:g}), {stage.bits_per_pixel:.3g} bits a pixel; {len(stage.trials)} trials"
        for name, stage in tuned.stages.items()
    ]
    return "\n".join([*lines, f"Settings: {out}/purify.toml, for raydvae purify --config", f"Page: {out}/tuning.html"])
