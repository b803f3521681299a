from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.errors import ConfigError
from raydvae.tuning.search import LIMITS, Bisect, Search, monotone
from raydvae.tuning.strategies import build, restore

MOST = 40  # trials that a search of a test may take: far more than it should


class Response:
    """PSNR in dB as a monotone function of the KLD target that flattens at both ends, with bounded noise."""

    def __init__(self, floor: float, rise: float, middle: float, steepness: float, noise: float, seed: int) -> None:
        self.floor, self.rise, self.middle, self.steepness, self.noise = floor, rise, middle, steepness, noise
        self.random = random.Random(seed)

    def true(self, kld: float) -> float:
        return self.floor + self.rise / (1 + math.exp(-self.steepness * (math.log(kld) - self.middle)))

    def measured(self, kld: float) -> float:
        return self.true(kld) + self.random.uniform(-self.noise, self.noise)


responses = st.builds(
    Response,
    floor=st.floats(8, 22),
    rise=st.floats(4, 25),
    middle=st.floats(-2, 2.5),
    steepness=st.floats(0.4, 2.5),
    noise=st.floats(0, 0.2),
    seed=st.integers(0, 10**6),
)


def run(search: Search, response: Response) -> int:
    rounds = 0
    while asked := search.ask():
        rounds += 1
        assert rounds <= MOST
        assert len(asked) <= search.width
        for kld in reversed(asked):  # trials end in any order
            assert LIMITS[0] <= kld <= LIMITS[1]
            search.tell(kld, response.measured(kld))
    return rounds


@settings(max_examples=200, deadline=None)
@given(
    response=responses, low=st.floats(12, 34), size=st.floats(1.6, 4), width=st.integers(1, 4), start=st.floats(0.1, 8)
)
def test_the_window_is_found_or_told_to_be_out_of_reach(
    response: Response, low: float, size: float, width: int, start: float
) -> None:
    search = Bisect(window=(low, low + size), start=start, width=width, trials=MOST)
    rounds = run(search, response)
    verdict = search.verdict()
    worst, best = response.true(LIMITS[0]), response.true(LIMITS[1])
    assert verdict.found != bool(verdict.unreachable), (verdict, search.told)
    if best < low - response.noise or worst > low + size + response.noise:
        assert verdict.unreachable
        assert verdict.reach == (min(search.told.values()), max(search.told.values()))
    elif worst < low - response.noise and best > low + response.noise + size / 2:
        assert verdict.found, (verdict.unreachable, search.told)
    if verdict.found:
        assert verdict.target is not None
        assert low - response.noise <= response.true(verdict.target) <= low + size + response.noise
    assert rounds <= 12, "a bracket shrinks in every round"


def test_responses_like_those_of_a_dvae_take_at_most_eight_trials() -> None:
    taken = []
    for seed in range(100):
        draw = random.Random(seed)
        response = Response(12, 24, draw.uniform(-0.5, 2), draw.uniform(0.5, 1.2), 0.15, seed)
        search = Bisect(window=(20, 22), start=draw.choice([0.5, 1.0, 3.0]), width=2, trials=MOST)
        run(search, response)
        assert search.verdict().found
        taken.append(len(search.told))
    assert max(taken) <= 8, taken


@pytest.mark.parametrize("strategy", ["bisect", "grid", "random"])
def test_a_search_goes_on_from_its_state_at_any_moment(strategy: str) -> None:
    def response() -> Response:
        return Response(12, 24, 1, 0.8, 0, 0)

    straight = build(strategy, window=(20.0, 22.0), width=3, trials=9, seed=3)
    run(straight, response())
    stopped = build(strategy, window=(20.0, 22.0), width=3, trials=9, seed=3)
    while asked := stopped.ask():
        stopped = restore(json.loads(json.dumps(stopped.state())))
        assert stopped.ask() == asked, "a round is asked for until it is told"
        stopped.tell(asked[0], response().measured(asked[0]))
        stopped = restore(json.loads(json.dumps(stopped.state())))
    assert stopped.state() == straight.state()
    assert stopped.verdict() == straight.verdict()


def test_a_budget_that_ends_leaves_no_target() -> None:
    search = Bisect(window=(20, 22), start=0.1, trials=2)
    run(search, Response(12, 24, 1, 0.8, 0, 0))
    assert len(search.told) == 2
    assert not search.verdict().found
    assert not search.verdict().unreachable


def test_a_leap_over_the_window_is_said() -> None:
    search = Bisect(window=(20, 22), trials=MOST)
    while asked := search.ask():
        for kld in asked:
            search.tell(kld, 15.0 if kld < 1.7 else 25.0)
    assert "leaps 15.00 to 25.00 dB" in search.verdict().unreachable


def test_monotone_pools_neighbors_out_of_order() -> None:
    assert monotone({1.0: 20, 2.0: 23, 4.0: 21, 8.0: 25}) == ([1, 2, 4, 8], [20, 22, 22, 25])


@pytest.mark.parametrize("window", [(22, 20), (20, 20), (-1, 20), (0, 20), (math.nan, 20), (20, math.inf)])
def test_windows_that_make_no_sense_are_refused(window: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="smaller one first"):
        Bisect(window=window)


def test_only_what_was_asked_for_is_taken() -> None:
    search = Bisect(window=(20, 22))
    with pytest.raises(ConfigError, match="not asked for"):
        search.tell(1.0, 21)
    (kld,) = search.ask()
    with pytest.raises(ConfigError, match="finite"):
        search.tell(kld, math.nan)


def test_unknown_and_missing_searches_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(ConfigError, match="choose one of bisect, grid, random, optuna"):
        build("anneal", window=(20.0, 22.0))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydvae\[tune\]'"):
        build("optuna", window=(20.0, 22.0))


def test_optuna_finds_the_window_where_it_is_installed() -> None:
    pytest.importorskip("optuna")
    search = build("optuna", window=(20.0, 22.0), width=2, trials=30, seed=1)
    run(search, Response(12, 24, 1, 0.8, 0, 0))
    assert search.verdict().found
    assert restore(json.loads(json.dumps(search.state()))).verdict() == search.verdict()
