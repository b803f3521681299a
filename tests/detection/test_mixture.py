"""The two-component fit: known mixtures are found again, and what is no mixture is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.detection.mixture import fit

ROWS = 2000


def drawn(share: float, distance: float, wider: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    upper = rng.random(ROWS) < share
    return np.where(upper, rng.normal(distance, wider, ROWS), rng.normal(0, 1, ROWS)), upper


@settings(max_examples=12, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(6, 12), st.floats(0.5, 1.5), st.integers(0, 1000), st.floats(0.01, 100))
def test_a_known_mixture_is_found_again(share: float, distance: float, wider: float, seed: int, scale: float) -> None:
    x, upper = drawn(share, distance, wider, seed)
    found = fit(scale * x - scale)
    assert found.share == pytest.approx(upper.mean(), abs=max(0.02, 3 * found.error))
    assert found.error < 0.03
    assert found.means[0] / scale + 1 == pytest.approx(0, abs=0.3)
    assert found.means[1] / scale + 1 == pytest.approx(distance, abs=0.8)
    posterior = found.posterior(scale * x - scale)
    assert ((posterior > 0.5) == upper).mean() > 0.98
    assert found.separation > 2


@settings(max_examples=8, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(1, 8), st.floats(0.2, 4), st.integers(0, 1000))
def test_the_posterior_is_a_probability_that_never_falls(
    share: float, distance: float, wider: float, seed: int
) -> None:
    x, _ = drawn(share, distance, wider, seed)
    posterior = fit(x).posterior(np.linspace(-100, 100, 999))
    assert ((posterior >= 0) & (posterior <= 1)).all()
    assert (np.diff(posterior) >= -1e-12).all()


@pytest.mark.parametrize("seed", range(3))
def test_one_normal_component_is_not_two(seed: int) -> None:
    found = fit(np.random.default_rng(seed).normal(3, 2, ROWS))
    assert found.gain < 0.01  # a valley may be seen by chance, but it explains nothing


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 50, [np.nan, np.inf], [np.nan, 4.0, 4.0]])
def test_what_does_not_differ_has_no_components(values: list[float]) -> None:
    found = fit(np.array(values))
    assert (found.share, found.error, found.separation, found.gain) == (0, 0, 0, 0)


def test_the_same_numbers_give_the_same_fit() -> None:
    x, _ = drawn(0.3, 5, 1, 0)
    assert fit(x) == fit(x)
    assert fit(x) == fit(x[::-1])
