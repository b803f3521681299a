"""Seeds: the same for ever, and different for different streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydvae.seeds import derive


def test_golden_values() -> None:
    assert derive(0) == 4761921975702974394
    assert derive(0, "stage1", "init") == 4922852703012452241
    assert derive(7, "pass1", "train-0-r0000000000", 3) == 6074176166634912231
    assert derive(-1, "é") == 5897128731978769447


@given(st.integers(), st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3))
def test_seeds_fit_every_generator(seed: int, names: list[str | int]) -> None:
    value = derive(seed, *names)
    assert 0 <= value < 2**63
    assert value == derive(seed, *names)


def test_streams_differ() -> None:
    streams = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), ("a", 1, 1), (1, "a")]
    values = {derive(seed, *names) for seed in (0, 1, -1, 10, 2**70) for names in streams}
    assert len(values) == 5 * len(streams)
