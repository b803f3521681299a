"""Our layers against torch's: the same outputs, and gradients that are the derivatives of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydvae.models.layers import InstanceNormReLU, Shortcut, TransposedConv2d, gaussian_kld, reparameterize

SHAPES = [(3, 1, 1), (4, 2, 1)]  # kernel, stride, padding: those of the decoders


def gradients(layer: nn.Module, x: Tensor, weights: Tensor) -> list[Tensor]:
    """Gradients of a weighted sum of what ``layer`` makes of ``x``, by ``x`` and all parameters; and its output."""
    x = x.clone().requires_grad_()
    out = layer(x)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
def test_a_transposed_convolution_and_its_gradients_are_torch_s(
    kernel: int, stride: int, padding: int, memory: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = TransposedConv2d(6, 4, kernel, stride=stride, padding=padding).to(memory_format=memory)
    theirs = nn.ConvTranspose2d(6, 4, kernel, stride=stride, padding=padding)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 8, 8).to(memory_format=memory)
    weights = torch.randn(theirs(x).shape)
    for got, expected in zip(gradients(ours, x, weights), gradients(theirs, x, weights), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(("channels", "side"), [(2, 8), (6, 64), (12, 8), (12, 64), (16, 64), (3, 9)])
def test_a_shortcut_and_its_gradients_are_torch_s(channels: int, side: int) -> None:
    torch.manual_seed(0)
    ours = Shortcut(channels, 2 * channels, 2).to(memory_format=torch.channels_last)
    theirs = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, channels, side, side)
    weights = torch.randn(3, 2 * channels, -(-side // 2), -(-side // 2))
    got = gradients(ours, x.to(memory_format=torch.channels_last), weights)
    for one, expected in zip(got, gradients(theirs, x.double(), weights.double()), strict=True):
        torch.testing.assert_close(one.double(), expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(ours(x), nn.functional.conv2d(x, ours.weight, stride=2))


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_instance_normalization_and_relu_are_torch_s(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.InstanceNorm2d(5), nn.ReLU())
    x = (3 + 2 * torch.randn(3, 5, 8, 8)).to(memory_format=memory)
    weights = torch.randn(x.shape)
    for got, expected in zip(gradients(InstanceNormReLU(), x, weights), gradients(theirs, x, weights), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(InstanceNormReLU()(x), theirs(x))


def test_gradients_are_derivatives() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(InstanceNormReLU(), x)
    for kernel, stride, padding in SHAPES:
        assert torch.autograd.gradcheck(TransposedConv2d(3, 2, kernel, stride=stride, padding=padding).double(), x)


def test_frozen_weights_get_no_gradient_and_the_input_does() -> None:
    layer = TransposedConv2d(3, 2, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 3, 4, 4).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_sampling_and_its_rate_are_the_formulas() -> None:
    torch.manual_seed(0)
    mu, log_var, noise = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    mu.requires_grad_()
    log_var.requires_grad_()
    torch.testing.assert_close(reparameterize(mu, log_var, noise), mu + torch.exp(0.5 * log_var) * noise)
    expected = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(dim=1).mean()
    torch.testing.assert_close(gaussian_kld(mu, log_var), expected)
    assert torch.autograd.gradcheck(lambda a, b: reparameterize(a, b, noise), (mu, log_var))
    assert torch.autograd.gradcheck(gaussian_kld, (mu, log_var))
