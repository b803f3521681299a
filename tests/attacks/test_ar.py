from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from raydvae.attacks.ar import AR, response, scan
from raydvae.attacks.configs import ARConfig
from raydvae.errors import ConfigError


@cache
def attack(classes: int = 3) -> AR:
    return AR(ARConfig(), 16, classes)


def test_the_diagonal_scan_equals_the_raster_scan() -> None:
    rng = np.random.default_rng(0)
    fields = rng.standard_normal((2, 3, 12, 12))
    coefficients = rng.standard_normal((2, 3, 3, 3)) / 4
    expected = fields.copy()
    for image in range(2):
        for channel in range(3):
            for i in range(10):
                for j in range(10):
                    window = expected[image, channel, i : i + 3, j : j + 3].copy()
                    window[2, 2] = 0
                    expected[image, channel, i + 2, j + 2] = (window * coefficients[image, channel]).sum()
    coefficients[:, :, 2, 2] = 99  # the last entry is no part of a process
    np.testing.assert_allclose(scan(fields, coefficients), expected, rtol=1e-12)


def test_processes_have_the_published_properties() -> None:
    coefficients = AR(ARConfig(), 32, 10).coefficients
    assert coefficients.shape == (10, 3, 3, 3)
    np.testing.assert_allclose(coefficients.sum(axis=(2, 3)), 1)
    assert (coefficients[:, :, 2, 2] == 0).all()


def test_filters_answer_to_other_processes_but_not_to_their_own() -> None:
    ar = attack()
    labels = np.arange(3)
    noise = ar.noise(np.zeros((3, 16, 16, 3), np.uint8), labels, ["a", "b", "c"]).transpose(0, 3, 1, 2)
    answers = response(ar.coefficients, noise.astype(np.float64))
    own = np.diag(answers)
    assert (own < 1e-4).all()  # float32 of the stored noise
    assert (answers[np.triu_indices(3, 1)] > 1).all()
    np.testing.assert_allclose(np.sqrt(np.square(noise).sum(axis=(1, 2, 3))), 1, rtol=1e-5)


def test_a_row_has_the_same_noise_in_any_company() -> None:
    images = np.zeros((4, 16, 16, 3), np.uint8)
    labels = np.array([0, 1, 2, 1])
    together = attack().noise(images, labels, list("abcd"))
    alone = attack().noise(images[:1], labels[3:], ["d"])
    assert np.array_equal(together[3], alone[0])
    assert not np.array_equal(together[1], together[3])  # one process, but noise of its own for every row


def test_too_few_classes_and_unreachable_responses_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        AR(ARConfig(), 16, 1)
    with pytest.raises(ConfigError, match="lower min_response"):
        AR(ARConfig(max_norm=1e-6), 8, 2)
