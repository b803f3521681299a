"""More than one worker on this machine: a Ray cluster of the command's own, as a user gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.purify.test_algorithm import hashes


@pytest.mark.ray
def test_two_workers_give_the_bytes_of_one(digits_folder: Path, tmp_path: Path) -> None:
    # Without what the tests set for their own cluster: this one has a token of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for workers in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "raydvae.cli.main",
            "defend",
            "gray",
            str(digits_folder),
            str(tmp_path / workers),
        ]
        done = subprocess.run(
            [*command, "--workers", workers, "--json"],
            capture_output=True, text=True, timeout=300, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)  # all of stdout
        assert (result["rows_in"], result["rows_out"]) == (180, 180)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
