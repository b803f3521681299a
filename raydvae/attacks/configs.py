"""Settings of every attack, without a heavy import, so that a command line can be built from them.

Sizes are in units of [0, 1] images. The defaults are the paper's; its larger bounds (Table 5) are l2 4.0 for LSP and
linf 16/255 for EM, TAP, REM and SEP. No step size is published for these, so a ``step`` of 0 means the published
fraction of the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from raydvae.config import TrainConfig, check_choice
from raydvae.errors import ConfigError

LINF = 8 / 255
EMWise = Literal["sample", "class"]
NoiseView = Literal["raw", "augmented"]
SEPVariant = Literal["plain", "fa", "fa-vr"]
ClassMeans = Literal["own", "last"]
NTGANet = Literal["erf", "relu"]
NTGAUpdate = Literal["iterated", "one-step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateConfig:
    """The classifier that an attack crafts noise against, and its training.

    Published schedules divide the learning rate by 10 twice; ours is the training loop's cosine over as many steps.
    """

    model: str = "resnet18"
    width: int = 64
    steps: int = 5000
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flip: bool = True
    slices: int = 0

    def __post_init__(self) -> None:
        _at_least("The surrogate's width", self.width, 1)
        _at_least("surrogate steps", self.steps, 1)
        _at_least("The surrogate's batch_size", self.batch_size, 2)
        _at_least("crop_padding", self.crop_padding, 0)
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"The surrogate's lr is {self.lr}; give a positive learning rate (published: 0.1).")

    def epochs(self, rows: int) -> int:
        """Return the epochs over ``rows`` images that make at least ``steps`` steps."""
        return math.ceil(self.steps / max(1, rows // min(self.batch_size, max(rows, 1))))

    def train_config(self, rows: int) -> TrainConfig:
        """Return the settings of the training loop for a data set of ``rows`` images."""
        return TrainConfig(
            epochs=self.epochs(rows),
            batch_size=self.batch_size,
            optimizer="sgd",
            lr=self.lr,
            weight_decay=self.weight_decay,
            slices=self.slices,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LSPConfig:
    """The paper's values: l2 norm 1.0, patches of 8 pixels."""

    kind: ClassVar[str] = "lsp"

    norm: float = 1.0
    patch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("l2", self.norm, "1.0 and 4.0")
        if self.patch < 1:
            raise ConfigError(f"patch is {self.patch}; give the side of a patch in pixels (the paper's is 8).")


