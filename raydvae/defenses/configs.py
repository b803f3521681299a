"""Settings of every data transform, without a heavy import, so that a command line can be built from them.

The defaults are the paper's (appendix E.2) and, where it is silent, those of the defense's own code but for ``sigma``:
see `GaussianConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from raydvae.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BDRConfig:
    """Bit depth reduction to ``depth`` bits a channel (ISS; paper: 2)."""

    kind: ClassVar[str] = "bdr"

    depth: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 8:
            raise ConfigError(f"depth is {self.depth}; give 1 to 8 bits a channel (the paper's is 2).")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrayConfig:
    """Grayscale, in three equal channels (ISS); there is nothing to set."""

    kind: ClassVar[str] = "gray"


@dataclass(frozen=True, kw_only=True, slots=True)
class JPEGConfig:
    """JPEG compression (ISS; paper: quality 10; its figure 2 tries 2, 5, 10, 30, 50, 70 and 90)."""

    kind: ClassVar[str] = "jpeg"

    quality: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; give 1 to 100 (the paper's is 10).")


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianConfig:
    """Gaussian smoothing with a window of ``kernel`` pixels and a deviation of ``sigma`` pixels.

    The code of ISS has a window of 3 and a deviation of 0.1, which changes no byte: a neighbor weighs exp(-50). Ours is
    0.8, which torchvision's rule gives for that window.
    """

    kind: ClassVar[str] = "gaussian"

    kernel: int = 3
    sigma: float = 0.8

    def __post_init__(self) -> None:
        _odd(self.kernel)
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"sigma is {self.sigma}; give a positive number of pixels (0.8 by default).")


@dataclass(frozen=True, kw_only=True, slots=True)
class MedianConfig:
    """Median of a window of ``kernel`` pixels, for each channel by itself (code of ISS: 3)."""

    kind: ClassVar[str] = "median"

    kernel: int = 3

    def __post_init__(self) -> None:
        _odd(self.kernel)


@dataclass(frozen=True, kw_only=True, slots=True)
class LFUConfig:
    """LFU's orthogonal projection, and how the linear classifier is fitted whose weights it removes.

    Plain gradient steps of ``lr`` over ``epochs`` epochs, in batches of ``batch_size`` rows in the order of the data
    set; a tenth of the rate from half of the epochs on, a hundredth from three quarters on. ``seed`` draws the start.
    """

    kind: ClassVar[str] = "lfu"

    epochs: int = 20
    batch_size: int = 1024
    lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr is {self.lr}; give a positive learning rate (published: 0.1).")


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """The plain rate-constrained VAE (Eq. 3), trained on the data set itself; what comes out is x_hat (Figure 2).

    ``kld`` is its KLD target in nats a latent position; the paper sweeps it, and 1.0 is that of D-VAE's first stage.
    ``width`` is the channels of the first convolution, and ``batch`` the images of a step.
    """

    kind: ClassVar[str] = "vae"

    kld: float = 1.0
    epochs: int = 60
    width: int = 64
    batch: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AEConfig:
    """A non-variational autoencoder, trained on the data set itself; what comes out is x_hat (Figure 5).

    The paper sweeps ``width``, the channels of the first convolution from which all others follow, and names none.
    """

    kind: ClassVar[str] = "ae"

    epochs: int = 60
    width: int = 64
    batch: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AvatarConfig:
    """AVATAR: noise is added by ``steps`` of 1,000 steps of a diffusion, and taken off by the reverse process.

    The diffusion model is that of ``model``, a finished training's folder or file, or is trained on the clean data
    set ``train_on``. ``epochs``, ``width`` (channels at full size) and ``batch`` are of that training; the published
    model is larger and trained for thousands of epochs.
    """

    kind: ClassVar[str] = "avatar"

    steps: int = 60
    model: str = ""
    train_on: str = ""
    epochs: int = 200
    width: int = 64
    batch: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}; give 1 to 1000 steps of the diffusion (the paper's is 60).")
        if self.width < 8 or self.width % 8:
            raise ConfigError(f"width is {self.width}; give a multiple of 8 for the diffusion model (64 by default).")


ModelConfig = VAEConfig | AEConfig | AvatarConfig
DefenseConfig = BDRConfig | GrayConfig | JPEGConfig | GaussianConfig | MedianConfig | LFUConfig | ModelConfig

DEFENSES: dict[str, type[DefenseConfig]] = {
    "bdr": BDRConfig,
    "gray": GrayConfig,
    "jpeg": JPEGConfig,
    "gaussian": GaussianConfig,
    "median": MedianConfig,
    "lfu": LFUConfig,
    "vae": VAEConfig,
    "ae": AEConfig,
    "avatar": AvatarConfig,
}


def find_defense(name: str) -> type[DefenseConfig]:
    """Return the configuration class of defense ``name``; `ConfigError` lists the names there are."""
    if name not in DEFENSES:
        raise ConfigError(f"There is no defense {name!r}; choose one of {', '.join(DEFENSES)}.")
    return DEFENSES[name]


def _odd(kernel: int) -> None:
    if kernel < 3 or kernel % 2 == 0:
        raise ConfigError(f"kernel is {kernel}; give an odd number of pixels, 3 or more, so that it has a center.")
