"""Every setting, as frozen dataclasses without a heavy import; presets as functions; TOML in and out.

A resolved configuration is one value: it is written to the run's folder, and a run is repeated from it alone.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raydvae.errors import ConfigError

Embedding = Literal["spatial", "vector"]
Quantize = Literal["round", "truncate"]
BatchStats = Literal["slice", "global"]
Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["cosine", "triangle"]
SizePolicy = Literal["reject", "resize"]
Crop = Literal["padded", "resized"]
ClassifierName = Literal[
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenetv2",
    "resnet18-224",
    "resnet50-224",
    "densenet121-224",
    "resnet9",
    "small",
    "tiny",
]
DOWNSAMPLINGS = {0.5: 1, 0.25: 2, 0.125: 3}  # factor -> number of halvings


@dataclass(frozen=True, kw_only=True, slots=True)
class DVAEConfig:
    """Architecture of a D-VAE or VAE. The defaults are the paper's for CIFAR-10.

    ``width`` is the channel count of the first convolution; every other count follows from it. ``latent_channels``
    of 0 means four times the width. ``embedding`` "spatial" learns one feature map a class, "vector" one number a
    channel: the one to take where a map would be large (224 px at x0.5).
    """

    num_classes: int = 10
    image_size: int = 32
    width: int = 64
    latent_channels: int = 0
    downsampling: float = 0.5
    embedding: Embedding = "spatial"

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}; a data set has at least one class.")
        if self.width < 2 or self.width % 2:
            raise ConfigError(f"width is {self.width}; give an even number of at least 2 (the paper's is 64).")
        if self.latent_channels < 0:
            raise ConfigError(f"latent_channels is {self.latent_channels}; give a positive number, or 0 for 4 x width.")
        if self.downsampling not in DOWNSAMPLINGS:
            raise ConfigError(
                f"downsampling is {self.downsampling}; choose one of {', '.join(map(str, DOWNSAMPLINGS))}."
            )
        check_choice("embedding", self.embedding, Embedding)
        stride = 2**self.halvings
        if self.image_size < 2 * stride or self.image_size % stride:
            raise ConfigError(
                f"image_size {self.image_size} does not fit downsampling x{self.downsampling}: it must be a multiple "
                f"of {stride} and at least {2 * stride}. Resize the images or change downsampling."
            )

    @property
    def halvings(self) -> int:
        """How often the encoder halves the resolution."""
        return DOWNSAMPLINGS[self.downsampling]

    @property
    def features(self) -> int:
        """Channels that the encoder ends with and the decoders start from."""
        return self.width << self.halvings

    @property
    def latents(self) -> int:
        """Channels of z."""
        return self.latent_channels or 4 * self.width

    @property
    def grid(self) -> int:
        """Height and width of z."""
        return self.image_size >> self.halvings


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLossConfig:
    """Weights of the D-VAE loss; the defaults are what the official code does where the paper is silent.

    ``rate_weight`` (lambda; the paper gives none) 0 means the official rule: 0.01 for targets above 0.99 nats a
    latent position, 0.5 below. The amplitude cap, absent from the paper, keeps mean(p_hat²) under
    ``amplitude_cap`` once epoch ``amplitude_from_epoch`` (counted from 0) is reached.
    """

    kld_target: float = 1.0
    rate_weight: float = 0.0
    amplitude_cap: float = 0.002
    amplitude_from_epoch: int = 11

    def __post_init__(self) -> None:
        if not 0 <= self.kld_target < math.inf:
            raise ConfigError(f"The KLD target is {self.kld_target}; give nats a latent position, 0 or more.")
        if not 0 <= self.rate_weight < math.inf:
            raise ConfigError(f"rate_weight is {self.rate_weight}; give a positive number, or 0 for the official rule.")

    @property
    def weight(self) -> float:
        """Lambda of Eq. 14, for mean squared errors and KLD in nats a latent position."""
        return self.rate_weight or (0.01 if self.kld_target > 0.99 else 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a model is trained. The defaults are the official D-VAE settings for CIFAR-10.

    ``slices`` is the number of equal parts that a global batch is computed in; batch statistics are taken per slice
    ("slice"), or over the whole batch ("global"). With "slice" the result has the same bits for every number of
    workers that divides ``slices``. 0 means 4 on a CPU (a slice is computed by one thread) and one a worker on GPUs.
    ``precision`` is that of convolutions in training; "auto" is bfloat16 on a GPU and float32 on a CPU. Weights, losses
    and passes are float32 always. ``schedule`` "cosine" sets the learning rate once an epoch, as the official code
    does; "triangle" raises it to ``lr`` over the first fifth of all steps and lowers it to nothing over the rest.
    ``nesterov`` is for sgd.
    """

    epochs: int = 60
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.005
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float = 5.0
    slices: int = 0
    batch_stats: BatchStats = "slice"
    precision: Precision = "auto"
    schedule: Schedule = "cosine"
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs is {self.epochs}; train for at least one.")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; give a positive number.")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr is {self.lr}; give a positive learning rate (D-VAE: 0.005, classifiers: 0.1).")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}; give a positive norm (the official code has 5).")
        if self.slices < 0:
            raise ConfigError(f"slices is {self.slices}; give a positive number, or 0 for the default.")
        check_choice("optimizer", self.optimizer, Literal["adam", "sgd"])
        check_choice("batch_stats", self.batch_stats, BatchStats)
        check_choice("precision", self.precision, Precision)
        check_choice("schedule", self.schedule, Schedule)
        if self.nesterov and self.optimizer != "sgd":
            raise ConfigError(f"nesterov is for the optimizer sgd, not {self.optimizer}; leave one of them out.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One of the two stages of Algorithm 1: a fresh D-VAE, its loss and its training.

    ``psnr_window`` is the range of PSNR(x, x_hat) in dB that section 3.5 recommends; reports draw it.
    """

    model: DVAEConfig = field(default_factory=DVAEConfig)
    loss: RateLossConfig = field(default_factory=RateLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    psnr_window: tuple[float, float] = (20.0, 22.0)

    def __post_init__(self) -> None:
        low, high = self.psnr_window
        if not 0 < low < high:
            raise ConfigError(f"psnr_window is {low}:{high}; give two positive dB values, the smaller one first.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How rows become images, and when they are refused.

    Columns are recognized by name and type where ``image_column`` and ``label_column`` are empty. ``reject_limit`` is
    the share of rows that may be unusable before a run fails. A training set whose decoded images fit into
    ``memory_gib`` is kept in every worker's memory; a larger one is streamed anew in each epoch. It is a setting and
    not measured, because the two shuffle in different ways and a result must not depend on the machine.
    """

    image_column: str = ""
    label_column: str = ""
    size_policy: SizePolicy = "reject"
    unit_rows: int = 1024
    reject_limit: float = 0.01
    max_image_bytes: int = 64 * 2**20
    max_image_pixels: int = 64 * 10**6
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        check_choice("size_policy", self.size_policy, SizePolicy)
        if self.unit_rows < 1:
            raise ConfigError(f"unit_rows is {self.unit_rows}; a unit of work has at least one row.")
        if not 0 <= self.reject_limit <= 1:
            raise ConfigError(f"reject_limit is {self.reject_limit}; give a share of the rows between 0 and 1.")
        if self.max_image_bytes < 1 or self.max_image_pixels < 1:
            raise ConfigError("max_image_bytes and max_image_pixels must be positive.")
        if not 0 < self.memory_gib < math.inf:
            raise ConfigError(f"memory_gib is {self.memory_gib}; give a positive number of GiB for decoded images.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifyConfig:
    """A whole purification.

    ``train_rows`` trains both stages on a seeded sample of so many rows, each class in proportion, and applies the
    models to all rows; 0 trains on all. ``sample_z`` off takes the latents' mean at inference; the official code
    samples.
    """

    preset: str = "cifar10"
    seed: int = 0
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(default_factory=StageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train_rows: int = 0
    sample_z: bool = True
    quantize: Quantize = "round"
    pass_batch: int = 128
    keep_intermediate: bool = False

    def __post_init__(self) -> None:
        check_choice("quantize", self.quantize, Quantize)
        if self.train_rows < 0:
            raise ConfigError(f"train_rows is {self.train_rows}; give a number of rows, or 0 to train on all.")
        if self.pass_batch < 1:
            raise ConfigError(f"pass_batch is {self.pass_batch}; give a positive number of images.")
        first, second = self.stage1.model, self.stage2.model
        if (first.num_classes, first.image_size) != (second.num_classes, second.image_size):
            raise ConfigError(
                f"Stage 1 is for {first.num_classes} classes at {first.image_size} px and stage 2 for "
                f"{second.num_classes} at {second.image_size} px; both stages see the same images."
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.stage1.model.image_size

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.stage1.model.num_classes


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyConfig:
    """A classifier's training. The defaults are the paper's CIFAR-10 recipe (last epoch reported).

    ``crop`` "padded" shifts images by up to ``crop_padding`` pixels; "resized" trains on random parts of them, seen
    at seven eighths of their side, and tests on the center of that size. Images are read at ``image_size``, or as they
    are for 0. ``label_smoothing`` is the share of each target that is spread over all classes. ``hard_epochs`` are the
    first epochs of UEraser, in which it learns from the hardest of five views.
    """

    model: str = "resnet18"
    seed: int = 0
    image_size: int = 0
    crop: Crop = "padded"
    crop_padding: int = 4
    flip: bool = True
    label_smoothing: float = 0.0
    hard_epochs: int = 50
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(optimizer="sgd", lr=0.1, weight_decay=5e-4, clip_norm=5.0)
    )
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        check_choice("crop", self.crop, Crop)
        if self.hard_epochs < 0:
            raise ConfigError(f"hard_epochs is {self.hard_epochs}; give a number of epochs, 0 for none.")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; give a share from 0 to below 1.")


def cifar10() -> PurifyConfig:
    """CIFAR-10 as in section 4.1 and appendix B.2: KLD targets 1.0 and 3.0, 60 epochs a stage."""
    return _two_stages("cifar10", DVAEConfig(), 1.0, 3.0)


def cifar100() -> PurifyConfig:
    """CIFAR-100: as CIFAR-10 with a KLD target of 4.5 in stage 2 (section 4.1; appendix B.2 says 3.0)."""
    return _two_stages("cifar100", DVAEConfig(num_classes=100), 1.0, 4.5)


def imagenet100() -> PurifyConfig:
    """The first 100 classes of ImageNet at 224 px: x0.125 in stage 1, KLD targets 1.5 and 3.0, 20 epochs a stage.

    The embeddings are vectors, our choice: the paper's code does not run for this data set as published.
    """
    base = DVAEConfig(num_classes=100, image_size=224, embedding="vector")
    config = _two_stages("imagenet100", base, 1.5, 3.0, epochs=20)
    stage1 = dataclasses.replace(config.stage1, model=dataclasses.replace(base, downsampling=0.125))
    return dataclasses.replace(config, stage1=stage1, data=DataConfig(size_policy="resize", unit_rows=256))


def digits() -> PurifyConfig:
    """scikit-learn's digits at 32 px: a narrow net and small batches, for a minute or two on two cores.

    The PSNR windows are wide, and not the paper's, which are for photographs and a poison of about 30 dB: blurred
    digits need fewer bits, and what is measured against is the poisoned image.
    """
    config = _two_stages("digits", DVAEConfig(width=12), 1.0, 3.0, epochs=20, batch_size=32)
    return dataclasses.replace(
        config,
        stage1=dataclasses.replace(config.stage1, psnr_window=(22.0, 27.0)),
        stage2=dataclasses.replace(config.stage2, psnr_window=(25.0, 30.0)),
    )


def _two_stages(
    preset: str, model: DVAEConfig, kld1: float, kld2: float, epochs: int = 60, batch_size: int = 128
) -> PurifyConfig:
    train = TrainConfig(epochs=epochs, batch_size=batch_size)
    return PurifyConfig(
        preset=preset,
        stage1=StageConfig(model=model, loss=RateLossConfig(kld_target=kld1), train=train),
        stage2=StageConfig(model=model, loss=RateLossConfig(kld_target=kld2), train=train, psnr_window=(28.0, 30.0)),
    )


def sized(config: PurifyConfig, num_classes: int, image_size: int) -> PurifyConfig:
    """Return ``config`` for that many classes and that image size."""

    def fit(stage: StageConfig) -> StageConfig:
        model = dataclasses.replace(stage.model, num_classes=num_classes, image_size=image_size)
        return dataclasses.replace(stage, model=model)

    return dataclasses.replace(config, stage1=fit(config.stage1), stage2=fit(config.stage2))


def with_targets(config: PurifyConfig, kld1: float, kld2: float) -> PurifyConfig:
    """Return ``config`` with these KLD targets."""

    def change(stage: StageConfig, kld: float) -> StageConfig:
        return dataclasses.replace(stage, loss=dataclasses.replace(stage.loss, kld_target=kld))

    return dataclasses.replace(config, stage1=change(config.stage1, kld1), stage2=change(config.stage2, kld2))


T = TypeVar("T")

PRESETS: dict[str, Callable[[], PurifyConfig]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet100": imagenet100,
    "digits": digits,
}


def preset(name: str) -> PurifyConfig:
    """Return the preset called ``name``; `ConfigError` lists the names there are."""
    if name not in tuple(PRESETS):  # a file may hold anything here, lists too
        raise ConfigError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]()


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values, as `from_dict` takes them."""
    return dataclasses.asdict(config)


def described(value: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain values, with its ``kind`` if it has one: what is stored of it.

    Kinds are what files call things. They do not change, whatever the classes are called.
    """
    kind = getattr(value, "kind", None)
    return ({} if kind is None else {"kind": kind}) | dataclasses.asdict(value)


def from_dict(base: T, values: Mapping[str, Any], where: str = "") -> T:
    """Return ``base`` with the nested ``values`` laid over it; unknown names and wrong types are `ConfigError`."""
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{where}{name}"
        if name not in hints:
            raise ConfigError(f"Unknown setting {full!r}; here there are: {', '.join(hints)}.")
        current = getattr(base, name)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{full} is {value!r}; it must be a table of settings.")
            changes[name] = from_dict(current, value, f"{full}.")
        else:
            changes[name] = _coerce(full, value, hints[name])
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def load_toml(text: str) -> PurifyConfig:
    """Return the configuration of a TOML file: its ``preset`` with the file's other settings laid over it."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"The configuration is not valid TOML: {error}. Start from the config.toml of a run."
        ) from None
    return from_dict(preset(values.get("preset", "cifar10")), values)


def dump_toml(config: PurifyConfig) -> str:
    """Return ``config`` as TOML that `load_toml` reads back to an equal value."""
    import tomli_w

    return tomli_w.dumps(to_dict(config))


def _coerce(name: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _coerce(name, value, next(option for option in options if option is not type(None)))
    if origin is Literal:
        return value  # the dataclass names the choices
    if origin is tuple:
        inner = get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise ConfigError(f"{name} is {value!r}; it must be a list of {len(inner)} values.")
        return tuple(_coerce(name, item, kind) for item, kind in zip(value, inner, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{name} is {value!r}; it must be of type {hint.__name__}.")
    return value


def check_choice(name: str, value: str, kind: Any) -> None:
    """Raise `ConfigError` unless ``value`` is one of the ``Literal`` type ``kind``."""
    allowed = get_args(kind)
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")
