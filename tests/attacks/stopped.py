"""Every attack with small settings; and, as a program, every attack run undisturbed and run with two SIGKILLs.

    python -m tests.attacks.stopped CLEAN OUT

writes OUT/NAME/straight and OUT/NAME/killed for each attack. It imports torch once and forks a process a run: it has no
thread of its own that a fork could cut off.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset  # noqa: F401 - see main
import tensorboardX  # noqa: F401
import torch

from raydvae.attacks.configs import (
    ARConfig,
    EMConfig,
    LSPConfig,
    NTGAConfig,
    OPSConfig,
    REMConfig,
    SEPConfig,
    SurrogateConfig,
    TAPConfig,
)
from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.attacks.registry import AttackConfig
from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import InProcess

UNIT_ROWS = 5
SMALL = SurrogateConfig(model="small", width=2, steps=12, batch_size=16, lr=0.02)
SMALL_CONFIGS: dict[str, AttackConfig] = {
    "lsp": LSPConfig(),
    "ar": ARConfig(),
    "ops": OPSConfig(),
    "em": EMConfig(steps=2, surrogate=SMALL),
    "em-class": EMConfig(steps=2, wise="class", surrogate=SMALL),
    "rem": REMConfig(steps=2, draws=1, inner_steps=1, surrogate=SMALL),
    "tap": TAPConfig(steps=3, surrogate=SMALL),
    "sep": SEPConfig(steps=2, inner_steps=2, checkpoints=2, surrogate=SMALL),
    "ntga": NTGAConfig(steps=2, depth=2, t=64.0, block_rows=20, validation_rows=10),
}


def make(config: AttackConfig, data: Dataset, out: Path, engine: InProcess | None = None, ratio: float = 1.0) -> None:
    run = Run(Store(str(out)))
    recipe = Recipe(config, 32, 10, run.home)
    poison(recipe, data, find_classes(data), run, engine or InProcess(), ratio=ratio)


def has_state(out: Path) -> bool:
    return (out / "_raydvae/surrogate/state.safetensors").exists()


def committed(out: Path) -> list[Path]:
    return sorted((out / "_raydvae/commits/poison").glob("*.json"))


def start(config: AttackConfig, source: str, out: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.nice(10)  # so that the one who watches sees the moment to kill
        make(config, open_dataset(source, DataConfig(unit_rows=UNIT_ROWS)), out, InProcess(threads=1))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(config: AttackConfig, source: str, out: Path) -> None:
    _, status = os.waitpid(start(config, source, out), 0)
    assert status == 0, f"a run of {config} ended with status {status}"


def kill_when(reached: Callable[[], object], config: AttackConfig, source: str, out: Path) -> None:
    process = start(config, source, out)
    while not reached():
        ended, status = os.waitpid(process, os.WNOHANG)
        assert not ended, f"a run of {config} ended with status {status} before the moment to kill it came"
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"a run of {config} ended before it was killed"


def run(config: AttackConfig, source: str, folder: Path) -> None:
    finish(config, source, folder / "straight")
    out = folder / "killed"
    if hasattr(config, "surrogate"):
        kill_when(lambda: has_state(out), config, source, out)
        assert has_state(out), "the training was over before it was killed"
        assert not committed(out)
    kill_when(lambda: committed(out), config, source, out)
    before = {path: path.stat().st_mtime_ns for path in committed(out)}
    assert not (out / "_raydvae/poison.parquet").exists(), "the pass was over before it was killed"
    finish(config, source, out)
    assert len(before) < len(committed(out)), "the pass was over before it was killed"
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "a committed unit was done again"


def main() -> None:
    source, out = sys.argv[1:]
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # imports much, once and not in every process
    assert threading.active_count() == 1
    for name, config in SMALL_CONFIGS.items():
        started = time.monotonic()
        run(config, source, Path(out) / name)
        print(f"{name} {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
