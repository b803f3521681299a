"""SIGTERM and SIGKILL at random moments; `tests.faults.storm` at a length for every day."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "signals"),
    [("defend", ["--terms", "25", "--kills", "5"]), ("purify", ["--terms", "4", "--kills", "3"])],
)
def test_stopped_anywhere_it_ends_with_the_same_bytes(command: str, signals: list[str]) -> None:
    program = [sys.executable, "-m", "tests.faults.storm", "--only", command, *signals, "--workers", "0"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=550, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    stopped = sum(count for place, count in report["fell"].items() if "was over" not in place)
    assert stopped >= report["signals"]
