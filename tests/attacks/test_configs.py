from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from raydvae.attacks.configs import (
    ARConfig,
    EMConfig,
    LSPConfig,
    NTGAConfig,
    REMConfig,
    SEPConfig,
    SurrogateConfig,
    TAPConfig,
)
from raydvae.attacks.registry import ATTACKS, find_attack
from raydvae.errors import ConfigError


def test_the_defaults_are_the_published_values() -> None:
    assert EMConfig().step_size == pytest.approx(1.6 / 255)
    assert REMConfig().step_size == pytest.approx(1.6 / 255)
    assert REMConfig().radius == pytest.approx(4 / 255)
    assert REMConfig().inner_step_size == pytest.approx(0.8 / 255)
    assert TAPConfig().step_size == pytest.approx(0.064 / 255)
    assert SEPConfig().step_size == pytest.approx(1 / 255)
    assert (SEPConfig().count, SEPConfig(variant="fa").count) == (15, 30)
    assert NTGAConfig().step_size == pytest.approx(1.1 * 0.8 / 255)
    assert NTGAConfig(update="one-step").step_size == pytest.approx(8 / 255)


def test_the_larger_bounds_of_table_5_scale_the_steps() -> None:
    assert LSPConfig(norm=4.0).norm == 4.0
    assert REMConfig(norm=16 / 255).radius == pytest.approx(8 / 255)
    assert EMConfig(norm=16 / 255).step_size == pytest.approx(3.2 / 255)


@pytest.mark.parametrize("kind", [LSPConfig, ARConfig, EMConfig, REMConfig, TAPConfig, SEPConfig, NTGAConfig])
@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_must_be_positive(kind: Any, norm: float) -> None:
    with pytest.raises(ConfigError, match=r"norm is .*; give a positive number"):
        kind(norm=norm)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EMConfig(wise="pixel"),  # type: ignore[arg-type]
        lambda: EMConfig(wise="class", view="augmented"),
        lambda: EMConfig(steps=0),
        lambda: TAPConfig(step=-1),
        lambda: SEPConfig(variant="fast"),  # type: ignore[arg-type]
        lambda: REMConfig(adversarial_norm=-1),
        lambda: NTGAConfig(t=0),
        lambda: NTGAConfig(block_rows=1),
        lambda: ARConfig(crop=1),
        lambda: SurrogateConfig(steps=0),
        lambda: SEPConfig().checkpoint_epochs(14),
    ],
)
def test_other_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_an_unknown_attack_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="lsp, ar, ops, em, rem, tap, sep, ntga"):
        find_attack("dc")
    assert [find_attack(name)[0].__name__ for name in ATTACKS][:2] == ["LSPConfig", "ARConfig"]


def test_surrogate_steps_become_epochs() -> None:
    surrogate = SurrogateConfig()
    assert surrogate.epochs(50_000) == 13  # 390 steps an epoch
    assert SurrogateConfig(steps=3).epochs(100) == 3  # fewer rows than a batch: one step an epoch
    assert surrogate.train_config(50_000).optimizer == "sgd"
    assert SEPConfig().surrogate.epochs(50_000) == 120
    assert SEPConfig().checkpoint_epochs(120) == list(range(7, 120, 8))


def test_the_settings_import_no_torch() -> None:
    code = "import sys, raydvae.attacks.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
