"""Shapes of JSON: what fits passes, what does not is said by its place."""

from __future__ import annotations

from typing import Any

import pytest

from raydvae.data.shapes import COUNT, NUMBER, WHOLE, check_shape, mismatch
from raydvae.errors import DataError

SHAPE = {
    "name": str,
    "size": COUNT,
    "note?": (None, str),
    "rows": [COUNT],
    "pair?": [str, COUNT],
    "seconds": {"": NUMBER},
    "any?": {},
    "ids?": [WHOLE],
}
GOOD: dict[str, Any] = {"name": "a", "size": 3, "rows": [0, 1], "seconds": {"x": 0.5, "y": 2}}


def test_what_fits_passes() -> None:
    for more in (
        {},
        {"any": {"x": 1}},
        {"note": None},
        {"note": "x"},
        {"pair": ["a", 1]},
        {"other": [None]},
        {"rows": []},
        {"ids": [0, 2**70]},
    ):
        assert mismatch(GOOD | more, SHAPE) == ""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "it is a list and not an object"),
        (None, "it is null and not an object"),
        ({}, "name is missing"),
        (GOOD | {"name": 1}, "name is 1 and not a text"),
        (GOOD | {"size": True}, "size is true or false and not a whole number"),
        (GOOD | {"size": -1}, "size is -1 and not a whole number"),
        (GOOD | {"size": 2**70}, "size is 1180591620717411303424 and not a whole number"),
        (GOOD | {"size": 10**9999}, "size is a huge number and not a whole number"),
        (GOOD | {"size": 1.5}, "size is 1.5 and not a whole number"),
        (GOOD | {"note": 1}, "note is 1 and not a text"),
        (GOOD | {"any": True}, "any is true or false and not an object"),
        (GOOD | {"rows": {}}, "rows is an object and not a list"),
        (GOOD | {"rows": [0, "1"]}, r"rows\[1\] is a text and not a whole number"),
        (GOOD | {"pair": ["a"]}, "pair has 1 entries and not 2"),
        (GOOD | {"pair": ["a", None]}, r"pair\[1\] is null and not a whole number"),
        (GOOD | {"ids": [-1]}, r"ids\[0\] is -1 and not a whole number"),
        (GOOD | {"ids": [True]}, r"ids\[0\] is true or false and not a whole number"),
        (GOOD | {"seconds": {"x": "1"}}, "seconds.x is a text and not a number"),
    ],
)
def test_what_does_not_is_said_by_its_place(value: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"^F is damaged or not ours: {says}\. Do so\.$"):
        check_shape(value, SHAPE, "F", "Do so.")
