from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.config import DVAEConfig
from raydvae.models.dvae import DVAE
from raydvae.purify.inference import reconstruct, subtract, to_uint8


@pytest.fixture(scope="module")
def model() -> DVAE:
    torch.manual_seed(0)
    return DVAE(DVAEConfig(width=4, image_size=8)).eval()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 50))
def test_any_subtraction_and_reconstruction_is_an_image(model: DVAE, seed: int, amplitude: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(3, 3, 8, 8, generator=g), torch.randint(0, 10, (3,), generator=g)
    noise = amplitude * torch.randn(model.latent_shape(3), generator=g)
    for out in (subtract(model, x, y, noise), reconstruct(model, x, noise)):
        assert out.shape == x.shape
        assert out.min() >= 0
        assert out.max() <= 1


def test_subtraction_takes_off_the_estimate(model: DVAE) -> None:
    x, y = torch.full((2, 3, 8, 8), 0.5), torch.tensor([1, 2])
    expected = (x - model(x, y, None).p_hat).clamp(0, 1)
    torch.testing.assert_close(subtract(model, x, y, None), expected)


def test_quantizing_rounds_or_truncates() -> None:
    levels = torch.arange(256) / 255
    assert to_uint8(levels, "round").tolist() == list(range(256))
    between = (torch.arange(255) + 0.75) / 255
    assert to_uint8(between, "round").tolist() == list(range(1, 256))
    assert to_uint8(between, "truncate").tolist() == list(range(255))
    assert np.mean(to_uint8(torch.rand(100_000), "truncate").numpy()) == pytest.approx(127.0, abs=0.5)
