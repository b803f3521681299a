"""Seconds of each step of a whole purification, by the command line's own code in a fresh process.

Prints one JSON object. `trained` is what the epochs themselves took, by the trainings' own clocks, and `computed` what
the models took in the passes, measured afterwards in this process on the same rows and cores; `overhead` is all the
rest: imports, Ray, reading, encoding, committing, the report.

    python benchmarks/purify.py [--data FOLDER] [--preset digits] [--width 12] [--epochs 2] [--workers 1] [--out FILE]

Without --data, scikit-learn's digits are imported first, which is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raydvae.config import from_dict, preset
from raydvae.data.classes import Classes
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import one_thread
from raydvae.machine import available_cores
from raydvae.purify.algorithm import Summary
from raydvae.purify.passes import Pass, ReconstructPass, SubtractPass
from raydvae.training.job import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--out", default="", help="write the JSON here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.data or f"{folder}/digits"
        if not args.data:
            import_dataset("digits", Store(source), "digits", rows_per_shard=500)
        options = ["--preset", args.preset, "--epochs", str(args.epochs), "--workers", args.workers]
        if args.width:
            options += ["--width", str(args.width)]
        took = command("purify", source, f"{folder}/out", *options)
        result = {**steps(Run(Store(f"{folder}/out")), took), "options": options, "cores": available_cores()}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


def command(*args: str) -> float:
    """Run the command line in a fresh process and return its seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "raydvae.cli.main", *args], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"raydvae {' '.join(args)} failed: {done.stderr}")
    return time.monotonic() - started


def steps(run: Run, took: float) -> dict[str, Any]:
    """Return where the ``took`` seconds of a finished purification went."""
    summary = Summary.load(run)
    trained = {
        name: sum(epoch_rows(run, name) / epoch["images_per_second"] for epoch in history)
        for name, history in summary.history.items()
    }
    computed = computing(run)
    return {
        "seconds": round(took, 2),
        "steps": {name: round(value, 2) for name, value in summary.seconds.items()},
        "trained": {name: round(value, 2) for name, value in trained.items()},
        "computed": {name: round(value, 2) for name, value in computed.items()},
        "overhead": round(took - sum(trained.values()) - sum(computed.values()), 2),
        "rows": summary.rows_out,
    }


def epoch_rows(run: Run, stage: str) -> int:
    known = run.read()["config"]
    return int(known["train_rows"] or Summary.load(run).rows_out)


def computing(run: Run) -> dict[str, float]:
    """Return the seconds that the models of a finished run take on all rows: of the source, as P1 is gone."""
    known = run.read()
    config = from_dict(preset(known["config"]["preset"]), known["config"])
    data = open_dataset(known["source"]["uri"], config.data)
    names = known["classes"]["names"]
    classes = Classes(known["classes"]["count"], names and tuple(names), data.schema.labels_are_text)
    device, cores = pick_device(), available_cores()
    seconds = {}
    for kind, name, stage in ((SubtractPass, "pass1", "stage1"), (ReconstructPass, "pass3", "stage2")):
        work: Pass = kind(name, run, data, classes, config, getattr(config, stage).model, run.home.sub(stage))
        work.load(device)
        seconds[name] = 0.0
        for unit in data.units():
            rows = work.read(unit)
            started = time.monotonic()
            with one_thread(device, cores):
                work.compute(rows)
            seconds[name] += time.monotonic() - started
    return seconds


if __name__ == "__main__":
    main()
