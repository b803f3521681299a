from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.attacks.selection import select
from raydvae.errors import ConfigError

Rows = list[tuple[str, int]]


def rows_of(labels: list[int]) -> Rows:
    return [(f"train.parquet#{place}", label) for place, label in enumerate(labels)]


def chosen(rows: Rows, ratio: float, seed: int, stratified: bool = False) -> set[str]:
    mask = select(rows, ratio, seed, stratified).mask([name for name, _ in rows], np.array([y for _, y in rows], int))
    return {name for (name, _), poisoned in zip(rows, mask, strict=True) if poisoned}


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1), st.integers(0, 5), st.randoms())
def test_the_count_is_exact_and_the_order_of_rows_does_not_matter(
    labels: list[int], ratio: float, seed: int, shuffle: random.Random
) -> None:
    rows = rows_of(labels)
    found = chosen(rows, ratio, seed)
    assert len(found) == math.floor(ratio * len(rows) + 0.5)
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    assert chosen(shuffled, ratio, seed) == found


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1))
def test_stratified_takes_the_same_share_of_every_class(labels: list[int], ratio: float) -> None:
    rows = rows_of(labels)
    found = chosen(rows, ratio, 0, stratified=True)
    taken = Counter(label for row_id, label in rows if row_id in found)
    for label, count in Counter(labels).items():
        assert taken[label] == math.floor(ratio * count + 0.5)


def test_a_larger_ratio_keeps_the_rows_of_a_smaller_one_and_seeds_differ() -> None:
    rows = rows_of([place % 10 for place in range(1000)])
    assert chosen(rows, 0.2, 0) < chosen(rows, 0.4, 0)
    assert len(chosen(rows, 0.2, 0) & chosen(rows, 0.2, 1)) < 80  # 40 are expected of 200


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_of_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        select([], ratio, 0)
