from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits

from raydvae.attacks.base import Array

Labels = npt.NDArray[np.int64]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _digits() -> tuple[Array, Labels]:
    data = load_digits()
    small = np.rint(data.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    order = np.random.default_rng(0).permutation(len(images))
    return np.repeat(images[order][..., None], 3, axis=3), data.target[order].astype(np.int64)


@pytest.fixture
def digits() -> tuple[Array, Labels]:
    """scikit-learn's digits in a fixed random order: images (1797, 16, 16, 3) uint8 and labels."""
    return _digits()
