"""The settings that tables are made with: the paper's, or small ones for two cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from raydvae.attacks.configs import (
    ARConfig,
    EMConfig,
    LSPConfig,
    NTGAConfig,
    OPSConfig,
    REMConfig,
    SEPConfig,
    SurrogateConfig,
    TAPConfig,
)
from raydvae.attacks.registry import ATTACKS, AttackConfig
from raydvae.config import (
    ClassifyConfig,
    DataConfig,
    PurifyConfig,
    TrainConfig,
    cifar10,
    cifar100,
    digits,
    imagenet100,
    sized,
    with_targets,
)
from raydvae.defenses.configs import AvatarConfig
from raydvae.detection.configs import DetectConfig
from raydvae.evaluation.presets import classify_preset

LARGE = 16 / 255
SLICES = 2  # of a batch, for two cores: more would be of few images each
CHEAP = ("lsp", "ops", "ar", "tap", "em")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Settings of every step of a table.

    ``rows`` and ``test_rows`` are how many rows of each class are taken, 0 for all; ``attacks`` and ``larger`` the
    attacks at the paper's two bounds; ``usual`` the attacks that a table has unless others are asked for; ``detect``
    how rows are detected, if not with the D-VAE and the classifier of the other steps.
    """

    name: str
    image_size: int
    purify: PurifyConfig
    classifier: ClassifyConfig
    attacks: Mapping[str, AttackConfig]
    larger: Mapping[str, AttackConfig]
    diffusion: AvatarConfig = field(default_factory=AvatarConfig)
    detect: DetectConfig | None = None
    lfu_epochs: int = 20
    growth_steps: int = 2000
    rows: int = 0
    test_rows: int = 0
    usual: tuple[str, ...] = tuple(ATTACKS)

    def classify(self, model: str | None, recipe: str | None) -> ClassifyConfig:
        """Return how a classifier is trained, the usual one or another, as usual or by a recipe."""
        if self.name == "full":
            return classify_preset(self.purify.preset, model or self.classifier.model, recipe)
        # As in the paper, the hardest views count in the first quarter of UEraser's epochs.
        hard = self.classifier.train.epochs // 4
        return dataclasses.replace(self.classifier, model=model or self.classifier.model, hard_epochs=hard)

    def width(self, share: float) -> int:
        """Return a share of the D-VAE's width, as an even number of at least 2."""
        return max(2, 2 * round(share * self.purify.stage1.model.width / 2))

    @property
    def data(self) -> DataConfig:
        """How images are read."""
        return self.purify.data


def full(table: str, num_classes: int, image_size: int) -> Scale:
    """The paper's settings: of CIFAR-100 for Table 3, of ImageNet for Table 4, else of the data's number of classes."""
    base = imagenet100() if table == "4" else cifar100() if table == "3" or num_classes == 100 else cifar10()
    size = base.image_size if table == "4" else image_size
    attacks: dict[str, AttackConfig] = {name: kind() for name, (kind, _) in ATTACKS.items()}
    larger: dict[str, AttackConfig] = {
        "em": EMConfig(norm=LARGE),
        "tap": TAPConfig(norm=LARGE),
        "rem": REMConfig(norm=LARGE),
        "sep": SEPConfig(norm=LARGE),
        "lsp": LSPConfig(norm=4.0),
    }
    return Scale(
        name="full",
        image_size=size,
        purify=sized(base, num_classes, size),
        classifier=ClassifyConfig(),
        attacks=attacks,
        larger=larger,
    )


def subset(digits_are_it: bool, num_classes: int, image_size: int) -> Scale:
    """Small settings: for scikit-learn's digits at 16 px, or for some hundred rows a class of another data set."""
    return _digits() if digits_are_it else _images(num_classes, image_size)


