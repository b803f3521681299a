"""The names of all attacks, what each is set by, and what it needs before it can poison a first row."""

from __future__ import annotations

from typing import Literal

from raydvae.attacks.configs import (
    ARConfig,
    EMConfig,
    LSPConfig,
    NTGAConfig,
    OPSConfig,
    REMConfig,
    SEPConfig,
    TAPConfig,
)
from raydvae.errors import ConfigError

AttackConfig = LSPConfig | ARConfig | OPSConfig | EMConfig | REMConfig | TAPConfig | SEPConfig | NTGAConfig

# free: nothing. statistics: one pass over the data set. surrogate: a classifier trained on clean images.
# joint: a classifier trained together with the noise. validation: a sample of other rows.
Kind = Literal["free", "statistics", "surrogate", "joint", "validation"]

ATTACKS: dict[str, tuple[type[AttackConfig], Kind]] = {
    "lsp": (LSPConfig, "free"),
    "ar": (ARConfig, "free"),
    "ops": (OPSConfig, "statistics"),
    "em": (EMConfig, "joint"),
    "rem": (REMConfig, "joint"),
    "tap": (TAPConfig, "surrogate"),
    "sep": (SEPConfig, "surrogate"),
    "ntga": (NTGAConfig, "validation"),
}


def find_attack(name: str) -> tuple[type[AttackConfig], Kind]:
    """Return the configuration class and the kind of attack ``name``; `ConfigError` lists the names there are."""
    if name not in ATTACKS:
        raise ConfigError(f"There is no attack {name!r}; choose one of {', '.join(ATTACKS)}.")
    return ATTACKS[name]
