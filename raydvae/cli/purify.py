"""raydvae purify: the two-stage D-VAE purification of a data set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened, say, trials_on
from raydvae.config import (
    BatchStats,
    PurifyConfig,
    SizePolicy,
    StageConfig,
    from_dict,
    load_toml,
    preset,
    sized,
    with_targets,
)
from raydvae.errors import ConfigError

if TYPE_CHECKING:
    from raydvae.data.classes import Classes
    from raydvae.data.dataset import Dataset
    from raydvae.data.store import Store
    from raydvae.distributed.engine import RayEngine
    from raydvae.purify.algorithm import Summary


@dataclass(frozen=True)
class Purify:
    """Purify a data set, or go on with a purification that was stopped."""

    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder, file, glob or URI of parquet files."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the purified data set; running again goes on with it, and takes what is new in the source."""
    preset: Literal["cifar10", "cifar100", "imagenet100", "digits"] = "cifar10"
    """Settings to start from: the paper's for each data set."""
    config: str | None = None
    """TOML file of settings, laid over its own preset; flags given here come on top."""
    kld1: float | None = None
    """KLD target of stage 1, nats a latent position."""
    kld2: float | None = None
    """KLD target of stage 2."""
    epochs: int | None = None
    """Epochs of each stage."""
    batch: int | None = None
    """Images in a step, of all workers together."""
    width: int | None = None
    """Channels of the first convolution (the paper's is 64)."""
    lr: float | None = None
    """Learning rate."""
    slices: int | None = None
    """Equal parts a batch is computed in; the result is the same for all worker counts that divide it."""
    batch_stats: BatchStats | None = None
    """Batch statistics per slice, or over the whole batch."""
    classes: int | None = None
    """Number of classes, where the data do not say."""
    image_size: int | None = None
    """Height and width to purify at; by default what the first images have (imagenet100: 224)."""
    size_policy: SizePolicy | None = None
    """What to do with images of another size."""
    reject_limit: float | None = None
    """Share of the rows that may be unusable before the run fails."""
    unit_rows: int | None = None
    """Most rows in a unit of work, which is one output file."""
    train_rows: int | None = None
    """Train on a seeded sample of so many rows, each class in proportion; all rows are purified."""
    memory_gib: float | None = None
    """Decoded images that a worker keeps while it trains; what is larger is streamed in each epoch (default 8)."""
    models: str | None = None
    """Take settings and models of this finished run instead of training."""
    only_flagged: str | None = None
    """Flags of `raydvae detect`: train on the flagged rows and purify only them; the others keep their pixels."""
    tune: bool = False
    """Find both KLD targets first, as `raydvae tune` does by default; --kld1 and --kld2 are where it starts."""
    until: Literal["stage1", "pass1", "stage2"] | None = None
    """End after this step; a later call without it goes on."""
    dry_run: bool = False
    """Tell what would be done, and end."""
    seed: int | None = None
    """Seed of everything random (default 0)."""
    keep_intermediate: bool = False
    """Keep P1 and write P2 too."""
    verify_files: bool = False
    """Compare checksums of all files that the run has committed; presence and sizes always are. Damage is mended."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Purify."""
        self.where.check()
        options = self.where.options()
        if self.tune and self.models:
            raise ConfigError("--tune trains models, and --models takes those of another run; give one of them.")
        if self.only_flagged and (self.tune or self.train_rows):
            other = "--tune" if self.tune else "--train-rows"
            raise ConfigError(f"--only-flagged and {other} train on other rows each; give one of them.")
        config = self.borrowed(options) if self.models else self.settings()
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.flags import read_flags
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store
        from raydvae.purify.algorithm import adoptable, purify
        from raydvae.purify.preflight import preflight
        from raydvae.reports.collect import write_report

        data = opened(self.source, config.data, options, "train")
        if self.models:
            models = Run(Store(self.models, options))
            classes = adoptable(models, data)
        else:
            models = None
            classes = find_classes(data, self.classes or (None if data.schema.class_names else config.num_classes))
            size = self.image_size
            if size is None and not self.config and config.data.size_policy == "reject":
                size = probe_size(data)
            config = sized(config, classes.count, size or config.image_size)
        flags = read_flags(self.only_flagged, data, options) if self.only_flagged else None
        out = Store(self.out, options)
        Run(out).check("purify", data)
        with self.where.engine() as engine:
            plan = preflight(data, classes, out, config, engine, trains=models is None, flags=flags)
            say(plan.text())
            plan.check()
            if self.dry_run:
                finish(plan.to_dict() | {"left_out": data.left_out}, self.json, "Nothing was done: --dry-run.")
                return
            if self.tune:
                config = tuned(data, classes, out, config, engine)
            summary = purify(
                data, classes, out, config, engine, Progress(), models, self.until, flags, self.verify_files
            )
        report = write_report(out, source=data)
        finish(result(summary, report) | {"left_out": data.left_out}, self.json, described(summary, self.out, report))

    def borrowed(self, options: dict[str, Any]) -> PurifyConfig:
        """Return the settings of the run whose models are taken; `ConfigError` for flags that would change them."""
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store

        fixed = ("config", "kld1", "kld2", "epochs", "batch", "width", "lr", "slices", "batch_stats", "classes")
        given = [name for name in (*fixed, "image_size", "train_rows", "memory_gib") if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is a setting of the models, which {self.models} has decided. "
                "Leave it out, or train anew without --models."
            )
        known = Run(Store(str(self.models), options)).read_purification()
        if known["kind"] != "purify":
            raise ConfigError(f"--models {self.models} is a {known['kind']} run; give the folder of a purification.")
        base = from_dict(preset(known["config"]["preset"]), known["config"])
        data = _given(base.data, reject_limit=self.reject_limit, unit_rows=self.unit_rows, size_policy=self.size_policy)
        config: PurifyConfig = _given(
            base, seed=self.seed, data=data, train_rows=0, keep_intermediate=self.keep_intermediate or None
        )
        return config

    def settings(self) -> PurifyConfig:
        """Return preset or TOML file with the flags on top."""
        base = preset(self.preset)
        if self.config is not None:
            try:
                with open(self.config, encoding="utf-8") as file:
                    base = load_toml(file.read())
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"Cannot read --config {self.config}: {error}.") from None
        data = _given(
            base.data,
            size_policy=self.size_policy,
            reject_limit=self.reject_limit,
            unit_rows=self.unit_rows,
            memory_gib=self.memory_gib,
        )
        if self.image_size is not None and self.size_policy is None:
            data = dataclasses.replace(data, size_policy="resize")
        config: PurifyConfig = _given(
            base,
            seed=self.seed,
            data=data,
            train_rows=self.train_rows,
            stage1=self._stage(base.stage1, self.kld1),
            stage2=self._stage(base.stage2, self.kld2),
            keep_intermediate=self.keep_intermediate or None,
        )
        return config

    def _stage(self, stage: StageConfig, kld_target: float | None) -> StageConfig:
        train = _given(
            stage.train,
            epochs=self.epochs,
            batch_size=self.batch,
            lr=self.lr,
            slices=self.slices,
            batch_stats=self.batch_stats,
        )
        model = _given(stage.model, width=self.width)
        return dataclasses.replace(stage, model=model, loss=_given(stage.loss, kld_target=kld_target), train=train)


