"""The plain VAE and the autoencoder as purifiers: what comes out is their reconstruction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raydvae.config import DataConfig, DVAEConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.defenses.configs import AEConfig, ModelConfig, VAEConfig
from raydvae.defenses.defending import check, defend
from raydvae.engine import InProcess
from raydvae.errors import ConfigError
from raydvae.models.dvae import Autoencoder, RateConstrainedVAE
from raydvae.training.checkpoint import load_model

SIZE = 16


@pytest.fixture
def data(digits_folder: Path) -> Dataset:
    return open_dataset(str(digits_folder), DataConfig(unit_rows=40, size_policy="resize"))


def made(config: ModelConfig, data: Dataset, out: Path) -> float:
    """Defend, and return the mean PSNR of what comes out, in dB."""
    classes = find_classes(data)
    defend(config, data, classes, SIZE, Run(Store(str(out))), InProcess(1))

    def pixels(source: Dataset) -> np.ndarray:
        return np.concatenate([decode_rows(source, u, source.read(u), classes, SIZE).images for u in source.units()])

    difference = (pixels(data).astype(float) - pixels(open_dataset(str(out)))) / 255
    return float(-10 * np.log10(np.square(difference).mean()))


def test_less_comes_through_a_lower_rate_or_a_narrower_bottleneck(data: Dataset, tmp_path: Path) -> None:
    train = {"epochs": 6, "batch": 20}
    rates = [made(VAEConfig(kld=kld, width=6, **train), data, tmp_path / f"vae{kld}") for kld in (0.25, 8.0)]
    widths = [made(AEConfig(width=width, **train), data, tmp_path / f"ae{width}") for width in (2, 6)]
    assert 8 < rates[0] < rates[1] - 1
    assert 8 < widths[0] < widths[1] - 1


def test_the_output_is_the_models_reconstruction_in_evaluation_mode(data: Dataset, tmp_path: Path) -> None:
    made(AEConfig(width=4, epochs=1, batch=20), data, tmp_path / "out")
    model = Autoencoder(DVAEConfig(image_size=SIZE, width=4)).eval()
    model.load_state_dict(load_model(Store(str(tmp_path / "out/_raydvae/model")))[0])
    classes, source, out = find_classes(data), data, open_dataset(str(tmp_path / "out"))
    rows = decode_rows(source, source.units()[0], source.read(source.units()[0]), classes, SIZE)
    with torch.no_grad():
        x_hat = model(torch.from_numpy(rows.images).permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1).numpy()
    first = decode_rows(out, out.units()[0], out.read(out.units()[0]), classes, SIZE).images
    assert np.abs(255 * x_hat - first[: len(x_hat)]).max() < 0.51


def test_an_autoencoder_is_the_plain_vae_without_what_makes_it_variational() -> None:
    def parameters(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    config = DVAEConfig(width=16)
    vae, ae = RateConstrainedVAE(config), Autoencoder(config)
    assert parameters(vae) - parameters(ae) == parameters(vae.log_var)
    assert parameters(Autoencoder(DVAEConfig(width=8))) < parameters(ae)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (VAEConfig(kld=-1), "0 or more"),
        (VAEConfig(width=3), "even number"),
        (AEConfig(epochs=0), "at least one"),
        (AEConfig(batch=0), "positive number"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(config: ModelConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(config, 32, 10)
