"""raydvae poison: make a data set unlearnable, so that there is something to purify."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.attacks.configs import ClassMeans, EMWise, NoiseView, NTGANet, NTGAUpdate, SEPVariant
from raydvae.attacks.registry import AttackConfig, find_attack
from raydvae.cli.common import Progress, Where, finish, opened
from raydvae.errors import ConfigError

OWN = {  # flags that belong to some attacks only, and the setting each one is
    "patch": "patch",
    "steps": "steps",
    "wise": "wise",
    "view": "view",
    "variant": "variant",
    "checkpoints": "checkpoints",
    "class_means": "class_means",
    "draws": "draws",
    "inner_steps": "inner_steps",
    "adversarial_norm": "adversarial_norm",
    "net": "net",
    "t": "t",
    "update": "update",
    "block_rows": "block_rows",
    "validation_rows": "validation_rows",
}
SURROGATE = {
    "surrogate_model": "model",
    "surrogate_width": "width",
    "surrogate_steps": "steps",
    "surrogate_batch": "batch_size",
    "surrogate_lr": "lr",
}


@dataclass(frozen=True)
class Poison:
    """Make a data set unlearnable with one of the published attacks; flags left out have the paper's values."""

    attack: Positional[Literal["lsp", "ar", "ops", "em", "rem", "tap", "sep", "ntga"]]
    """Without a surrogate: lsp, ar (l2), ops (one pixel), ntga (linf). Against one: em, rem, tap, sep."""
    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder, file, glob or URI of parquet files."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the poisoned data set; running again goes on with it."""
    norm: float | None = None
    """Bound of the perturbation, for images in [0, 1]: l2 for lsp and ar, linf for the others, none for ops."""
    ratio: float = 1.0
    """Share of the rows to poison."""
    stratified: bool = False
    """Poison that share of each class."""
    seed: int = 0
    """Seed of everything random."""
    steps: int | None = None
    """em, rem, tap, sep, ntga: steps of the noise."""
    surrogate_model: Literal["resnet18", "small", "tiny"] | None = None
    """em, rem, tap, sep: the surrogate classifier."""
    surrogate_width: int | None = None
    """em, rem, tap, sep: channels of its first convolution."""
    surrogate_steps: int | None = None
    """em, rem, tap, sep: steps of its training."""
    surrogate_batch: int | None = None
    """em, rem, tap, sep: images in a step of its training."""
    surrogate_lr: float | None = None
    """em, rem, tap, sep: learning rate of its training."""
    patch: int | None = None
    """lsp: side of a patch in pixels."""
    wise: EMWise | None = None
    """em: noise of its own for each sample, or one noise a class."""
    view: NoiseView | None = None
    """em: craft the last noise for images as they are, or for random views, as published."""
    variant: SEPVariant | None = None
    """sep: cross-entropy, feature alignment, or that with variance reduction."""
    checkpoints: int | None = None
    """sep: checkpoints of the surrogate."""
    class_means: ClassMeans | None = None
    """sep: class means of each checkpoint, or of the last one, as published."""
    draws: int | None = None
    """rem: random views a step."""
    inner_steps: int | None = None
    """rem, sep: inner steps."""
    adversarial_norm: float | None = None
    """rem: radius of the inner attack."""
    net: NTGANet | None = None
    """ntga: activation of the infinitely wide net."""
    t: float | None = None
    """ntga: time that the net is trained for."""
    update: NTGAUpdate | None = None
    """ntga: iterate, or take one step, as published."""
    block_rows: int | None = None
    """ntga: rows of a block, which share their noise's net."""
    validation_rows: int | None = None
    """ntga: held-out rows."""
    image_size: int | None = None
    """Resize all images to this height and width."""
    verify_files: bool = False
    """Compare checksums of all files that the run has committed; presence and sizes always are. Damage is mended."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Poison."""
        started = time.monotonic()
        self.where.check()
        config = self.settings()
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"The ratio of poisoned rows is {self.ratio}; give a number between 0 and 1.")
        from raydvae.attacks.poisoning import poison
        from raydvae.attacks.recipes import Recipe
        from raydvae.config import DataConfig
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store

        options = self.where.options()
        block = getattr(config, "block_rows", None)
        limits = DataConfig(unit_rows=block or DataConfig().unit_rows)
        if self.image_size:
            limits = dataclasses.replace(limits, size_policy="resize")
        data = opened(self.source, limits, options, "train")
        classes = find_classes(data)
        run = Run(Store(self.out, options))
        recipe = Recipe(config, self.image_size or probe_size(data), classes.count, run.home)
        recipe.check()
        with self.where.engine() as engine:
            counts = poison(
                recipe,
                data,
                classes,
                run,
                engine,
                ratio=self.ratio,
                stratified=self.stratified,
                watch=Progress(),
                verify=self.verify_files,
            )
        seconds = time.monotonic() - started
        text = (
            f"{counts['rows_poisoned']} of {counts['rows_in']} rows poisoned, "
            f"{counts['rows_rejected']} rejected: {self.out}"
        )
        finish({**counts, "seconds": round(seconds, 2), "out": self.out, "left_out": data.left_out}, self.json, text)

    def settings(self) -> AttackConfig:
        """Return the attack's published settings with the flags on top; `ConfigError` for flags of other attacks."""
        kind, _ = find_attack(self.attack)
        fields = {field.name for field in dataclasses.fields(kind)}
        changes = {setting: getattr(self, flag) for flag, setting in {"norm": "norm", **OWN}.items()}
        changes = {name: value for name, value in changes.items() if value is not None}
        strange = sorted(changes.keys() - fields)
        nested = {setting: getattr(self, flag) for flag, setting in SURROGATE.items()}
        nested = {name: value for name, value in nested.items() if value is not None}
        if nested and "surrogate" not in fields:
            strange.append("surrogate-…")
        if strange:
            flags = ", ".join("--" + name.replace("_", "-") for name in strange)
            raise ConfigError(
                f"The attack {self.attack} has no {flags}; see raydvae poison --help for whose flag it is."
            )
        config = dataclasses.replace(kind(), seed=self.seed, **changes)
        if nested:
            assert not isinstance(config, tuple)
            config = dataclasses.replace(config, surrogate=dataclasses.replace(config.surrogate, **nested))  # type: ignore
        return config
