from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.selection import _apportion, sample, select
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


@pytest.mark.parametrize("rows", [10, 37, 179, 180])
def test_a_sample_is_exact_in_number_stratified_and_the_same_for_any_units(digits_folder: Path, rows: int) -> None:
    found = []
    for unit_rows in (7, 40):
        data = open_dataset(str(digits_folder), DataConfig(unit_rows=unit_rows))
        classes = find_classes(data)
        chosen = sample(data, classes, rows, seed=3)
        taken: Counter[int] = Counter()
        ids = set()
        for unit in data.units():
            labels = classes.numbers(data.read(unit, columns=["label"]).column(0))
            mask = chosen.mask(unit.row_ids(), labels)
            taken.update(labels[mask].tolist())
            ids.update(row_id for row_id, is_in in zip(unit.row_ids(), mask, strict=True) if is_in)
        assert taken.total() == rows
        assert max(taken.values()) - min(taken.values()) <= 1  # 18 of each digit are there
        found.append(ids)
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", [0, 9, 181])
def test_a_sample_that_cannot_be_drawn_is_refused(digits_folder: Path, rows: int) -> None:
    data = open_dataset(str(digits_folder))
    with pytest.raises(ConfigError, match="between 10 and 180"):
        sample(data, find_classes(data), rows, seed=0)


@given(st.dictionaries(st.integers(0, 30), st.integers(1, 500), min_size=1), st.floats(0, 1))
def test_rows_are_shared_in_proportion(counts: dict[int, int], share: float) -> None:
    total = sum(counts.values())
    rows = max(len(counts), round(share * total))
    out = _apportion(counts, rows)
    assert sum(out.values()) == rows
    for label, count in counts.items():
        assert 1 <= out[label] <= count
        assert out[label] < rows * count / total + 1 or out[label] == 1