@dataclass(frozen=True, kw_only=True, slots=True)
class ARConfig:
    """Autoregressive noise of l2 norm 1.0.

    Processes are drawn until they generate fields of norm at most ``max_norm`` and other processes' filters respond to
    them with at least ``min_response``; both are for images of 32 px and grow with the side. A response of 0 means
    the published 10 for up to 10 classes and 3 for more. ``crop`` rows and columns, where a field begins, are cut.
    """

    kind: ClassVar[str] = "ar"

    norm: float = 1.0
    min_response: float = 0.0
    max_norm: float = 50.0
    crop: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("l2", self.norm, "1.0")
        _at_least("crop", self.crop, 2)
        if not self.min_response >= 0:
            raise ConfigError(f"min_response is {self.min_response}; give a positive number, or 0 for the published.")
        if not self.max_norm > 0:
            raise ConfigError(f"max_norm is {self.max_norm}; give a positive number (published: 50).")

    def response(self, num_classes: int) -> float:
        """Return the response that is asked of filters of other classes, for images of 32 px."""
        return self.min_response or (10.0 if num_classes <= 10 else 3.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class OPSConfig:
    """One pixel a class, found by search; there is nothing to set. ``seed`` is there so that all configs are alike."""

    kind: ClassVar[str] = "ops"

    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EMConfig:
    """EM as in REM's code, which made the paper's EM noise: 10 steps of 1.6/255 from a random start.

    ``wise`` "class" makes one noise a class. ``view`` "augmented" is that code's last pass as published: noise is
    crafted for a randomly flipped and shifted view and then stored for the image as it was.
    """

    kind: ClassVar[str] = "em"

    norm: float = LINF
    wise: EMWise = "sample"
    steps: int = 10
    step: float = 0.0
    view: NoiseView = "raw"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("linf", self.norm, "8/255 and 16/255")
        _at_least("steps", self.steps, 1)
        _step(self.step)
        check_choice("wise", self.wise, EMWise)
        check_choice("view", self.view, NoiseView)
        if self.wise == "class" and self.view == "augmented":
            raise ConfigError(
                "view 'augmented' belongs to sample-wise noise; class-wise noise has no view of an image."
            )

    @property
    def step_size(self) -> float:
        """Length of a step: 1.6/255 at 8/255."""
        return self.step or 0.2 * self.norm


@dataclass(frozen=True, kw_only=True, slots=True)
class REMConfig:
    """REM: noise that withstands adversarial training within ``adversarial_norm`` (0 means half of ``norm``).

    The noise steps average over ``draws`` random views, each attacked by ``inner_steps`` steps of ascent.
    """

    kind: ClassVar[str] = "rem"

    norm: float = LINF
    adversarial_norm: float = 0.0
    steps: int = 10
    step: float = 0.0
    draws: int = 5
    inner_steps: int = 10
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("linf", self.norm, "8/255 and 16/255")
        if not 0 <= self.adversarial_norm < math.inf:
            raise ConfigError(
                f"adversarial_norm is {self.adversarial_norm}; give a positive number, or 0 for half of the bound."
            )
        _at_least("steps", self.steps, 1)
        _at_least("draws", self.draws, 1)
        _at_least("inner_steps", self.inner_steps, 1)
        _step(self.step)

    @property
    def step_size(self) -> float:
        """Length of a noise step: 1.6/255 at 8/255."""
        return self.step or 0.2 * self.norm

    @property
    def radius(self) -> float:
        """Bound of the inner attack: 4/255 at 8/255."""
        return self.adversarial_norm or 0.5 * self.norm

    @property
    def inner_step_size(self) -> float:
        """Length of a step of the inner attack: 0.8/255 at 4/255."""
        return 0.2 * self.radius


@dataclass(frozen=True, kw_only=True, slots=True)
class TAPConfig:
    """TAP as in REM's code, which made the paper's: 250 steps of 0.064/255 towards the next class, on random views."""

    kind: ClassVar[str] = "tap"

    norm: float = LINF
    steps: int = 250
    step: float = 0.0
    surrogate: SurrogateConfig = field(default_factory=lambda: SurrogateConfig(steps=40_000))
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("linf", self.norm, "8/255 and 16/255")
        _at_least("steps", self.steps, 1)
        _step(self.step)

    @property
    def step_size(self) -> float:
        """Length of a step: 0.064/255 at 8/255."""
        return self.step or 0.008 * self.norm


@dataclass(frozen=True, kw_only=True, slots=True)
class SEPConfig:
    """SEP, against ``checkpoints`` of one training (0 means the published 30, or 15 for "fa-vr").

    ``variant``: "plain" follows cross-entropy, "fa" aligns features, "fa-vr" also reduces the gradient's variance by
    ``inner_steps`` small steps. ``class_means`` "last" is "fa-vr" as published: inner steps take the class means of
    the last checkpoint, whichever checkpoint they use. The training is 120 epochs of CIFAR-10.
    """

    kind: ClassVar[str] = "sep"

    norm: float = LINF
    variant: SEPVariant = "fa-vr"
    checkpoints: int = 0
    steps: int = 30
    inner_steps: int = 15
    step: float = 0.0
    class_means: ClassMeans = "own"
    surrogate: SurrogateConfig = field(default_factory=lambda: SurrogateConfig(steps=46_800))
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("linf", self.norm, "8/255 and 16/255")
        check_choice("variant", self.variant, SEPVariant)
        check_choice("class_means", self.class_means, ClassMeans)
        _at_least("checkpoints", self.checkpoints, 0)
        _at_least("steps", self.steps, 1)
        _at_least("inner_steps", self.inner_steps, 1)
        _step(self.step)

    @property
    def step_size(self) -> float:
        """Length of a step: 1/255 at 8/255."""
        return self.step or self.norm / 8

    @property
    def count(self) -> int:
        """Number of checkpoints."""
        return self.checkpoints or (15 if self.variant == "fa-vr" else 30)

    def checkpoint_epochs(self, epochs: int) -> list[int]:
        """Return the epochs (from 0) after which checkpoints are kept: equidistant, the last one included."""
        if epochs < self.count:
            raise ConfigError(
                f"{epochs} epochs have no {self.count} checkpoints; take more surrogate steps or fewer checkpoints."
            )
        return [(index + 1) * epochs // self.count - 1 for index in range(self.count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class NTGAConfig:
    """NTGA with the neural tangent kernel of an infinitely wide fully connected net, trained for time ``t``.

    Noise is made for blocks of ``block_rows`` rows against ``validation_rows`` held-out rows. ``update`` "one-step" is
    what the published code does: each of its iterations starts again from the clean image, with a step of full size.
    """

    kind: ClassVar[str] = "ntga"

    norm: float = LINF
    net: NTGANet = "erf"
    depth: int = 5
    weight_variance: float = 1.76
    bias_variance: float = 0.18
    t: float = 4096.0
    steps: int = 10
    step: float = 0.0
    update: NTGAUpdate = "iterated"
    block_rows: int = 512
    validation_rows: int = 10_000
    regularization: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        _bound("linf", self.norm, "8/255")
        check_choice("net", self.net, NTGANet)
        check_choice("update", self.update, NTGAUpdate)
        _at_least("depth", self.depth, 1)
        _at_least("steps", self.steps, 1)
        _at_least("block_rows", self.block_rows, 2)
        _at_least("validation_rows", self.validation_rows, 1)
        _step(self.step)
        for name in ("weight_variance", "t", "regularization"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a positive number.")
        if not self.bias_variance >= 0:
            raise ConfigError(f"bias_variance is {self.bias_variance}; give 0 or more (published: 0.18).")

    @property
    def step_size(self) -> float:
        """Length of a step: 1.1 times the bound over the number of steps, or the whole bound for "one-step"."""
        return self.norm if self.update == "one-step" else self.step or 1.1 * self.norm / self.steps


def _bound(name: str, size: float, paper: str) -> None:
    if not 0 < size < math.inf:
        raise ConfigError(
            f"The {name} norm is {size}; give a positive number in units of [0, 1] images (paper: {paper})."
        )


def _step(step: float) -> None:
    if not 0 <= step < math.inf:
        raise ConfigError(f"step is {step}; give a positive length, or 0 for the published fraction of the bound.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}; give {least} or more.")
