"""A short run of the harness: no reader lets anything out but our own errors. The long one is `python -m tests.fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.mutate import spoil, spoil_json
from tests.fuzz.runner import fuzz
from tests.fuzz.targets import BAD, TARGETS


@pytest.mark.parametrize("name", [name for name in TARGETS if name != BAD])
def test_nothing_but_our_errors_comes_out(name: str, tmp_path: Path) -> None:
    (found,) = fuzz([name], 150, 0, tmp_path, hang=60).values()  # slow machines hang for a while
    assert not found.findings, "\n".join(found.findings)
    assert sum(found.outcomes.values()) == 150
    assert found.outcomes["accepted"] > 0, "no valid file is read: the harness tests nothing"


def test_inputs_are_a_function_of_the_seed() -> None:
    for name in ("npy", "run"):
        seeds = TARGETS[name].seeds
        some = [
            [TARGETS[name].spoil(seeds[0], seeds, random.Random(f"{seed}")) for _ in range(9)] for seed in (1, 1, 2)
        ]
        assert some[0] == some[1] != some[2]
    assert spoil(b"x" * 100, [b"y"], random.Random(0)) == spoil(b"x" * 100, [b"y"], random.Random(0))
    assert spoil_json(b"{}", [b"[]"], random.Random(3)) == spoil_json(b"{}", [b"[]"], random.Random(3))


def test_what_goes_wrong_is_found_and_kept(tmp_path: Path) -> None:
    found = fuzz([BAD], 6, 0, tmp_path, hang=1)[BAD]
    assert {what for what in found.outcomes if what.startswith("!")} == {"!crash", "!hang", "! other"}
    assert len(found.findings) == 4
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"crash", b"exception", b"hang", b"memory"]
