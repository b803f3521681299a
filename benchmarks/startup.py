"""What it takes to start: the command line, imports, inspecting, and the first purified image; where the seconds go.

Prints one JSON object. Each time is of a fresh process; the least of some runs.

    python benchmarks/startup.py [--rounds 3] [--quickstart] [--out FILE]

`first_image` purifies 60 digits with models that exist already: from the start of the command to the first file of the
output. --quickstart also runs `raydvae quickstart` and tells what of its time is neither training nor the models' own
work in the passes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from purify import command, steps

from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.machine import available_cores

POLL = 0.05
SHOWN = 12
CLASSIFIED = ("clean", "poisoned", "purified")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quickstart", action="store_true")
    parser.add_argument("--out", default="", help="write the JSON here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digits = f"{folder}/digits"
        import_dataset("digits", Store(digits), "digits", split="test", rows_per_shard=60, limit_per_class=6)
        inspect = ("-m", "raydvae.cli.main", "inspect", digits)
        result: dict[str, Any] = {
            "seconds": {
                "help": least(args.rounds, "-m", "raydvae.cli.main", "--help"),
                "inspect": least(args.rounds, *inspect),
                "python": least(args.rounds, "-c", "pass"),
                "import_numpy_pyarrow": least(args.rounds, "-c", "import numpy, pyarrow.parquet"),
                "import_torch": least(args.rounds, "-c", "import torch"),
                "import_torch_compiler": least(args.rounds, "-c", "import torch, torch._dynamo"),
                "import_ray_data": least(1, "-c", "import ray.data"),
            },
            "imports_of_inspect": imports(*inspect),
            "first_image": first_image(folder, digits),
            "cores": available_cores(),
        }
        if args.quickstart:
            result["quickstart"] = quickstart(f"{folder}/quickstart")
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def least(rounds: int, *args: str) -> float:
    """Return the least seconds of some runs of Python with ``args``."""
    took = []
    for _ in range(rounds):
        started = time.monotonic()
        subprocess.run([sys.executable, *args], env=environment(), check=True, capture_output=True)
        took.append(time.monotonic() - started)
    return round(min(took), 3)


def imports(*args: str) -> dict[str, float]:
    """Return the packages whose imports take longest, in seconds with all that they import."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args], env=environment(), check=True, capture_output=True, text=True
    )
    found = re.findall(r"import time:\s+\d+ \|\s+(\d+) \| +(\S+)", done.stderr)
    packages = {name: int(took) / 1e6 for took, name in found if "." not in name}
    return {name: round(packages[name], 3) for name in sorted(packages, key=lambda name: -packages[name])[:SHOWN]}


def first_image(folder: str, digits: str) -> dict[str, float]:
    """Return seconds until the first purified images are there, and until the command has ended."""
    command("purify", digits, f"{folder}/models", "--preset", "digits", "--epochs", "1", "--width", "4")
    out = Path(folder, "out")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "raydvae.cli.main", "purify", digits, str(out), "--models", f"{folder}/models"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(out.glob("*.parquet")) and process.poll() is None:
        time.sleep(POLL)
    first = time.monotonic() - started
    if process.wait():
        sys.exit("raydvae purify --models failed")
    return {"seconds": round(first, 2), "whole_command": round(time.monotonic() - started, 2)}


def quickstart(folder: str) -> dict[str, Any]:
    took = command("quickstart", "--out", folder)
    purified = steps(Run(Store(f"{folder}/purified")), took)
    rows = purified["rows"]
    classifying = 0.0
    for name in CLASSIFIED:
        lines = Path(folder, "classifiers", name, "metrics.jsonl").read_text().splitlines()
        classifying += sum(rows / json.loads(line)["images_per_second"] for line in lines)
    return {
        "seconds": round(took, 1),
        "trained": round(sum(purified["trained"].values()) + classifying, 1),
        "computed": round(sum(purified["computed"].values()), 1),
        "overhead": round(purified["overhead"] - classifying, 1),
        "steps": purified["steps"],
    }


if __name__ == "__main__":
    main()
