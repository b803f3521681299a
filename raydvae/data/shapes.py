"""What JSON from a folder must look like before anything is done with it: a shape is a value of types.

    {"name": str, "size": COUNT, "note?": (None, str), "rows": [COUNT], "seconds": {"": NUMBER}}

is an object with these fields, of which those with a question mark may be missing and others may be there too. A
tuple lists alternatives, a list of one shape is a list of such values, a list of several is one of that length, and
the field "" stands for all other fields.
"""

from __future__ import annotations

import json
from typing import Any

from raydvae.errors import DataError

COUNT, NUMBER = int, float  # a whole number from 0 to 2^53; any number, or none that is finite
WHOLE = "a whole number"  # from 0, of any size: labels may be ids of 64 bits and more
Shape = Any


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; `ValueError` if it is none, or nested as nobody nests."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_shape(value: Any, shape: Shape, where: str, remedy: str) -> None:
    """Raise `DataError`, which names ``where`` and ends in ``remedy``, if ``value`` is not of ``shape``."""
    if found := mismatch(value, shape):
        raise DataError(f"{where} is damaged or not ours: {found}. {remedy}")


def mismatch(value: Any, shape: Shape, place: str = "") -> str:
    """Return what of ``value`` is not of ``shape``, or nothing."""
    if isinstance(shape, tuple):
        wrong = [mismatch(value, each, place) for each in shape]
        return wrong[-1] if all(wrong) else ""
    if isinstance(shape, list):
        return _items(value, shape, place)
    if isinstance(shape, dict):
        return _fields(value, shape, place)
    if shape is None:
        return "" if value is None else _wrong(value, "null", place)
    if shape is COUNT:
        return "" if type(value) is int and 0 <= value < 2**53 else _wrong(value, "a whole number", place)
    if shape is WHOLE:
        return "" if type(value) is int and value >= 0 else _wrong(value, "a whole number", place)
    if shape is NUMBER:
        sound = type(value) is float or (type(value) is int and abs(value) < 2**53)
        return "" if sound else _wrong(value, "a number", place)
    return "" if isinstance(value, shape) else _wrong(value, "a text" if shape is str else shape.__name__, place)


def _items(value: Any, shape: list[Shape], place: str) -> str:
    if not isinstance(value, list):
        return _wrong(value, "a list", place)
    if len(shape) > 1 and len(value) != len(shape):
        return f"{place} has {len(value)} entries and not {len(shape)}".lstrip(".")
    for at, item in enumerate(value):
        if found := mismatch(item, shape[at if len(shape) > 1 else 0], f"{place}[{at}]"):
            return found
    return ""


def _fields(value: Any, shape: dict[str, Shape], place: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, "an object", place)
    known = {name.rstrip("?"): each for name, each in shape.items()}
    for name in shape:
        if name and not name.endswith("?") and name not in value:
            return f"{place}.{name} is missing".lstrip(".")
    for name, item in value.items():
        each = known.get(name, known.get(""))
        if each is not None and (found := mismatch(item, each, f"{place}.{name}")):
            return found
    return ""


def _wrong(value: Any, expected: str, place: str) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    kind = kinds.get(type(value))
    text = kind or (repr(value) if not isinstance(value, int) or abs(value) < 2**200 else "a huge number")
    return f"{place.lstrip('.')[:80] or 'it'} is {text} and not {expected}"
