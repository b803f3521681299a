"""As a program: every data transform run undisturbed and run with SIGKILLs.

    python -m tests.defenses.stopped CLEAN OUT

writes OUT/NAME/straight and OUT/NAME/killed for each. It imports torch once and forks a process a run: it has no thread
of its own that a fork could cut off.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.dataset  # noqa: F401 - imported before a fork, once, as what trainings need
import tensorboardX  # noqa: F401
import torch

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.defenses.configs import DEFENSES, DefenseConfig
from raydvae.defenses.defending import LINEAR, STEP, defend
from raydvae.defenses.purifiers import FOLDER
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.training.checkpoint import MODEL

UNIT_ROWS = 10
SMALL = {
    "vae": {"epochs": 1, "width": 4, "batch": 30},
    "ae": {"epochs": 1, "width": 4, "batch": 30},
    "avatar": {"epochs": 1, "width": 8, "batch": 30, "steps": 2},
}


def settings(name: str, clean: str) -> DefenseConfig:
    """The published settings of a defense, but for models, which are small."""
    given = {"train_on": clean} if name == "avatar" else {}
    return DEFENSES[name](**SMALL.get(name, {}), **given)  # type: ignore[arg-type]


class Nice(InProcess):
    """Gives way to others while it works on units, so that the one who watches sees the moment to kill."""

    def __init__(self, nice: int) -> None:
        super().__init__(threads=1)
        self.nice = nice

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        os.nice(self.nice)
        yield from super().map(work, units)


def make(config: DefenseConfig, data: Dataset, out: Path, nice: int = 0) -> dict[str, int]:
    return defend(config, data, find_classes(data), 32, Run(Store(str(out))), Nice(nice))


def committed(out: Path) -> list[Path]:
    return sorted((out / f"_raydvae/commits/{STEP}").glob("*.json"))


def start(config: DefenseConfig, source: str, out: Path, nice: int = 0) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        make(config, open_dataset(source, DataConfig(unit_rows=UNIT_ROWS)), out, nice)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(config: DefenseConfig, source: str, out: Path) -> None:
    _, status = os.waitpid(start(config, source, out), 0)
    assert status == 0, f"a run of {config} ended with status {status}"


def kill_at_first_commit(config: DefenseConfig, source: str, out: Path) -> None:
    process = start(config, source, out, nice=10)
    while not committed(out):
        ended, status = os.waitpid(process, os.WNOHANG)
        assert not ended, f"a run of {config} ended with status {status} before the moment to kill it came"
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"a run of {config} ended before it was killed"


def run(config: DefenseConfig, source: str, folder: Path) -> None:
    finish(config, source, folder / "straight")
    out = folder / "killed"
    kill_at_first_commit(config, source, out)
    made = [*committed(out), *out.glob(f"_raydvae/{LINEAR}"), *out.glob(f"_raydvae/{FOLDER}/{MODEL}")]
    before = {path: path.stat().st_mtime_ns for path in made}
    finish(config, source, out)
    assert len(before) < len(committed(out)), "the pass was over before it was killed"
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "something was done again"


def main() -> None:
    source, out = sys.argv[1:]
    torch.zeros(1).softmax(0)
    assert threading.active_count() == 1
    for name in DEFENSES:
        run(settings(name, source), source, Path(out) / name)


if __name__ == "__main__":
    main()
