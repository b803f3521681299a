"""The orthogonal projection: what it removes, and that it removes no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from raydvae.defenses.configs import LFUConfig
from raydvae.defenses.defending import projected
from raydvae.defenses.lfu import Batch, basis_of, fit, project, rebatch, to_bytes
from raydvae.seeds import derive

ROWS, SIDE, CLASSES = 120, 8, 4
CPU = torch.device("cpu")
CONFIG = LFUConfig(epochs=60, batch_size=40)


def marked(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise whose classes differ by nothing but a faint fixed pattern a class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % CLASSES
    patterns = 6 * torch.randn(CLASSES, SIDE, SIDE, 3, generator=generator).sign()
    noise = 30 * torch.randn(rows, SIDE, SIDE, 3, generator=generator)
    return (128 + noise + patterns[labels]).clamp(0, 255).to(torch.uint8), labels


def whole(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], Iterable[Batch]]:
    return lambda: [(images, labels)]


def hits(pixels: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    return ((pixels @ weights.T).argmax(1) == labels).float().mean().item()


def test_what_the_classifier_told_classes_apart_by_is_gone() -> None:
    images, labels = marked(1500)
    seen, unseen = slice(0, 1000), slice(1000, 1500)
    pixels = images.flatten(1).float() / 255
    weights = fit(whole(images[seen], labels[seen]), 3 * SIDE**2, CLASSES, CONFIG, CPU)
    assert hits(pixels[unseen], labels[unseen], weights) > 0.85
    left = project(pixels, basis_of(weights))
    assert (left @ weights.T).abs().max() < 1e-4 * (pixels @ weights.T).abs().max(), "it sees nothing any more"
    # Nor does a new one see much; images lie in the middle of the bytes' range, where nothing is cut.
    squeezed = to_bytes(left + 0.5 - left.mean())
    refitted = fit(whole(squeezed[seen], labels[seen]), 3 * SIDE**2, CLASSES, CONFIG, CPU)
    assert hits(squeezed[unseen].flatten(1).float() / 255, labels[unseen], refitted) < 1 / CLASSES + 0.1


def test_a_fit_is_a_function_of_data_and_seed() -> None:
    first, second, third = (
        fit(whole(*marked()), 3 * SIDE**2, CLASSES, LFUConfig(epochs=2, seed=seed), CPU) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_projection_is_orthogonal_and_idempotent() -> None:
    generator = torch.Generator().manual_seed(1)
    basis = basis_of(torch.randn(CLASSES, 48, generator=generator, dtype=torch.float64))
    assert torch.allclose(basis.T @ basis, torch.eye(CLASSES, dtype=torch.float64))
    matrix = project(torch.eye(48, dtype=torch.float64), basis)
    assert torch.allclose(matrix, matrix.T), "orthogonal"
    assert torch.allclose(matrix @ matrix, matrix), "idempotent"
    assert round(torch.trace(matrix).item(), 9) == 48 - CLASSES, "no more than one dimension a class"
    x = torch.randn(9, 48, generator=generator, dtype=torch.float64)
    once = project(x, basis)
    assert torch.allclose(project(once, basis), once)
    assert torch.allclose((once * (x - once)).sum(1), torch.zeros(9, dtype=torch.float64), atol=1e-9)


def test_weights_of_any_length_span_the_same_space() -> None:
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    longer = weights * torch.tensor([[1.0], [50.0], [0.01]], dtype=torch.float64)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(project(x, basis_of(weights)), project(x, basis_of(longer)))


def test_bytes_are_the_projection_cut_and_rounded() -> None:
    images, labels = marked()
    basis = basis_of(fit(whole(images, labels), 3 * SIDE**2, CLASSES, CONFIG, CPU))
    out = projected(images.numpy(), basis)
    assert out.shape == images.shape and out.dtype == np.uint8
    exact = project(images.flatten(1).double() / 255, basis.double()).numpy().reshape(out.shape)
    assert np.abs(out - 255 * exact.clip(0, 1)).max() <= 0.5 + 1e-3


def test_batches_are_the_same_in_whatever_parts_the_rows_come() -> None:
    images, labels = marked()
    parts = [(images[a:b], labels[a:b]) for a, b in [(0, 7), (7, 7), (7, 100), (100, 120)]]
    cut = list(rebatch(parts, 16))
    assert [len(y) for _, y in cut] == [16] * 7 + [8]
    assert torch.equal(torch.cat([x for x, _ in cut]), images)
    assert torch.equal(torch.cat([y for _, y in cut]), labels)
    one = fit(whole(images, labels), 3 * SIDE**2, CLASSES, CONFIG, CPU)
    assert torch.equal(fit(lambda: parts, 3 * SIDE**2, CLASSES, CONFIG, CPU), one)


def test_the_learning_rate_falls_at_half_and_three_quarters() -> None:
    """One row, one step an epoch: the gradient hardly changes, so the length of a step tells the rate."""
    image, label = torch.full((1, 1, 1, 3), 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    weights = [fit(whole(image, label), 3, 2, LFUConfig(epochs=n), CPU) for n in (1, 8)]
    torch.manual_seed(derive(0, "lfu"))
    start = torch.nn.Linear(3, 2, bias=False).weight.detach()
    one, eight = ((w - start).norm().item() for w in weights)
    assert abs(eight / one - (4 + 0.2 + 0.02)) < 1e-2 * 4
