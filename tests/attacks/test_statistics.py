from __future__ import annotations

import math

import numpy as np
import pytest

from raydvae.attacks.statistics import class_entropy, describe, project
from raydvae.errors import DataError


def test_sizes_means_and_distances_of_known_noise() -> None:
    clean = np.full((4, 2, 2, 3), 100, np.uint8)
    poisoned = clean.copy()
    labels = np.array([0, 0, 1, 1])
    poisoned[:2, 0, 0, 0] = [103, 105]
    poisoned[2:, 1, 1] = 98
    found = describe(clean, poisoned, labels, 3)
    assert (found.l0.least, found.l0.most) == (1, 1)
    assert found.linf.most == pytest.approx(5 / 255)
    assert found.l2.mean == pytest.approx((3 + 5 + 2 * 2 * math.sqrt(3)) / 4 / 255)
    assert found.mean[0, 0, 0, 0] == pytest.approx(4 / 255)
    assert found.variance.tolist() == pytest.approx([1 / 12 / 255**2, 0, 0])
    assert found.intra_class == pytest.approx(0.5 / 255**2)
    assert found.inter_class == pytest.approx(math.sqrt(16 + 12) / 255)
    assert math.isnan(found.entropy[2])


def test_entropy_is_that_of_the_gaussian_the_rows_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([0.5, 1.0, 2.0])
    values = rng.standard_normal((20_000, 3)) * scales
    entropy = class_entropy(values, np.zeros(len(values), np.int64), 1)[0]
    expected = 1.5 * (1 + math.log(2 * math.pi)) + np.log(scales).sum()  # Eq. 13
    assert entropy == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_the_projection_keeps_distances_when_it_keeps_all_components(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).standard_normal(shape)
    flat = project(rows, min(shape))
    np.testing.assert_allclose(np.linalg.norm(flat[0] - flat[1]), np.linalg.norm(rows[0] - rows[1]), rtol=1e-6)
    assert np.all(np.diff(flat.var(axis=0)) <= 1e-9)


def test_rows_of_another_data_set_are_refused() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="same rows"):
        describe(images, images[:1], np.zeros(2, np.int64), 1)
    with pytest.raises(DataError, match="no poisoned rows"):
        describe(images[:0], images[:0], np.zeros(0, np.int64), 1)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0])
def test_theorem_3_3_bounds_the_divergence_of_a_normalized_mixture(ratio: float) -> None:
    assert math.log(1 + ratio**2) / 2 - math.log(2) <= mixture_kld(ratio) + 1e-9
    assert mixture_kld(ratio) <= math.log(1 + ratio**2) / 2 + 1e-9


def test_the_divergence_grows_with_the_ratio() -> None:
    values = [mixture_kld(ratio) for ratio in np.geomspace(0.05, 100, 30)]
    assert np.all(np.diff(values) > 0)


def mixture_kld(ratio: float) -> float:
    """KLD of Eq. 9's two-component mixture from N(0, 1), by the trapezoid rule."""
    center, scale = ratio / math.sqrt(1 + ratio**2), 1 / math.sqrt(1 + ratio**2)
    v = np.linspace(-9, 9, 400_001)
    parts = [-0.5 * ((v - sign * center) / scale) ** 2 - math.log(scale) for sign in (-1, 1)]
    log_p = np.logaddexp(*parts) - math.log(2)
    integrand = np.exp(log_p) / math.sqrt(2 * math.pi) * (log_p + v**2 / 2)
    return float(np.trapezoid(integrand, v))