def _digits() -> Scale:
    # Faint ones, as in benchmarks/attacks.py: on black and white most noise is clipped away. No crops and no flips: a
    # mirrored digit is another sign, and the one pixel of OPS is no shortcut for a small net where crops move it.
    def surrogate(steps: int) -> SurrogateConfig:
        return SurrogateConfig(model="small", width=8, steps=steps, batch_size=50, crop_padding=0, flip=False)

    def joint(steps: int, batch_size: int) -> SurrogateConfig:
        return dataclasses.replace(surrogate(steps), model="tiny", batch_size=batch_size, lr=0.02, slices=1)

    attacks: dict[str, AttackConfig] = {
        "lsp": LSPConfig(norm=1.5, patch=4),
        "ar": ARConfig(norm=2.0),
        "ops": OPSConfig(),
        "em": EMConfig(norm=LARGE, step=0.4 * LARGE, surrogate=joint(120, 100)),
        "rem": REMConfig(norm=LARGE, steps=5, step=0.4 * LARGE, draws=1, inner_steps=2, surrogate=joint(150, 50)),
        "tap": TAPConfig(norm=LARGE, steps=100, step=0.02 * LARGE, surrogate=surrogate(400)),
        "sep": SEPConfig(norm=LARGE, variant="fa", checkpoints=4, steps=16, surrogate=surrogate(400)),
        "ntga": NTGAConfig(norm=LARGE, t=64.0, block_rows=250, validation_rows=200),
    }
    # As in benchmarks/detection.py: six epochs and half a nat teach a net too little for a decision.
    detect = DetectConfig(
        purify=_small(sized(digits(), 10, 16), width=12, epochs=12, batch_size=32),
        classifier=_classifier("tiny", TrainConfig(epochs=12, batch_size=50, lr=0.1), padding=0, flip=False),
    )
    return Scale(
        name="subset",
        image_size=16,
        detect=detect,
        # Half a nat in stage 1: the single pixel of OPS is a large part of 16 px, and the patches of LSP pass 0.7. The
        # weight of the rate is that of the paper's targets: the official one of a target below 1 blurs faint digits.
        purify=_small(with_targets(sized(digits(), 10, 16), 0.5, 4.0), 16, epochs=30, batch_size=32, rate_weight=0.01),
        classifier=_classifier("tiny", TrainConfig(epochs=6, batch_size=32, lr=0.05), padding=0, flip=False),
        attacks=attacks,
        larger=_doubled(attacks),
        lfu_epochs=200,
        growth_steps=400,
        rows=80,
        diffusion=AvatarConfig(width=16, epochs=60, batch=32),
        usual=CHEAP,
    )


def _images(num_classes: int, image_size: int) -> Scale:
    def surrogate(steps: int) -> SurrogateConfig:
        return SurrogateConfig(model="small", width=16, steps=steps, batch_size=64)

    attacks: dict[str, AttackConfig] = {
        "lsp": LSPConfig(),
        "ar": ARConfig(),
        "ops": OPSConfig(),
        "em": EMConfig(surrogate=surrogate(400)),
        "rem": REMConfig(steps=5, draws=1, inner_steps=2, surrogate=surrogate(300)),
        "tap": TAPConfig(steps=50, step=0.04 * 8 / 255, surrogate=surrogate(600)),
        "sep": SEPConfig(variant="fa", checkpoints=4, steps=16, surrogate=surrogate(600)),
        "ntga": NTGAConfig(t=64.0, block_rows=250, validation_rows=200),
    }
    return Scale(
        name="subset",
        image_size=image_size,
        purify=_small(sized(cifar10(), num_classes, image_size), width=12, epochs=20, batch_size=32),
        classifier=_classifier("small", TrainConfig(epochs=20, batch_size=64, lr=0.05), padding=4, flip=True),
        attacks=attacks,
        larger=_doubled(attacks),
        lfu_epochs=100,
        growth_steps=600,
        diffusion=AvatarConfig(width=16, epochs=60, batch=32),
        rows=200,
        test_rows=200,
        usual=CHEAP,
    )


def _small(config: PurifyConfig, width: int, epochs: int, batch_size: int, rate_weight: float = 0.0) -> PurifyConfig:
    stages = {
        name: dataclasses.replace(
            stage,
            model=dataclasses.replace(stage.model, width=width),
            loss=dataclasses.replace(stage.loss, rate_weight=rate_weight),
            train=dataclasses.replace(stage.train, epochs=epochs, batch_size=batch_size, slices=SLICES),
        )
        for name, stage in (("stage1", config.stage1), ("stage2", config.stage2))
    }
    data = dataclasses.replace(config.data, size_policy="resize")
    return dataclasses.replace(config, data=data, **stages)  # type: ignore[arg-type]


def _classifier(model: str, train: TrainConfig, padding: int, flip: bool) -> ClassifyConfig:
    train = dataclasses.replace(train, optimizer="sgd", weight_decay=5e-4, slices=SLICES)
    return ClassifyConfig(model=model, crop_padding=padding, flip=flip, train=train)


def _doubled(attacks: Mapping[str, AttackConfig]) -> dict[str, AttackConfig]:
    """Return the attacks of Table 5 with twice the bound: four times for LSP at the paper's scale, two at any other."""
    return {
        name: dataclasses.replace(config, norm=2 * config.norm)
        for name in ("em", "tap", "rem", "sep", "lsp")
        if not isinstance(config := attacks[name], OPSConfig)
    }
