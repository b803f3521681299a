from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from raydvae.attacks.configs import NTGAConfig, NTGANet
from raydvae.attacks.ntga import NTGA, kernel, train
from raydvae.errors import ConfigError, DataError


def rows_of(count: int, dimensions: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def expectation(function: Callable[[np.ndarray], np.ndarray], k: np.ndarray) -> float:
    """E[f(u) f(v)] of Gaussian (u, v) of covariance ``k`` (2, 2), by the midpoint rule in two dimensions."""
    t = (np.arange(1500) + 0.5) / 1500 * 14 - 7
    weights = np.exp(-(t**2) / 2)
    weights /= weights.sum()
    factor = np.linalg.cholesky(k)
    v = factor[1, 0] * t[:, None] + factor[1, 1] * t
    return float(weights @ (function(factor[0, 0] * t)[:, None] * function(v)) @ weights)


@pytest.mark.parametrize("net", ["erf", "relu"])
def test_the_kernel_is_the_recursion_over_gaussian_expectations(net: NTGANet) -> None:
    config = NTGAConfig(net=net, depth=3)
    if net == "erf":
        functions = lambda u: torch.erf(torch.from_numpy(u)).numpy(), lambda u: 2 / math.sqrt(math.pi) * np.exp(-(u**2))
    else:
        functions = lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)
    rows = rows_of(3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = rows[[i, j]].numpy()
        k, tangent = pair @ pair.T / 12, 0.0
        for _ in range(3):
            k = config.weight_variance * k + config.bias_variance
            tangent = k[0, 1] + config.weight_variance * tangent
            tangent *= expectation(functions[1], k)
            diagonal = [expectation(functions[0], np.full((2, 2), k[n, n]) + 1e-9 * np.eye(2)) for n in (0, 1)]
            cross = expectation(functions[0], k)
            k = np.array([[diagonal[0], cross], [cross, diagonal[1]]])
        assert float(kernel(rows[[i]], rows[[j]], config)) == pytest.approx(tangent, rel=2e-3)


@pytest.mark.parametrize("net", ["erf", "relu"])
def test_the_kernel_is_the_gradients_product_of_a_wide_random_net(net: NTGANet) -> None:
    config = NTGAConfig(net=net, depth=2)
    x = rows_of(4)
    generator = torch.Generator().manual_seed(1)
    activation = torch.erf if net == "erf" else torch.relu
    width, units, nets = 2048, 256, 8
    estimate = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(nets):
        w1, b1, w2, b2 = (
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((12, width), (width,), (width, units), (units,))
        )
        scales = math.sqrt(config.weight_variance / 12), math.sqrt(config.weight_variance / width)
        bias = math.sqrt(config.bias_variance)
        u1 = (x @ w1 * scales[0] + b1 * bias).requires_grad_()
        h1 = activation(u1)
        u2 = (h1 @ w2 * scales[1] + b2 * bias).requires_grad_()
        (slope1,) = torch.autograd.grad(h1.sum(), u1, retain_graph=True)
        (slope2,) = torch.autograd.grad(activation(u2).sum(), u2)
        # The chain rule by hand, for all outputs: layer 2's own weights and bias, then layer 1's behind them.
        behind = slope1[:, None] * (w2 * scales[1]).T  # (4, units, width)
        own = scales[1] ** 2 * h1.detach() @ h1.detach().T + bias**2
        first = torch.einsum("auw,buw->ab", behind, behind) / units * (scales[0] ** 2 * x @ x.T + bias**2)
        estimate += slope2 @ slope2.T / units * (own + first) / nets
    torch.testing.assert_close(kernel(x, x, config), estimate, rtol=0.04, atol=0)


def test_one_layer_of_relu_is_the_arc_cosine_kernel() -> None:
    config = NTGAConfig(net="relu", depth=1, weight_variance=2.0, bias_variance=0.0)
    a = torch.eye(2, dtype=torch.float64) * math.sqrt(2)  # orthogonal rows, of mean square 1
    # Angle pi/2: covariance 0, so the tangent is 0; equal rows: 2 · P(u > 0) = 1.
    torch.testing.assert_close(kernel(a, a, config), torch.eye(2, dtype=torch.float64), atol=2e-6, rtol=0)


def test_training_is_gradient_flow_on_the_mean_squared_error() -> None:
    config = NTGAConfig(depth=2, t=30.0, regularization=1e-12)
    x, targets = rows_of(6), torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    k = kernel(x, x, config)
    f, steps = torch.zeros_like(targets), 20_000
    for _ in range(steps):  # df/dt = -K (f - Y) / (N · C)
        f = f - config.t / steps * (k @ (f - targets)) / targets.numel()
    torch.testing.assert_close(k @ train(k, targets, config), f, atol=1e-3, rtol=0)


def make(config: NTGAConfig, rows: int = 6) -> tuple[NTGA, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows + 8, 3, 3, 3), dtype=np.uint8)
    labels = np.arange(rows + 8) % 3
    return NTGA(config, images[rows:], labels[rows:], 3), images[:rows], labels[:rows]


@pytest.mark.parametrize("net", ["erf", "relu"])
def test_the_gradient_is_that_of_finite_differences(net: NTGANet) -> None:
    attack, images, labels = make(NTGAConfig(net=net, depth=2, t=50.0))
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    x[1] = x[0]  # equal rows: equal eigenvalues do no harm
    y = torch.from_numpy(labels)
    gradient = attack.gradient(x, y)

    def loss(at: Tensor) -> float:
        flat = at.flatten(1)
        weights = train(kernel(flat, flat, attack.config), torch.eye(3, dtype=torch.float64)[y], attack.config)
        predictions = kernel(attack.held_out, flat, attack.config) @ weights
        return float(torch.nn.functional.cross_entropy(predictions, attack.held_out_labels, reduction="sum"))

    for place in ((3, 0, 1, 2), (4, 2, 0, 0), (5, 1, 2, 1)):
        step = torch.zeros_like(x)
        step[place] = 1e-5
        slope = (loss(x + step) - loss(x - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_iterating_beats_the_published_single_step() -> None:
    losses = {}
    for update in ("iterated", "one-step"):
        attack, images, labels = make(NTGAConfig(depth=2, t=500.0, norm=0.1, update=update))  # type: ignore[arg-type]
        x = torch.from_numpy(images + 255 * attack.noise(images, labels, [""] * 6).astype(np.float64)) / 255
        flat = x.permute(0, 3, 1, 2).flatten(1)
        targets = torch.eye(3, dtype=torch.float64)[torch.from_numpy(labels)]
        predictions = kernel(attack.held_out, flat, attack.config) @ train(
            kernel(flat, flat, attack.config), targets, attack.config
        )
        losses[update] = float(torch.nn.functional.cross_entropy(predictions, attack.held_out_labels))
    assert losses["iterated"] >= losses["one-step"]


def test_blocks_are_independent() -> None:
    attack, images, labels = make(NTGAConfig(depth=1, block_rows=3, steps=2))
    whole = attack.noise(images, labels, [""] * 6)
    assert np.array_equal(whole[3:], attack.noise(images[3:], labels[3:], [""] * 3))


def test_wrong_data_are_refused() -> None:
    images, labels = np.zeros((0, 3, 3, 3), np.uint8), np.zeros(0, np.int64)
    with pytest.raises(ConfigError, match="at least 2"):
        NTGA(NTGAConfig(), images, labels, 1)
    with pytest.raises(DataError, match="held-out"):
        NTGA(NTGAConfig(), images, labels, 2)
