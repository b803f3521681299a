"""The first thing a newcomer runs, as they run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_quickstart_shows_what_it_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raydvae.cli.main", "quickstart", "--out", str(tmp_path / "qs"), "--seed", "3"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["clean_acc"] >= 95
    assert result["poisoned_acc"] <= 40
    assert result["purified_acc"] >= 90
    page = Path(result["report"]).read_text()
    assert "Clean data" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for line in done.stderr.splitlines():
        assert "Traceback" not in line
