from __future__ import annotations

import pytest
import torch
from torch import nn

from raydvae.config import DVAEConfig
from raydvae.models.classifiers import build_classifier
from raydvae.models.dvae import DVAE
from raydvae.models.folding import fold


def seasoned(model: nn.Module) -> nn.Module:
    """Give normalizations the statistics and scales of a trained model."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                assert values is not None
                values.uniform_(low, high)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("downsampling", [0.5, 0.125])
def test_a_folded_d_vae_gives_the_same_images(downsampling: float) -> None:
    model = seasoned(DVAE(DVAEConfig(num_classes=3, image_size=16, width=8, downsampling=downsampling)))
    x, y, noise = torch.rand(3, 3, 16, 16), torch.arange(3), torch.randn(model.latent_shape(3))
    p_hat, x_hat = model.estimate_perturbation(x, y, noise), model.reconstruct(x, noise)
    fold(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model.estimate_perturbation(x, y, noise), p_hat, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.reconstruct(x, noise), x_hat, rtol=1e-4, atol=1e-4)


def test_a_folded_classifier_gives_the_same_logits() -> None:
    model = seasoned(build_classifier("tiny", 4))
    x = torch.rand(3, 3, 16, 16)
    before = model(x)
    torch.testing.assert_close(fold(model)(x), before, rtol=1e-4, atol=1e-4)
