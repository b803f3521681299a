"""Signals at random moments of every step, then the same command again: the bytes must be an undisturbed run's.

    python -m tests.faults.storm [--kills 200] [--terms 50] [--workers 20] [--only COMMAND …] [--seed 0]

``--kills`` SIGKILLs and ``--terms`` SIGTERMs are spread over the steps of a purification (also of a data set with rows
that cannot be used), of a poison and of a defense, each run as the command line runs it, in a forked process.
``--workers`` more SIGKILLs fall on the driver or on one of two Ray workers of passes on a cluster. Prints where the
signals fell, as JSON; the exit code is 1 if a byte differed, a row was lost or a process did not stop.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import tensorboardX  # noqa: F401
import torch

import raydvae.cli.main
import raydvae.distributed.engine
from raydvae import stopping
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from raydvae.errors import Interrupted

HANGS = 120.0  # seconds after which a process that was asked to stop has not
SMALL = ["--preset", "digits", "--width", "8", "--epochs", "3", "--batch", "32", "--workers", "1"]
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {  # and its steps, with what --until calls them
    "purify": (
        ["purify", "IN", "OUT", *SMALL],
        {"stage1": "stage1", "pass1": "pass1", "stage2": "stage2", "pass3": ""},
    ),
    "poison": (["poison", "lsp", "IN", "OUT", "--workers", "1"], {"poison": ""}),
    "defend": (["defend", "bdr", "IN", "OUT", "--workers", "1"], {"defend": ""}),
}


@dataclass
class Step:
    """A part of a command: what it begins from, how long it takes, and the command that ends with it."""

    name: str
    args: list[str]
    start: Path
    seconds: float = 0.0


@dataclass
class Storm:
    """Steps with the bytes that they must end with, and what happened so far."""

    folder: Path
    rng: random.Random
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    steps: list[tuple[str, Step, list[str]]] = field(default_factory=list)  # command, step, arguments to its end
    fell: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def prepare(self, source: Path, commands: Sequence[str]) -> None:
        """Run each command undisturbed, and keep what is there before each of its steps."""
        for command in commands:
            words, steps = COMMANDS[command]
            self._prepare(command, [str(source) if word == "IN" else word for word in words], steps)

    def _prepare(self, command: str, args: list[str], steps: dict[str, str]) -> None:
        straight = self.folder / f"{command}-straight"
        for name, until in steps.items():
            start = self.folder / f"{command}-before-{name}"
            if straight.exists():
                shutil.copytree(straight, start)
            step = Step(name, [*args, *(["--until", until] if until else [])], start)
            began = time.monotonic()
            assert wait(launch(step.args, straight)) == 0, straight.with_suffix(".log").read_text()
            step.seconds = time.monotonic() - began
            self.steps.append((command, step, args))
        self.expected[command] = bytes_of(straight)

    def strike(self, which: signal.Signals, count: int) -> None:
        """Send ``count`` signals: up to three to a command before it may end."""
        while count > 0:
            command, step, args = self.steps[(count + self.rng.randrange(2)) % len(self.steps)]
            out = self.folder / f"{command}-struck"
            if step.start.exists():
                shutil.copytree(step.start, out)
            for _ in range(self.rng.randint(1, 3)):
                process = launch(step.args, out)
                time.sleep(self.rng.uniform(0.0, 1.05 * step.seconds))
                began = time.monotonic()
                os.kill(process, which)
                code = wait(process)
                self.slowest = max(self.slowest, time.monotonic() - began)
                early = code == -signal.SIGTERM and not log(out)  # before the command could listen
                stopped = early or code == (-which if which == signal.SIGKILL else Interrupted.exit_code)
                self.fell[f"{command} {step.name if stopped else 'was over'}{where(out) if stopped else ''}"] += 1
                if not stopped and code != 0:
                    self.wrong.append(f"{command} {step.name}: exit code {code}: {log(out)}")
                count -= stopped
            self._finish(command, args, out)
            print(f"{which.name}: {max(0, count)} are left", file=sys.stderr, flush=True)

    def _finish(self, command: str, args: list[str], out: Path) -> None:
        code = wait(launch(args, out))
        if code != 0:
            self.wrong.append(f"{command}: the same command again ended with {code}: {log(out)}")
        found = bytes_of(out)
        if found != self.expected[command]:
            changed = sorted(set(found.items()) ^ set(self.expected[command].items()))
            self.wrong.append(f"{command}: other bytes: {changed[:4]}")
        shutil.rmtree(out)


def launch(args: list[str], out: Path) -> int:
    """Run a command in a forked process; return its id."""
    out.with_suffix(".log").unlink(missing_ok=True)
    command = raydvae.cli.main.parse([str(out) if arg == "OUT" else arg for arg in args])  # slow: not in the child
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with open(out.with_suffix(".log"), "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        _note_where(out)
        os.nice(5)
        code = raydvae.cli.main.guarded(lambda: command.run() or 0)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def _note_where(out: Path) -> None:
    """Have the handler of SIGTERM write which of our functions it was called in."""
    handler: Callable[[int, FrameType | None], None] = stopping._stop

    def noted(signum: int, frame: FrameType | None) -> None:
        each, names = frame, []
        while each is not None:
            if "/raydvae/" in each.f_code.co_filename:
                names.append(each.f_code.co_name)
            each = each.f_back
        out.with_suffix(".where").write_text(names[0] if names else "start")
        handler(signum, frame)

    stopping._stop = noted


def wait(process: int) -> int:
    """Return the exit code of a process, or the negated signal that ended it; a process that hangs is killed."""
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return 124


def where(out: Path) -> str:
    """Return what the last SIGTERM noted."""
    note = out.with_suffix(".where")
    if not note.exists():
        return ""
    text = note.read_text()
    note.unlink()
    return f" in {text}"


def log(out: Path) -> str:
    """Return the end of what the last process said."""
    file = out.with_suffix(".log")
    return file.read_text()[-400:] if file.exists() else ""


def bytes_of(out: Path) -> dict[str, str]:
    """Return the sums of a run's outputs and rejected rows, by name."""
    files = [*out.glob("*.parquet"), *(out / "_raydvae/rejected").rglob("*.parquet")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def make_source(folder: Path) -> Path:
    """Write 180 real digits, of which one cannot be decoded, to 15 files."""
    whole = folder / "whole"
    import_dataset("digits", Store(str(whole)), "digits", split="test", limit_per_class=18)
    table = pq.read_table(next(whole.glob("*.parquet")))
    images = table["image"].to_pylist()
    images[77] = {"bytes": b"no image", "path": None}
    field = table.schema.field("image")
    table = table.set_column(0, field, pa.array(images, field.type))
    source = folder / "source"
    source.mkdir()
    for number in range(15):
        pq.write_table(table.slice(12 * number, 12), source / f"{number:02d}.parquet")
    return source


@contextmanager
def in_process() -> Iterator[None]:
    """Have passes of any length done in the command's own process: starting Ray for each would take minutes."""
    before = raydvae.distributed.engine.FEW_UNITS
    raydvae.distributed.engine.FEW_UNITS = 10**9
    try:
        yield
    finally:
        raydvae.distributed.engine.FEW_UNITS = before


def strike_cluster(storm: Storm, count: int) -> None:
    """SIGKILL drivers of passes on two Ray workers, or one of the workers, at random moments."""
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    there = ["--address", ray.get_runtime_context().gcs_address]
    steps = [entry for entry in storm.steps if entry[1].name in ("pass1", "pass3")]
    for index in range(count):
        command, step, args = steps[index % len(steps)]
        out = storm.folder / "cluster-struck"
        shutil.copytree(step.start, out)
        words = [str(out) if arg == "OUT" else arg for arg in step.args]
        words[words.index("--workers") + 1] = "2"
        with open(out.with_suffix(".log"), "w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "raydvae.cli.main", *words, *there], stdout=file, stderr=file
            )
            commits = out / f"_raydvae/commits/{step.name}"
            target = storm.rng.randint(0, 13)
            while process.poll() is None and len(list(commits.glob("*.json"))) < target:
                time.sleep(0.01)
            workers = _actors() if index % 4 >= 2 else []
            victim = storm.rng.choice(workers) if workers else process.pid
            kind = "worker" if workers else "driver"
            if process.poll() is None:
                os.kill(victim, signal.SIGKILL)
                storm.fell[f"{step.name} on two Ray workers: {kind}"] += 1
            else:
                storm.fell[f"{step.name} on two Ray workers: was over"] += 1
            if kind == "worker" and process.wait(600) != 0:
                storm.wrong.append(f"{step.name} on Ray after a worker's death: {log(out)}")
            process.wait(600)
        storm._finish(command, args, out)
    ray.shutdown()


def _actors() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--terms", type=int, default=50)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="write the JSON here too")
    options = parser.parse_args()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # imports much, once and not in every process
    with tempfile.TemporaryDirectory() as folder, in_process():
        storm = Storm(Path(folder), random.Random(options.seed))
        storm.prepare(make_source(Path(folder)), options.only)
        storm.strike(signal.SIGTERM, options.terms)
        slowest = storm.slowest
        storm.strike(signal.SIGKILL, options.kills)
        if options.workers:
            strike_cluster(storm, options.workers)
    report = {
        "signals": options.kills + options.terms + options.workers,
        "fell": dict(sorted(storm.fell.items())),
        "slowest_stop_seconds": round(slowest, 2),
        "wrong": storm.wrong,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")
    sys.exit(bool(storm.wrong))


if __name__ == "__main__":
    main()
