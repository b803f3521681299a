"""Every attack, stopped by SIGKILL in its training and in its pass, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raydvae.attacks.registry import ATTACKS
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from tests.attacks.stopped import SMALL_CONFIGS, UNIT_ROWS, committed

ROWS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder an attack, with the data sets ``straight`` and ``killed``."""
    folder = tmp_path_factory.mktemp("runs")
    import_dataset("digits", Store(str(folder / "clean")), "digits", split="test", rows_per_shard=40, limit_per_class=6)
    # Threads of a library would not live on in a forked process.
    quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.stopped", str(folder / "clean"), str(folder)],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.parquet"), *folder.glob("_raydvae/*.parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_attack_is_tried_here() -> None:
    assert {name.split("-")[0] for name in SMALL_CONFIGS} == set(ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_CONFIGS)
def test_killed_in_its_training_and_in_its_pass_it_ends_with_the_same_bytes(name: str, runs: Path) -> None:
    straight, killed = runs / name / "straight", runs / name / "killed"
    assert len(committed(straight)) == ROWS // UNIT_ROWS
    expected = contents(straight)
    assert len(expected) == ROWS // UNIT_ROWS + 1
    assert "_raydvae/poison.parquet" in expected
    assert contents(killed) == expected
    assert [path.read_bytes() for path in committed(killed)] == [path.read_bytes() for path in committed(straight)]
    assert not (killed / "_raydvae/work/poison").exists(), "the parts of the table are left over"
    table = pq.read_table(killed / "_raydvae/poison.parquet")
    assert table["poisoned"].to_pylist() == [True] * ROWS
    bound = getattr(SMALL_CONFIGS[name], "norm", 1.0)
    assert 0 < max(table["norm"].to_pylist()) <= bound * (1 + 1e-6)
