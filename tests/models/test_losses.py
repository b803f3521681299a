from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio

from raydvae.config import RateLossConfig
from raydvae.models.dvae import DVAEOutput
from raydvae.models.losses import kld, measure, psnr, total


def test_kld_is_what_torch_distributions_says() -> None:
    mu, log_var = torch.randn(5, 8, 4, 4), torch.randn(5, 8, 4, 4)
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = torch.distributions.kl_divergence(q, p).sum(dim=1).mean()
    torch.testing.assert_close(kld(mu, log_var), expected, rtol=1e-5, atol=1e-5)


def test_psnr_is_what_scikit_image_says() -> None:
    x, x_hat = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(x, x_hat, strict=True)]
    np.testing.assert_allclose(psnr(x, x_hat).numpy(), expected, rtol=1e-5)
    assert psnr(x, x).tolist() == pytest.approx([100.0] * 3)


def output(seed: int = 0, batch: int = 8) -> tuple[torch.Tensor, DVAEOutput]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g)

    x = draw(batch, 3, 8, 8)
    leaves = [draw(batch, 3, 8, 8), draw(batch, 3, 8, 8) - 0.5, draw(batch, 4, 4, 4), draw(batch, 4, 4, 4)]
    return x, DVAEOutput(*(leaf.requires_grad_() for leaf in leaves))


def loss_of(x: torch.Tensor, out: DVAEOutput, config: RateLossConfig, epoch: int = 0) -> torch.Tensor:
    parts = measure(x, out)
    return total(parts, {name: value.detach() for name, value in parts.items()}, config, epoch)


@pytest.mark.parametrize("epoch", [10, 11])
def test_the_loss_is_the_official_one(epoch: int) -> None:
    x, out = output()
    config = RateLossConfig(kld_target=1.0)
    assert out.p_hat is not None
    expected = F.mse_loss(out.x_hat, x) + F.mse_loss((out.x_hat + out.p_hat).clamp(0, 1), x)
    expected = expected + 0.01 * max(kld(out.mu, out.log_var), torch.tensor(1.0))
    if epoch > 10:
        expected = expected + max(out.p_hat.square().mean(), torch.tensor(0.002))
    torch.testing.assert_close(loss_of(x, out, config, epoch), expected)


def test_below_its_target_the_rate_has_no_gradient() -> None:
    x, out = output()
    assert kld(out.mu, out.log_var) < 50
    loss_of(x, out, RateLossConfig(kld_target=50)).backward()
    assert out.mu.grad is None or out.mu.grad.abs().max() == 0
    x, out = output()
    loss_of(x, out, RateLossConfig(kld_target=0.001)).backward()
    assert out.mu.grad is not None
    assert out.mu.grad.abs().max() > 0


@pytest.mark.parametrize(("target", "weight"), [(0.99, 0.5), (1.0, 0.01), (3.0, 0.01), (0.5, 0.5)])
def test_lambda_follows_the_official_rule(target: float, weight: float) -> None:
    assert RateLossConfig(kld_target=target).weight == weight
    assert RateLossConfig(kld_target=target, rate_weight=0.2).weight == 0.2


@pytest.mark.parametrize("target", [0.3, 0.6, 5.0])
def test_slices_with_the_batch_s_means_average_to_the_whole_batch(target: float) -> None:
    """The rate constraint must act on the mean over the global batch, not slice by slice."""
    config = RateLossConfig(kld_target=target)
    x, whole = output()
    scale = torch.linspace(0.2, 2.0, 8).view(8, 1, 1, 1)  # slices on both sides of the target
    whole = whole._replace(mu=(whole.mu.detach() * scale).requires_grad_())
    loss = loss_of(x, whole, config, epoch=20)
    (expected,) = torch.autograd.grad(loss, whole.mu, allow_unused=True)
    parts = [measure(x[i : i + 2], DVAEOutput(*(t[i : i + 2] for t in whole))) for i in range(0, 8, 2)]  # type: ignore[index]
    means = {name: torch.stack([p[name].detach() for p in parts]).mean() for name in parts[0] if "psnr" not in name}
    losses = torch.stack([total(p, means, config, 20) for p in parts]).mean()
    (got,) = torch.autograd.grad(losses, whole.mu, allow_unused=True)
    torch.testing.assert_close(losses, loss)
    if expected is None:
        assert got is None
    else:
        torch.testing.assert_close(got, expected)


def test_psnr_of_a_plain_vae_is_measured_too() -> None:
    x, out = output()
    parts = measure(x, out._replace(p_hat=None))
    assert set(parts) == {"distortion", "kld", "psnr"}
    assert math.isfinite(float(parts["psnr"]))
