"""From evidence to a decision, with trials whose outcome is known."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.detection.mixture import Mixture
from raydvae.detection.rules import Evidence, paper, shortcut
from raydvae.detection.trial import FEWEST_ROWS, MOST_ROWS, NONE, Trial, drawn, marked, measured, quotas

ROWS = 600
SHORTCUT = Trial(classes=10, suspects=0.95, others=0.12, control=0.9, error=0.02)
LEARNABLE = Trial(classes=10, suspects=0.95, others=0.8, control=0.9, error=0.02)


def table(share: float, seed: int, distance: float = 8.0) -> tuple[pa.Table, np.ndarray]:
    """Rows some of which have a larger residual; nothing else tells them apart."""
    rng = np.random.default_rng(seed)
    poisoned = rng.random(ROWS) < share
    residual = np.exp(rng.normal(-9, 0.3, ROWS) + 0.3 * distance * poisoned)
    columns = {"residual": residual, "peak": np.exp(rng.normal(-1, 0.3, ROWS))}
    columns |= {name: rng.normal(0, 1, ROWS) for name in ("margin", "early", "without", "log_p")}
    return pa.table(columns), poisoned


@settings(max_examples=5, deadline=None)
@given(st.floats(0.1, 0.9), st.integers(0, 1000))
def test_rows_that_stand_out_and_fail_the_trial_are_flagged(share: float, seed: int) -> None:
    rows, poisoned = table(share, seed)
    judged = shortcut(rows, lambda name, suspects: SHORTCUT if name == "residual" else LEARNABLE)
    assert (judged.flagged == poisoned).mean() > 0.99
    assert judged.share == pytest.approx(poisoned.mean(), abs=max(0.02, 3 * judged.share_error))
    assert ((judged.score >= 0) & (judged.score <= 1)).all()
    assert judged.verdict.startswith(f"about {100 * judged.share:.0f} % ±")


@pytest.mark.parametrize("trial", [LEARNABLE, NONE])
def test_rows_that_stand_out_but_teach_what_others_do_are_clean(trial: Trial) -> None:
    asked: list[tuple[str, float]] = []

    def attempt(name: str, suspects: np.ndarray) -> Trial:
        asked.append((name, suspects.mean()))
        return trial

    rows, poisoned = table(0.4, 0)
    judged = shortcut(rows, attempt)
    assert judged.verdict == "clean"
    assert not judged.flagged.any() and not judged.score.any()
    assert asked[0] == ("residual", pytest.approx(poisoned.mean(), abs=0.01))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
def test_where_nothing_stands_out_nothing_is_tried(seed: int, share: float) -> None:
    def attempt(name: str, suspects: np.ndarray) -> Trial:
        raise AssertionError(f"{name} was tried")

    assert shortcut(table(share, seed)[0], attempt).verdict == "clean"


@pytest.mark.parametrize(
    ("separation", "gain", "share", "lacking"),
    [
        (2.5, 0.1, 0.4, ""),
        (1.9, 0.1, 0.4, "a separation above 2"),
        (2.5, 0.0123, 0.4, "0.02 nats better than one component, not by 0.012"),
        (2.5, 0.1, 0.999, "more than 0.5 % of the rows each"),
        (math.nan, 0.1, 0.4, "a separation above 2"),
    ],
)
def test_the_page_says_what_two_components_lack(separation: float, gain: float, share: float, lacking: str) -> None:
    mixture = Mixture(share=share, error=0.0, means=(0.0, 1.0), deviations=(1.0, 1.0), separation=separation, gain=gain)
    evidence = Evidence(name="peak", axis="", values=np.zeros(3), mixture=mixture)
    assert evidence.lacking.endswith(lacking) and bool(evidence.lacking) is bool(lacking)
    assert evidence.stands_out is (not lacking)


def test_rows_that_are_all_the_same_are_clean() -> None:
    same = pa.table({name: np.ones(9) for name in ("residual", "peak", "margin", "early", "without", "log_p")})
    assert shortcut(same, lambda name, suspects: SHORTCUT).verdict == "clean"


def test_the_papers_rule_is_a_prediction() -> None:
    rows = pa.table({"margin": [2.0, -1.0, 0.5, -0.1], "log_p": np.log([0.9, 0.2, 0.6, 0.4])})
    judged = paper(rows)
    assert judged.flagged.tolist() == [True, False, True, False]
    np.testing.assert_allclose(judged.score, [0.9, 0.2, 0.6, 0.4])
    assert judged.share == 0.5


@pytest.mark.parametrize(
    ("suspects", "others", "control", "error", "unlearnable"),
    [
        (0.95, 0.12, 0.90, 0.02, True),
        (0.70, 0.60, 0.90, 0.02, True),
        (0.95, 0.75, 0.90, 0.02, False),  # what suspects teach carries over
        (0.12, 0.12, 0.90, 0.02, False),  # nobody can learn the suspects: noise, or wrong labels
        (0.95, 0.10, 0.12, 0.02, False),  # nor the others
        (0.95, 0.12, 0.30, 0.09, False),  # too few rows to tell
    ],
)
def test_unlearnable_means_learned_and_of_no_use_elsewhere(
    suspects: float, others: float, control: float, error: float, unlearnable: bool
) -> None:
    trial = Trial(classes=10, suspects=suspects, others=others, control=control, error=error)
    assert trial.unlearnable is unlearnable
    assert not NONE.unlearnable


@given(st.integers(0, 2**31), st.integers(1, 5), st.floats(0, 1))
def test_both_sides_of_a_trial_have_as_many_rows_of_each_class(seed: int, classes: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    labels, half = rng.integers(0, classes, 200), rng.integers(0, 2, 200)
    suspects, order = rng.random(200) < share, rng.permutation(200)
    counts = quotas(labels, suspects, half, classes)
    assert ((counts == 0) | ((counts >= FEWEST_ROWS) & (counts <= MOST_ROWS))).all()
    assert ((counts[0] > 0) == (counts[1] > 0)).all()
    for number in (0, 1):
        for side in (suspects, ~suspects):
            among = side & (half == number)
            chosen = drawn(order, among, labels, counts[number])
            assert not (chosen & ~among).any()
            assert np.bincount(labels[chosen], minlength=classes).tolist() == counts[number].tolist()


def test_accuracies_are_means_over_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    suspects = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1], bool)
    by_suspects = np.array([1, 0, 0, 1, 1, 0, 0, 0, 1], bool)
    by_others = np.array([0, 0, 1, 1, 0, 1, 0, 0, 0], bool)
    trial = measured(labels, suspects, np.array([0, 1]), by_suspects, by_others)
    assert (trial.classes, trial.suspects, trial.others) == (2, (0.5 + 1) / 2, (0.5 + 0) / 2)
    assert trial.control == pytest.approx((1 + 1 / 3) / 2)
    assert trial.error == pytest.approx(np.sqrt((0.25 / 2 + 2 / 9 / 3) / 4))


def test_chosen_rows_become_a_selection_by_id() -> None:
    ids = ["a.parquet#0", "a.parquet#9", "b#c.parquet#1"]
    chosen = marked(ids, np.array([False, True, True]))
    assert chosen.mask([*ids, "a.parquet#8", "b#c.parquet#0"]).tolist() == [False, True, True, False, False]
    assert chosen.fingerprint != marked(ids, np.array([True, True, True])).fingerprint
