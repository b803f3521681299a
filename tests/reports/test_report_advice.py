"""The advice points in the direction of section 3.5: PSNR grows with the KLD target."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.config import cifar10, to_dict
from raydvae.reports.advice import judge

STAGE1 = to_dict(cifar10())["stage1"]


@given(st.floats(1, 60), st.floats(0.95, 1.05))
def test_direction(psnr: float, kld: float) -> None:
    advice = judge("stage1", STAGE1, {"psnr": psnr, "kld": kld})
    if psnr < 20:
        assert advice.status == "low" and "Raise stage1.loss.kld_target (now 1)" in advice.text
    elif psnr > 22:
        assert advice.status == "high" and "Lower stage1.loss.kld_target (now 1)" in advice.text
    else:
        assert advice.status == "good" and "Nothing to change" in advice.text


@pytest.mark.parametrize(
    ("psnr", "kld", "first", "absent"),
    [
        (15.0, 0.5, "train longer (stage1.train.epochs)", "Raise stage1"),
        (15.0, 9.0, "train longer (stage1.train.epochs)", "Raise stage1"),
        (25.0, 0.5, "below 0.50", "rate_weight"),
        (25.0, 2.0, "raise stage1.loss.rate_weight", "Lower"),
    ],
)
def test_where_the_target_did_not_decide(psnr: float, kld: float, first: str, absent: str) -> None:
    text = judge("stage1", STAGE1, {"psnr": psnr, "kld": kld}).text
    assert first in text and absent not in text


@pytest.mark.parametrize("last", [None, {}, {"psnr": math.nan, "kld": 1.0}, {"psnr": math.inf, "kld": 1.0}])
def test_unknown(last: dict[str, float] | None) -> None:
    assert judge("stage1", STAGE1, last).status == "unknown"
