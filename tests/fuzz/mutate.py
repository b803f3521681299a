"""Spoiling of valid bytes: the same from the same generator."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

EDGES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 2**70, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\x00", "\ud800", "../..", "/", "s3://x/y", "x" * 3000, "1", "true", "\x1b[31m", "é\n图"),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3], {"x": {"y": []}}, [[0, 1], [2, 3]], [["a", 0, 1]]),
]


def spoil(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return ``data`` with up to six changes, half of them near its ends, where headers and footers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not out:
            break
        at = _place(len(out), rng)
        match rng.randrange(9):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:  # a number of some width, at the edge of a type
                width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
                number = rng.choice(EDGES) % 2 ** (8 * width)
                out[at : at + width] = number.to_bytes(width, order)
            case 3:
                del out[at : at + rng.choice((1, 1, 2, 4, 16, 256))]
            case 4:
                out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 16)))
            case 5:  # a part again, elsewhere
                size = rng.choice((1, 4, 16, 64, 512))
                out[_place(len(out), rng) : at] = out[at : at + size]
            case 6:
                other = rng.choice(others)
                start = _place(len(other), rng) if other else 0
                out[at:] = other[start:] if rng.random() < 0.3 else other[start : start + 64] + out[at + 64 :]
            case 7:
                out = out[:at] if rng.random() < 0.5 else out[at:]
            case _:  # one byte, many times
                size = rng.choice((1, 8, 64, 1024))
                out[at : at + size] = bytes([rng.choice((0, 0x28, 0x5B, 0x7F, 0x80, 0xFF))]) * size
    return bytes(out[: 2**20])


def spoil_json(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a JSON text in which some value is another or gone; or the text spoiled as bytes."""
    if rng.random() < 0.25:
        return spoil(data, others, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _spoil_value(value, rng)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _spoil_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        out = value.copy()
        choice = rng.random()
        if choice < 0.15:
            del out[key]
        elif choice < 0.25 and isinstance(out, dict):
            out[rng.choice(("", "x", "0", "-1", "unit", str(key) * 2))] = rng.choice(VALUES)
        elif choice < 0.25:
            out.append(rng.choice([*VALUES, out[key]]))
        else:
            out[key] = _spoil_value(value[key], rng)
        return out
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value - 1, value * 1000, str(value), float(value)))
    return rng.choice(VALUES)


def _place(size: int, rng: random.Random) -> int:
    if not size:
        return 0
    near = min(size, rng.choice((16, 64, 512)))
    return rng.choice((rng.randrange(size), rng.randrange(size), rng.randrange(near), size - 1 - rng.randrange(near)))
