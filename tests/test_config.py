"""Configuration: what is written is read back equal, and every mistake is named with what is allowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from raydvae.config import (
    PRESETS,
    DataConfig,
    DVAEConfig,
    PurifyConfig,
    RateLossConfig,
    StageConfig,
    TrainConfig,
    dump_toml,
    from_dict,
    load_toml,
    preset,
    to_dict,
)
from raydvae.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_toml(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert load_toml(dump_toml(config)) == config


positive = st.floats(1e-6, 1e6, allow_nan=False)


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    kld=st.floats(0, 100),
    lr=positive,
    low=st.floats(0.1, 50),
    gap=st.floats(0.1, 50),
    column=st.text(st.characters(exclude_categories=["Cs"])),
    share=st.floats(0, 1),
    sample=st.booleans(),
)
def test_any_configuration_survives_toml(
    seed: int, kld: float, lr: float, low: float, gap: float, column: str, share: float, sample: bool
) -> None:
    stage = StageConfig(loss=RateLossConfig(kld_target=kld), train=TrainConfig(lr=lr), psnr_window=(low, low + gap))
    data = DataConfig(image_column=column, reject_limit=share)
    config = PurifyConfig(seed=seed, stage1=stage, data=data, sample_z=sample)
    assert load_toml(dump_toml(config)) == config
    assert from_dict(PurifyConfig(), to_dict(config)) == config


def test_a_file_is_laid_over_its_preset() -> None:
    config = load_toml('preset = "cifar100"\nseed = 7\n[stage1.train]\nepochs = 3\nlr = 1\n')
    base = preset("cifar100")
    train = dataclasses.replace(base.stage1.train, epochs=3, lr=1.0)
    assert config == dataclasses.replace(base, seed=7, stage1=dataclasses.replace(base.stage1, train=train))
    assert type(config.stage1.train.lr) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", r"Unknown setting 'sed'; here there are: preset, seed, stage1"),
        ("[stage1.train]\nepoch = 1", r"Unknown setting 'stage1\.train\.epoch'; here there are: epochs, batch_size"),
        ("stage1 = 3", r"stage1 is 3; it must be a table of settings"),
        ('seed = "1"', r"seed is '1'; it must be of type int"),
        ("seed = 1.5", r"seed is 1\.5; it must be of type int"),
        ("seed = true", r"seed is True; it must be of type int"),
        ("sample_z = 1", r"sample_z is 1; it must be of type bool"),
        ("[stage1.train]\nlr = true", r"stage1\.train\.lr is True; it must be of type float"),
        ("[stage1]\npsnr_window = [1.0]", r"stage1\.psnr_window is \[1\.0\]; it must be a list of 2 values"),
        ('[stage1]\npsnr_window = [1.0, "a"]', r"stage1\.psnr_window is 'a'; it must be of type float"),
        ("[stage1]\npsnr_window = [3, 2]", r"psnr_window is 3\.0:2\.0; give two positive dB values"),
        ('quantize = "floor"', r"quantize is 'floor'; choose one of round, truncate"),
        ("quantize = 1", r"quantize is 1; choose one of round, truncate"),
        ('[data]\nsize_policy = "crop"', r"size_policy is 'crop'; choose one of reject, resize"),
        ('preset = "mnist"', r"no preset 'mnist'; choose one of cifar10, cifar100, imagenet100, digits"),
        ("preset = []", r"no preset \[\]; choose one of"),
        ("seed = ", r"not valid TOML: .*Start from the config.toml of a run"),
        ("[stage1.model]\nimage_size = 33", r"image_size 33 does not fit downsampling x0\.5"),
        ("[stage1.model]\ndownsampling = 0.3", r"downsampling is 0\.3; choose one of 0\.5, 0\.25, 0\.125"),
        ("[stage1.model]\nnum_classes = 3", r"Stage 1 is for 3 classes at 32 px and stage 2 for 10"),
        ("[stage2.loss]\nkld_target = nan", r"The KLD target is nan; give nats"),
        ("[data]\nreject_limit = 2", r"reject_limit is 2\.0; give a share of the rows between 0 and 1"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_toml(text)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DVAEConfig, {"width": 3}),
        (DVAEConfig, {"num_classes": 0}),
        (DVAEConfig, {"latent_channels": -1}),
        (DVAEConfig, {"embedding": "flat"}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"batch_size": 0}),
        (TrainConfig, {"lr": float("inf")}),
        (TrainConfig, {"lr": float("nan")}),
        (TrainConfig, {"clip_norm": 0}),
        (TrainConfig, {"slices": -1}),
        (TrainConfig, {"optimizer": "lion"}),
        (TrainConfig, {"batch_stats": "none"}),
        (RateLossConfig, {"rate_weight": -1}),
        (DataConfig, {"unit_rows": 0}),
        (DataConfig, {"max_image_pixels": 0}),
        (PurifyConfig, {"pass_batch": 0}),
    ],
)
def test_impossible_values_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(settings)))):
        kind(**settings)


def test_derived_sizes() -> None:
    model = DVAEConfig(width=64, downsampling=0.125, image_size=224)
    assert (model.halvings, model.features, model.latents, model.grid) == (3, 512, 256, 28)
    assert DVAEConfig(latent_channels=7).latents == 7
    assert [RateLossConfig(kld_target=kld).weight for kld in (0.5, 0.99, 1.0, 3.0)] == [0.5, 0.5, 0.01, 0.01]
    assert RateLossConfig(rate_weight=0.2).weight == 0.2


def test_dump_is_plain_toml() -> None:
    assert dump_toml(PurifyConfig()) == tomli_w.dumps(dataclasses.asdict(PurifyConfig()))