def tuned(data: Dataset, classes: Classes, out: Store, config: PurifyConfig, engine: RayEngine) -> PurifyConfig:
    """Return ``config`` with targets that were found for ``data``; the models that verified them are the run's.

    What a purification that has begun was tuned to stays.
    """
    from raydvae.data.manifest import Run
    from raydvae.tuning.experiment import Here, TuneConfig, lend, tune

    run, home = Run(out), Run(out).home.sub("tune")
    if run.exists():
        if not Run(home).exists():
            raise ConfigError(f"{out.uri} was begun without --tune; leave it out, or give another folder.")
        known = run.read_purification()["config"]
        begun = from_dict(preset(known["preset"]), known)
        return with_targets(config, begun.stage1.loss.kld_target, begun.stage2.loss.kld_target)
    run.check("purify", data)
    settings = TuneConfig()
    runner = trials_on(engine, settings.concurrency) or Here()
    result = tune(data, classes, home, config, settings, engine, runner, Progress())
    lend(result, Run(home), run)
    return result.config


def _given(base: Any, **changes: Any) -> Any:
    return dataclasses.replace(base, **{name: value for name, value in changes.items() if value is not None})


def result(summary: Summary, report: str) -> dict[str, Any]:
    """Return the JSON line of a purification; values of stages that are still to come are null."""

    def last(stage: str, name: str, digits: int) -> float | None:
        history = summary.history.get(stage)
        return round(history[-1][name], digits) if history else None

    return {
        "complete": summary.complete,
        "rows_in": summary.rows_in,
        "rows_out": summary.rows_out,
        "rows_rejected": summary.rows_rejected,
        "stage1_psnr": last("stage1", "psnr", 3),
        "stage2_psnr": last("stage2", "psnr", 3),
        "stage1_kld": last("stage1", "kld", 4),
        "stage2_kld": last("stage2", "kld", 4),
        "seconds": {name: round(value, 2) for name, value in summary.seconds.items()},
        "images_per_second": {name: round(value, 1) for name, value in summary.speeds.items()},
        "report": report,
    }


def described(summary: Summary, out: str, report: str) -> str:
    """Return the closing words of a purification."""
    stages = [f"{history[-1]['psnr']:.1f} dB in {name}" for name, history in summary.history.items()]
    rows = f"{summary.rows_in} rows in, {summary.rows_out} out, {summary.rows_rejected} rejected"
    state = f"Complete: {rows}." if summary.complete else "Not complete yet: the same command without --until goes on."
    return f"{state}\nPSNR {', '.join(stages)}.\nData: {out}\nReport: {report}"
