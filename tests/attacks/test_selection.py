from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.attacks.selection import select
from raydvae.errors import ConfigError

Rows = list[tuple[str, int]]


def rows_of(labels: list[int]) -> Rows:
    return [(f"train.parquet#{place}", label) for place, label in enumerate(labels)]


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1), st.integers(0, 5), st.booleans(), st.randoms())
def test_the_count_is_exact_and_the_order_of_rows_does_not_matter(
    labels: list[int], ratio: float, seed: int, stratified: bool, shuffle: random.Random
) -> None:
    rows = rows_of(labels)
    chosen = select(rows, ratio, seed, stratified)
    assert len(chosen) == math.floor(ratio * len(rows) + 0.5)
    assert chosen <= {row_id for row_id, _ in rows}
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    assert select(shuffled, ratio, seed, stratified) == chosen


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1))
def test_stratified_takes_the_same_share_of_every_class(labels: list[int], ratio: float) -> None:
    rows = rows_of(labels)
    chosen = select(rows, ratio, 0, stratified=True)
    taken = Counter(label for row_id, label in rows if row_id in chosen)
    for label, count in Counter(labels).items():
        assert abs(taken[label] - ratio * count) < 1


def test_a_larger_ratio_keeps_the_rows_of_a_smaller_one_and_seeds_differ() -> None:
    rows = rows_of([place % 10 for place in range(1000)])
    assert select(rows, 0.2, 0) < select(rows, 0.4, 0)
    assert len(select(rows, 0.2, 0) & select(rows, 0.2, 1)) < 80  # 40 are expected of 200


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_of_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        select([], ratio, 0)
