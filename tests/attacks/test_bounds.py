"""After `apply`, the stored bytes keep the bound: any seed, image and label, every attack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.attacks.ar import AR
from raydvae.attacks.base import Attack, apply, measure
from raydvae.attacks.configs import ARConfig, LSPConfig, OPSConfig
from raydvae.attacks.lsp import LSP
from raydvae.attacks.ops import OPS, OPSStatistics

SIZE, CLASSES = 8, 3
KINDS = ("flat", "random", "extreme")


def images_of(seed: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (3, SIZE, SIZE, 3)
    if kind == "flat":
        return np.broadcast_to(rng.integers(0, 256, (3, 1, 1, 1), dtype=np.uint8), shape).copy()
    if kind == "extreme":
        return rng.choice(np.array([0, 1, 254, 255], dtype=np.uint8), shape)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def assert_bound_holds(attack: Attack, images: np.ndarray, labels: list[int], seed: int) -> None:
    noise = attack.noise(images, np.array(labels), [f"rows#{seed + place}" for place in range(len(images))])
    assert noise.shape == images.shape
    assert noise.dtype == np.float32
    poisoned = apply(images, noise, attack.bound)
    change = (poisoned.astype(np.float64) - images) / 255
    assert measure(change, attack.bound.norm).max() <= attack.bound.size * (1 + 1e-9)


three_labels = st.lists(st.integers(0, CLASSES - 1), min_size=3, max_size=3)


@pytest.mark.parametrize("norm", [1 / 255, 1.0, 4.0])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), labels=three_labels)
@settings(max_examples=40, deadline=None)
def test_lsp(norm: float, seed: int, kind: str, labels: list[int]) -> None:
    attack = LSP(LSPConfig(norm=norm, patch=4, seed=seed), SIZE, CLASSES)
    assert_bound_holds(attack, images_of(seed, kind), labels, seed)


AR_ATTACK = AR(ARConfig(min_response=0.5), SIZE, CLASSES)


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), labels=three_labels)
@settings(max_examples=40, deadline=None)
def test_ar(seed: int, kind: str, labels: list[int]) -> None:
    assert_bound_holds(AR_ATTACK, images_of(seed, kind), labels, seed)


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), labels=three_labels)
@settings(max_examples=40, deadline=None)
def test_ops(seed: int, kind: str, labels: list[int]) -> None:
    images = images_of(seed, kind)
    statistics = OPSStatistics.empty(SIZE, CLASSES)
    statistics.update(images, np.array(labels))
    assert_bound_holds(OPS(OPSConfig(), statistics), images, labels, seed)
