"""Runs children over the inputs of readers, and goes on behind an input that ended or stopped one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import DONE, NONE, spoiled
from tests.fuzz.targets import TARGETS

HANG = 5.0  # seconds, of one input
START = 120.0  # seconds that a child may take before its first input


@dataclass
class Found:
    """What came of the inputs of one reader."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        fine = ", ".join(f"{count} {what}" for what, count in self.outcomes.most_common() if what[:1] != "!")
        bad = [sum(count for what, count in self.outcomes.items() if what.startswith(sign)) for sign in KINDS]
        rest = ", ".join(f"{count} {what}" for count, what in zip(bad, KINDS.values(), strict=True))
        return f"{sum(self.outcomes.values())} inputs: {fine or 'none fine'}; {rest}"


KINDS = {"!crash": "crashes", "!hang": "hangs", "! ": "other exceptions"}


def fuzz(names: Sequence[str], count: int, seed: int, keep: Path, hang: float = HANG) -> dict[str, Found]:
    """Give ``count`` inputs to each reader, in one child as long as it lives; findings' inputs are kept in ``keep``."""
    found = {name: Found() for name in names}
    start = 0

    def note(number: int, what: str) -> None:
        name = names[number // count]
        found[name].outcomes[what if what[:1] != "!" else what.split()[0] if what[1] != " " else "! other"] += 1
        if what[:1] == "!":
            _keep(found[name], keep, name, seed, number % count, what)

    with tempfile.TemporaryDirectory() as folder:
        progress, results = Path(folder) / "progress", Path(folder) / "results"
        while start < count * len(names):
            progress.write_bytes(NONE.to_bytes(8, "little"))
            results.write_bytes(b"")
            arguments = [",".join(names), str(count), str(seed), str(start), str(progress), str(results)]
            with (Path(folder) / "errors").open("wb") as errors:
                command = [sys.executable, "-m", "tests.fuzz.child", *arguments]
                child = subprocess.Popen(command, stderr=errors, env=os.environ | {"TMPDIR": folder})
                ended = _watch(child, progress, hang)
            for number, what in map(json.loads, results.read_text("utf-8").splitlines()):
                note(number, what)
            if not ended:
                break
            culprit = _number(progress)
            if culprit in (NONE, DONE):
                text = (Path(folder) / "errors").read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"The child for {names} ended with {ended} at no input:\n{text}")
            note(culprit, f"!{ended}")
            start = culprit + 1
    return found


def _watch(child: subprocess.Popen[bytes], progress: Path, hang: float) -> str:
    """Wait for a child; return "" where it did all, else how it ended."""
    last, since = NONE, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(0.1)
            return f"crash with {code}" if code else ""
        now = _number(progress)
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > (START if last in (NONE, DONE) else hang):
            child.kill()
            child.wait()
            return "hang"


def _number(progress: Path) -> int:
    return int.from_bytes(progress.read_bytes(), "little")


def _keep(found: Found, keep: Path, name: str, seed: int, number: int, what: str) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"{name}-{seed}-{number}"
    path.write_bytes(spoiled(TARGETS[name], name, seed, number))
    found.findings.append(f"{os.fspath(path)}: {what[1:].strip()}")
