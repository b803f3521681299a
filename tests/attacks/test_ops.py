from __future__ import annotations

import itertools

import numpy as np
import pytest

from raydvae.attacks.configs import OPSConfig
from raydvae.attacks.ops import COLORS, OPS, OPSStatistics
from raydvae.errors import ConfigError, DataError


def random_rows(rows: int = 40, size: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8), rng.integers(0, classes, rows)


def gather(images: np.ndarray, labels: np.ndarray, classes: int) -> OPSStatistics:
    statistics = OPSStatistics.empty(images.shape[1], classes)
    statistics.update(images, labels)
    return statistics


def test_pixels_are_those_of_the_exhaustive_search() -> None:
    images, labels = random_rows()
    attack = OPS(OPSConfig(), gather(images, labels, 3))
    taken: set[tuple[int, ...]] = set()
    for label in range(3):
        own = images[labels == label] / 255
        best, best_score = (0,), -1.0
        for y, x, color in itertools.product(range(5), range(5), range(8)):
            change = np.abs(COLORS[color] / 255 - own[:, y, x])
            score = change.mean() / change.std()
            if (y, x, color) not in taken and score > best_score:
                best, best_score = (y, x, color), score
        taken.add(best)
        y, x, color = best
        assert tuple(attack.pixels[label]) == (y, x)
        assert tuple(attack.colors[label]) == tuple(COLORS[color])


def test_statistics_do_not_depend_on_how_the_rows_are_split() -> None:
    images, labels = random_rows()
    whole = gather(images, labels, 3)
    merged = OPSStatistics.empty(5, 3)
    for part in (slice(25, 40), slice(0, 7), slice(7, 25)):
        merged.merge(gather(images[part], labels[part], 3))
    assert np.array_equal(whole.sums, merged.sums)
    assert np.array_equal(whole.squares, merged.squares)
    assert np.array_equal(whole.count, merged.count)
    assert np.array_equal(OPS(OPSConfig(), whole).pixels, OPS(OPSConfig(), merged).pixels)


def test_a_pixel_that_never_varies_is_the_best_and_one_that_would_not_change_the_worst() -> None:
    images, labels = random_rows()
    images[:, 2, 3] = 0
    scores = gather(images, labels, 3).scores(0)
    assert scores[2, 3, 7] == np.inf
    assert scores[2, 3, 0] == 0


def test_noise_sets_one_pixel_to_the_color_of_the_class() -> None:
    images, labels = random_rows()
    attack = OPS(OPSConfig(), gather(images, labels, 3))
    noise = attack.noise(images, labels, [""] * len(images))
    poisoned = np.rint(images + noise * 255)
    for image, label in zip(poisoned, labels, strict=True):
        assert tuple(image[tuple(attack.pixels[label])]) == tuple(attack.colors[label])
    assert ((noise != 0).any(axis=3).sum(axis=(1, 2)) <= 1).all()


def test_any_number_of_classes_gets_different_pairs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    attack = OPS(OPSConfig(), gather(images, np.arange(400) % 100, 100))
    pairs = {(*pixel, *color) for pixel, color in zip(attack.pixels.tolist(), attack.colors.tolist(), strict=True)}
    assert len(pairs) == 100


def test_wrong_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        OPS(OPSConfig(), OPSStatistics.empty(4, 1))
    with pytest.raises(ConfigError, match="larger images"):
        OPS(OPSConfig(), OPSStatistics.empty(1, 9))
    with pytest.raises(DataError, match="statistics are of images"):
        OPSStatistics.empty(4, 2).update(np.zeros((1, 5, 5, 3), np.uint8), np.zeros(1, np.int64))
