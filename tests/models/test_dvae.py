from __future__ import annotations

import pytest
import torch
from torch import nn

from raydvae.config import DVAEConfig
from raydvae.errors import ConfigError
from raydvae.models.classifiers import ResNet18
from raydvae.models.dvae import DVAE, Decoder, RateConstrainedVAE


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("classes", "parameters"), [(10, 1_181_382), (100, 4_130_502)])
def test_the_paper_s_network_has_exactly_its_parameters(classes: int, parameters: int) -> None:
    assert count(DVAE(DVAEConfig(num_classes=classes))) == parameters


def test_resnet18_has_exactly_its_parameters() -> None:
    assert count(ResNet18(10)) == 11_173_962


@pytest.mark.parametrize("downsampling", [0.5, 0.25, 0.125])
@pytest.mark.parametrize("embedding", ["spatial", "vector"])
@pytest.mark.parametrize("size", [16, 32])
def test_every_shape_trains_every_parameter(downsampling: float, embedding: str, size: int) -> None:
    config = DVAEConfig(num_classes=3, image_size=size, width=4, downsampling=downsampling, embedding=embedding)  # type: ignore[arg-type]
    model = DVAE(config)
    x, y = torch.rand(6, 3, size, size), torch.tensor([0, 1, 2, 0, 1, 2])
    out = model(x, y, torch.randn(model.latent_shape(6)))
    assert out.x_hat.shape == out.p_hat.shape == x.shape
    assert out.mu.shape == out.log_var.shape == (6, 16, size * downsampling, size * downsampling)
    assert out.x_hat.min() >= 0
    assert out.x_hat.max() <= 1
    (out.x_hat.sum() + out.p_hat.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), "a dead parameter"


def test_the_perturbation_alone_is_what_the_whole_forward_gives() -> None:
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(width=4)).eval()
    x, y, noise = torch.rand(4, 3, 32, 32), torch.arange(4), torch.randn(model.latent_shape(4))
    out = model(x, y, noise)
    torch.testing.assert_close(model.estimate_perturbation(x, y, noise), out.p_hat, rtol=0, atol=0)
    torch.testing.assert_close(model.reconstruct(x, noise), out.x_hat, rtol=0, atol=0)


def test_without_noise_the_latents_are_their_mean() -> None:
    model = DVAE(DVAEConfig(width=4)).eval()
    x, y = torch.rand(2, 3, 32, 32), torch.arange(2)
    zero = model(x, y, torch.zeros(model.latent_shape(2)))
    torch.testing.assert_close(model(x, y, None).x_hat, zero.x_hat)


def test_labels_move_the_perturbation_and_not_the_reconstruction() -> None:
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(width=4)).eval()
    x = torch.rand(2, 3, 32, 32)
    one, other = model(x, torch.tensor([0, 0]), None), model(x, torch.tensor([1, 1]), None)
    torch.testing.assert_close(one.x_hat, other.x_hat, rtol=0, atol=0)
    assert (one.p_hat - other.p_hat).abs().max() > 1e-3


def test_the_decoder_is_the_published_one() -> None:
    """ConvT k4s2, k3, InstanceNorm, ReLU, k3, InstanceNorm, ReLU, k3, with torch's own InstanceNorm2d."""
    torch.manual_seed(0)
    decoder = Decoder(DVAEConfig(width=8))
    convolutions = [m for m in decoder if isinstance(m, nn.ConvTranspose2d)]
    up, same, narrow, last = convolutions
    published = nn.Sequential(up, same, nn.InstanceNorm2d(8), nn.ReLU(), narrow, nn.InstanceNorm2d(4), nn.ReLU(), last)
    z = torch.randn(2, 16, 16, 16)
    torch.testing.assert_close(decoder(z), published(z), rtol=1e-5, atol=1e-5)


def test_the_plain_vae_is_the_d_vae_without_its_second_branch() -> None:
    config = DVAEConfig()
    embedding, decoder = 10 * 128 * 16 * 16, 187_395
    assert count(RateConstrainedVAE(config)) == count(DVAE(config)) - embedding - decoder
    assert RateConstrainedVAE(DVAEConfig(width=4))(torch.rand(1, 3, 32, 32), torch.zeros(1).long(), None).p_hat is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"downsampling": 0.3}, "0.5, 0.25, 0.125"),
        ({"image_size": 33}, "multiple of 2"),
        ({"width": 5}, "even number"),
        ({"num_classes": 0}, "at least one class"),
        ({"embedding": "none"}, "spatial, vector"),
    ],
)
def test_wrong_architectures_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DVAEConfig(**wrong)  # type: ignore[arg-type]
