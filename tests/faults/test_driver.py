"""SIGKILL of the driver in each step, with passes on a cluster that outlives it; then the same command again.

Where no pass is to be killed the command works without the cluster: a driver on it takes long to start, and going on
elsewhere than where it was begun must not change a byte.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raydvae.cli.purify import Purify, result
from raydvae.config import sized
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.distributed.engine import FEW_UNITS
from raydvae.purify.algorithm import purify
from tests.purify.test_algorithm import hashes

pytestmark = pytest.mark.ray
SETTINGS = [
    "--preset", "digits", "--width", "4", "--epochs", "6", "--batch", "16", "--unit-rows", "30", "--workers", "1",
]  # fmt: skip

UNITS = 6
ENOUGH = UNITS - FEW_UNITS  # committed; one worker computes the others itself


def command(source: Path, out: Path, on_ray: bool) -> list[str]:
    there: list[str] = []
    if on_ray:
        import ray

        # The tests' own cluster: a new one for each driver would take longer than its work.
        there = ["--address", ray.get_runtime_context().gcs_address]
    return [sys.executable, "-m", "raydvae.cli.main", "purify", str(source), str(out), *SETTINGS, *there, "--json"]


def finish(source: Path, out: Path) -> dict[str, object]:
    done = subprocess.run(command(source, out, False), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def undisturbed(source: Path, out: Path) -> dict[str, object]:
    """The same in this process: what it makes is what a cluster makes (tests/ray/test_parity.py)."""
    command = Purify(str(source), str(out), preset="digits", width=4, epochs=6, batch=16, unit_rows=30)
    config = sized(command.settings(), 10, 32)
    data = open_dataset(str(source), config.data)
    return result(purify(data, find_classes(data), Store(str(out)), config), "")


def kill_when(source: Path, out: Path, reached: Callable[[], bool], on_ray: bool = False) -> None:
    process = subprocess.Popen(command(source, out, on_ray), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "the run ended before the moment to kill it came"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_each_step_it_ends_with_the_same_bytes(
    digits_folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    source, straight, out = digits_folder, tmp_path / "straight", tmp_path / "killed"
    expected = undisturbed(source, straight)
    home = out / "_raydvae"

    def done(step: str) -> int:
        return len(list(home.glob(f"commits/{step}/*.json")))

    kill_when(source, out, lambda: (home / "stage1/state.safetensors").exists())
    assert not (home / "stage1/model.safetensors").exists()

    kill_when(source, out, lambda: done("pass1") >= ENOUGH, on_ray=True)
    committed = sorted(home.glob("commits/pass1/*.json"))
    assert ENOUGH <= len(committed) < UNITS
    before = {path: path.stat().st_mtime_ns for path in committed}

    kill_when(source, out, lambda: (home / "stage2/state.safetensors").exists())
    assert not (home / "stage2/model.safetensors").exists()
    assert before == {path: path.stat().st_mtime_ns for path in committed}, "a committed unit was done again"

    kill_when(source, out, lambda: done("pass3") >= ENOUGH, on_ray=True)
    assert list(out.glob("*.parquet"))
    assert done("pass3") < UNITS

    result = finish(source, out)
    assert hashes(out) == hashes(straight)
    for key in ("rows_in", "rows_out", "rows_rejected", "stage1_psnr", "stage2_psnr", "stage1_kld", "stage2_kld"):
        assert result[key] == expected[key], key
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    shutil.rmtree(straight)
