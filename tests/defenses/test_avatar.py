"""AVATAR's process with the exact score of a known distribution, and its model's training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raydvae.config import DataConfig, TrainConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.defenses.avatar import Predict, ScoreTask, purified
from raydvae.defenses.configs import AEConfig, AvatarConfig
from raydvae.defenses.defending import defend
from raydvae.engine import InProcess
from raydvae.errors import ConfigError, DataError
from raydvae.models.score import UNet, kept
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train

STEPS = 60


def images(rows: int = 4) -> Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def exact(mean: Tensor | float, deviation: float) -> Predict:
    """The noise in x_t where images are normal about ``mean`` (in [-1, 1]) with ``deviation``: from its score."""

    def predict(z: Tensor, t: Tensor) -> Tensor:
        share = kept()[int(t[0]) - 1]
        variance = share * deviation**2 + 1 - share
        return ((z - share.sqrt() * mean) / variance * (1 - share).sqrt()).float()

    return predict


def test_what_is_left_of_an_image_is_that_of_the_continuous_process() -> None:
    for step in (1, STEPS, 500, 1000):
        t = step / 1000
        assert float(kept()[step - 1]) == pytest.approx(math.exp(-(0.1 * t + 0.5 * 19.9 * t**2)), rel=0.02, abs=1e-5)


def test_a_clean_image_comes_back_and_a_poison_does_not() -> None:
    x, deviation = images(), 0.02
    poison = 16 / 255 * (2 * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5) - 1)
    predict = exact(2 * x - 1, deviation)
    for given in (x, (x + poison).clamp(0, 1)):
        out = purified(given, predict, STEPS, torch.Generator().manual_seed(2))
        assert out.min() >= 0 and out.max() <= 1
        assert (out - x).abs().max() < 5 * deviation / 2, "within five deviations, in units of [0, 1]"
        assert (out - x).square().mean().sqrt() < 0.25 * 16 / 255


def test_a_distribution_is_mapped_to_itself() -> None:
    deviation, mean = 0.2, -0.1
    noise = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = (mean + deviation * noise + 1) / 2
    out = purified(x, exact(mean, deviation), STEPS, torch.Generator().manual_seed(1))
    assert float(out.mean()) == pytest.approx((mean + 1) / 2, abs=0.002)
    assert float(out.std()) == pytest.approx(deviation / 2, rel=0.03)
    assert torch.corrcoef(torch.stack([x.flatten(), out.flatten()]))[0, 1] < 0.7, "details are drawn anew"


def test_the_model_is_given_its_own_range_and_the_ends_of_ours_are_kept() -> None:
    seen = []

    def predict(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z)
        return exact(1.0, 0.01)(z, t)

    white = torch.ones(2, 3, 16, 16)
    out = purified(white, predict, STEPS, torch.Generator().manual_seed(0))
    share = float(kept()[STEPS - 1])
    assert len(seen) == STEPS
    assert float(seen[0].mean()) == pytest.approx(share**0.5, abs=0.03)
    assert float(seen[0].std()) == pytest.approx((1 - share) ** 0.5, rel=0.1)
    assert out.max() == 1 and out.min() > 0.97
    purified(1 - white, predict, STEPS, torch.Generator().manual_seed(0))
    assert float(seen[STEPS].mean()) == pytest.approx(-(share**0.5), abs=0.03)


def test_training_lowers_the_error_and_has_the_same_bits_on_two_threads() -> None:
    flat = (images(24).mean(dim=(2, 3), keepdim=True) * 255).to(torch.uint8).expand(-1, -1, 16, 16)
    config = TrainConfig(epochs=4, batch_size=12, lr=4e-3, slices=2)
    one, two = (
        train(ScoreTask(8), ImageSet(flat, torch.zeros(24, dtype=torch.int64)), config, seed=0, threads=threads)
        for threads in (1, 2)
    )
    assert all(torch.equal(value, two.model[key]) for key, value in one.model.items())
    assert one.history[-1]["noise_error"] < 0.8 * one.history[0]["noise_error"]
    model = UNet.of(one.model)
    assert model.width == 8 and model(torch.zeros(1, 3, 20, 12), torch.tensor([3])).shape == (1, 3, 20, 12)


def test_a_trained_model_is_lent_and_one_of_another_kind_is_refused(digits_folder: Path, tmp_path: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(size_policy="resize"))
    classes = find_classes(data)
    small = {"epochs": 1, "width": 8, "batch": 60, "steps": 2}

    def make(config: AvatarConfig, name: str) -> dict[str, bytes]:
        out = tmp_path / name
        assert defend(config, data, classes, 16, Run(Store(str(out))), InProcess(1))["rows_out"] == data.rows
        return {path.name: path.read_bytes() for path in out.glob("*.parquet")}

    trained = make(AvatarConfig(train_on=str(digits_folder), **small), "trained")  # type: ignore[arg-type]
    weights = tmp_path / "trained/_raydvae/model/model.safetensors"
    assert make(AvatarConfig(model=str(tmp_path / "trained"), steps=2), "lent") == trained
    assert make(AvatarConfig(model=str(weights), steps=2), "from-file") == trained
    assert make(AvatarConfig(model=str(weights), steps=2, seed=1), "seed") != trained
    assert json.loads((tmp_path / "lent/_raydvae/run.json").read_text())["config"]["steps"] == 2
    with pytest.raises(DataError, match="no trained diffusion model"):
        make(AvatarConfig(model=str(digits_folder)), "none")

    defend(AEConfig(epochs=1, width=4, batch=60), data, classes, 16, Run(Store(str(tmp_path / "ae"))), InProcess(1))
    with pytest.raises(DataError, match="another kind"):
        make(AvatarConfig(model=str(tmp_path / "ae")), "other")
    assert not (tmp_path / "none").exists() and not (tmp_path / "other").exists()
    for wrong in (AvatarConfig(), AvatarConfig(model="a", train_on="b")):
        with pytest.raises(ConfigError, match="--train-on .* or --model"):
            make(wrong, "wrong")
    with pytest.raises(ConfigError, match="1 to 1000 steps"):
        AvatarConfig(steps=0)
