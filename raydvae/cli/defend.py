"""raydvae defend: the data transforms that D-VAE is compared with."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from raydvae.cli.common import Progress, Where, finish, opened
from raydvae.defenses.configs import DefenseConfig, find_defense
from raydvae.errors import ConfigError

OWN = (  # flags that belong to some defenses only
    "depth",
    "quality",
    "kernel",
    "sigma",
    "epochs",
    "kld",
    "width",
    "batch",
    "steps",
    "train_on",
    "model",
    "seed",
)


@dataclass(frozen=True)
class Defend:
    """Transform a data set by a defense other than D-VAE, to compare; flags left out have the published values."""

    defense: Positional[Literal["bdr", "gray", "jpeg", "gaussian", "median", "lfu", "vae", "ae", "avatar"]]
    """Bit depth reduction, grayscale, JPEG, a smoothing filter, LFU's projection, x_hat of a VAE or AE, or AVATAR."""
    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder, file, glob or URI of parquet files."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the transformed data set; running again goes on with it."""
    depth: int | None = None
    """bdr: bits a channel, 1 to 8 (2)."""
    quality: int | None = None
    """jpeg: quality, 1 to 100 (10)."""
    kernel: int | None = None
    """gaussian, median: side of the window in pixels, odd (3)."""
    sigma: float | None = None
    """gaussian: standard deviation in pixels (0.8)."""
    epochs: int | None = None
    """lfu: epochs of the linear classifier (20); vae, ae: of the model (60); avatar: of the diffusion model (200)."""
    kld: float | None = None
    """vae: KLD target, nats a latent position (1.0)."""
    width: int | None = None
    """vae, ae: channels of the first convolution (64); avatar: of the diffusion model (64)."""
    batch: int | None = None
    """vae, ae, avatar: images in a training step (128)."""
    steps: int | None = None
    """avatar: steps of noise, of 1,000 (60)."""
    train_on: str | None = None
    """avatar: clean data to train the diffusion model on."""
    model: str | None = None
    """avatar: folder of an earlier run, or safetensors file, whose diffusion model is taken."""
    seed: int | None = None
    """lfu, vae, ae, avatar: seed of everything random (0)."""
    image_size: int | None = None
    """Resize all images to this height and width."""
    verify_files: bool = False
    """Compare checksums of all files that the run has committed; presence and sizes always are. Damage is mended."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Defend."""
        started = time.monotonic()
        self.where.check()
        config = self.settings()
        from raydvae.config import DataConfig
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import probe_size
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store
        from raydvae.defenses.defending import check, defend

        options = self.where.options()
        limits = DataConfig(size_policy="resize" if self.image_size else "reject")
        data = opened(self.source, limits, options, "train")
        classes = find_classes(data)
        size = self.image_size or probe_size(data)
        check(config, size, classes.count)
        with self.where.engine() as engine:
            counts = defend(
                config, data, classes, size, Run(Store(self.out, options)), engine, Progress(), self.verify_files
            )
        seconds = time.monotonic() - started
        text = f"{counts['rows_out']} of {counts['rows_in']} rows, {counts['rows_rejected']} rejected: {self.out}"
        finish({**counts, "seconds": round(seconds, 2), "out": self.out, "left_out": data.left_out}, self.json, text)

    def settings(self) -> DefenseConfig:
        """Return the defense's published settings with the flags on top; `ConfigError` for flags of others."""
        kind = find_defense(self.defense)
        changes = {name: getattr(self, name) for name in OWN if getattr(self, name) is not None}
        if strange := sorted(changes.keys() - {field.name for field in dataclasses.fields(kind)}):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
            raise ConfigError(
                f"The defense {self.defense} has no {flags}; see raydvae defend --help for whose flag it is."
            )
        return kind(**changes)
