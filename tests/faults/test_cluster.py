"""What a cluster can lose while it purifies; all of it in one run, because clusters start slowly. See battered.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.purify.algorithm import Summary, purify
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROJECT = Path(__file__).parents[2]
EPOCHS = 4


@dataclass(frozen=True)
class Outcome:
    out: Path
    marks: Path
    straight: Path


@pytest.fixture(scope="module")
def outcome(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("battered")
    out, marks, straight = folder / "out", folder / "marks", folder / "straight"
    marks.mkdir()
    # Not with -m: what workers unpickle must not be of a module called __main__.
    program = "from tests.faults.battered import main; main()"
    command = [sys.executable, "-c", program, *map(str, (digits_folder, out, marks, EPOCHS))]
    # What raydvae.distributed.environment sets for a cluster of its own; Ray reads it when it is imported.
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    # Where the dead node is not noticed yet, Ray Train waits for it this long before it goes on with what is left.
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "25"
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-5000:]
    data = open_dataset(str(digits_folder), small_config(EPOCHS).data)
    purify(data, find_classes(data), Store(str(straight)), small_config(EPOCHS))
    return Outcome(out, marks, straight)


@pytest.mark.parametrize(
    "hit", ["pass1.actor", "pass3.actor", "commit", "train-worker", "node-in-training", "node-in-pass"]
)
def test_it_was_hit_and_ends_with_the_bytes_of_an_undisturbed_run(hit: str, outcome: Outcome) -> None:
    assert (outcome.marks / hit).exists(), "this test did not test anything"
    assert hashes(outcome.out) == hashes(outcome.straight)
    assert not [path for path in outcome.out.rglob("*") if path.name.startswith(".tmp-")]


def test_all_rows_are_accounted_for_and_little_was_done_twice(outcome: Outcome) -> None:
    from raydvae.data.manifest import Run

    summary = Summary.load(Run(Store(str(outcome.out))))
    assert (summary.complete, summary.rows_in, summary.rows_out) == (True, 180, 180)
    first = Counter((outcome.marks / "pass1.computed").read_text().split())
    # Two processes died in pass 1; each may cost the unit it worked on, and those that waited in it.
    assert len(first) == 6
    assert sum(first.values()) <= 6 + 2 * 2
    assert [line["epoch"] for line in summary.history["stage1"]] == list(range(EPOCHS))
