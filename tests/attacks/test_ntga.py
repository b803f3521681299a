from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raydvae.attacks.configs import NTGAConfig, NTGANet
from raydvae.attacks.ntga import NTGA, kernel, train
from raydvae.errors import ConfigError, DataError


def rows_of(count: int, dimensions: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", ["erf", "relu"])
def test_the_kernel_is_the_gradients_product_of_a_wide_random_net(net: NTGANet) -> None:
    config = NTGAConfig(net=net, depth=2)
    x = rows_of(4)
    generator = torch.Generator().manual_seed(1)
    activation = torch.erf if net == "erf" else torch.relu
    width, estimates = 1024, []
    for _ in range(6):
        sizes = [(12, width), (width, 8)]
        parameters = [
            torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
            for inputs, outputs in sizes
            for shape in ((inputs, outputs), (outputs,))
        ]
        h = x
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            scale = math.sqrt(config.weight_variance / len(weight))
            h = activation(h @ weight * scale + bias * math.sqrt(config.bias_variance))
        for unit in range(8):
            grads = [
                torch.cat([g.flatten() for g in torch.autograd.grad(h[row, unit], parameters, retain_graph=True)])
                for row in range(4)
            ]
            estimates.append(torch.stack(grads) @ torch.stack(grads).T)
    mean = torch.stack(estimates).mean(dim=0)
    spread = torch.stack(estimates).std(dim=0) / math.sqrt(len(estimates))
    assert ((kernel(x, x, config) - mean).abs() < 4 * spread + 1e-3).all()


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
