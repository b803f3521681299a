"""Settings of detection and growth, without a heavy import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raydvae.config import ClassifyConfig, PurifyConfig, check_choice
from raydvae.errors import ConfigError

Rule = Literal["shortcut", "paper"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectConfig:
    """A detection. Of ``purify`` it takes the first stage (the paper's: KLD target 1.0), the data's limits, the seed.

    ``classifier`` is what tells poisoned rows from clean ones once it is trained on the perturbations.
    """

    rule: Rule = "shortcut"
    purify: PurifyConfig = field(default_factory=PurifyConfig)
    classifier: ClassifyConfig = field(default_factory=ClassifyConfig)

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, Rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowConfig:
    """Growing a poison. Of ``purify`` it takes the first stage, the data's limits and the seed.

    The few poisoned rows are trained on for ``steps`` steps and not for epochs: 1 % of CIFAR-10 makes 4 batches an
    epoch, and the paper says neither. 2,000 are about the 60 epochs of the paper where 8 % are poisoned.
    """

    purify: PurifyConfig = field(default_factory=PurifyConfig)
    steps: int = 2000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; train for at least one.")
