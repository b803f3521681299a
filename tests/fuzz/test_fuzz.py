"""A short run of the harness: no reader lets anything out but our own errors. The long one is `python -m tests.fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.mutate import spoil, spoil_json
from tests.fuzz.runner import fuzz
from tests.fuzz.targets import BAD, TARGETS

COUNT = 100


def test_nothing_but_our_errors_comes_out(tmp_path: Path) -> None:
    readers = [name for name in TARGETS if name != BAD]
    found = fuzz([BAD, *readers], COUNT, 0, tmp_path, hang=10)  # slow machines are slow at times
    for name in readers:
        assert not found[name].findings, "\n".join(found[name].findings)
        assert sum(found[name].outcomes.values()) == COUNT
        assert found[name].outcomes["accepted"] > 0, f"{name}: no valid file is read, so nothing is tested"
    bad = {what for what in found[BAD].outcomes if what.startswith("!")}
    assert bad == {"!crash", "!hang", "! other"}, "a reader that misbehaves is not found"
    assert sum(found[BAD].outcomes.values()) == COUNT
    kept = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert kept == [b"crash", b"exception", b"hang", b"memory"]


def test_inputs_are_a_function_of_the_seed() -> None:
    for name in ("npy", "run"):
        seeds = TARGETS[name].seeds
        some = [
            [TARGETS[name].spoil(seeds[0], seeds, random.Random(f"{seed}")) for _ in range(9)] for seed in (1, 1, 2)
        ]
        assert some[0] == some[1] != some[2]
    assert spoil(b"x" * 100, [b"y"], random.Random(0)) == spoil(b"x" * 100, [b"y"], random.Random(0))
    assert spoil_json(b"{}", [b"[]"], random.Random(3)) == spoil_json(b"{}", [b"[]"], random.Random(3))
