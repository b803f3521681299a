"""Every kind of run with two checkouts on this machine, and every byte that they make compared.

    python -m tests.golden OLD NEW [--only NAME …] [--work DIR]

OLD and NEW are folders that hold a `raydvae` package. Processors round differently, so the sums of what is trained cannot
be kept with the tests: a change of structure is held against the version before it, on one machine. What notes times
and versions is left out (run.json, metrics, pages); outputs, rejected rows, models, flags and keys of steps are compared.
Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = ["--preset", "digits", "--width", "8", "--epochs", "2", "--batch", "32"]
NET = ["--surrogate-model", "small", "--surrogate-width", "4", "--surrogate-steps", "24", "--surrogate-batch", "16"]
RUNS: dict[str, list[str]] = {  # name, and the command that makes it; IN, PART and TEST are made first
    "purify": ["purify", "IN", "OUT", *SMALL],
    "purify-sample": ["purify", "IN", "OUT", *SMALL, "--train-rows", "60", "--kld1", "0.5", "--kld2", "2"],
    "lsp": ["poison", "lsp", "IN", "OUT"],
    "ops": ["poison", "ops", "IN", "OUT"],
    "ar": ["poison", "ar", "IN", "OUT", "--ratio", "0.5"],
    "em": ["poison", "em", "IN", "OUT", "--steps", "2", *NET],
    "em-class": ["poison", "em", "IN", "OUT", "--steps", "2", "--wise", "class", *NET],
    "rem": ["poison", "rem", "IN", "OUT", "--steps", "2", "--draws", "1", "--inner-steps", "1", *NET],
    "tap": ["poison", "tap", "IN", "OUT", "--steps", "3", *NET],
    "sep": ["poison", "sep", "IN", "OUT", "--steps", "2", "--inner-steps", "2", "--checkpoints", "2", *NET],
    "ntga": ["poison", "ntga", "IN", "OUT", "--steps", "2", "--t", "64", "--block-rows", "60", "--validation-rows", "10"],
    "bdr": ["defend", "bdr", "IN", "OUT"],
    "gray": ["defend", "gray", "IN", "OUT"],
    "jpeg": ["defend", "jpeg", "IN", "OUT"],
    "gaussian": ["defend", "gaussian", "IN", "OUT"],
    "median": ["defend", "median", "IN", "OUT"],
    "lfu": ["defend", "lfu", "IN", "OUT"],
    "vae": ["defend", "vae", "IN", "OUT", "--epochs", "2", "--width", "8", "--batch", "32"],
    "avatar": ["defend", "avatar", "IN", "OUT", "--train-on", "IN", "--epochs", "1", "--width", "8", "--batch", "32", "--steps", "2"],
    "detect": ["detect", "PART", "--out", "OUT/flags.parquet", "--work", "OUT/work", *SMALL, "--model-epochs", "2"],
    "flagged": ["purify", "PART", "OUT", *SMALL, "--only-flagged", "FLAGS"],
    "classify": ["classify", "IN", "--test", "TEST", "--out", "OUT", "--model", "small", "--epochs", "2"],
    "table": ["table", "2", "--data", "digits", "--out", "OUT", "--rows", "lsp", "--columns", "w/o"],
}  # fmt: skip
MADE_FIRST = {
    "IN": ["import", "digits", "OUT", "--format", "digits", "--split", "test", "--limit-per-class", "12"],
    "TEST": ["import", "digits", "OUT", "--format", "digits", "--split", "train", "--limit-per-class", "3"],
    "PART": ["poison", "lsp", "IN", "OUT", "--ratio", "0.4"],
}
KEPT = (".parquet", ".safetensors")
THREADS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def make(checkout: Path, work: Path, only: list[str]) -> dict[str, str]:
    """Make all runs with one checkout; return the sum of every file that is compared, by name."""
    work.mkdir(parents=True)
    for name, command in MADE_FIRST.items():
        call(checkout, work, name, command)
    flags = work / "flags.parquet"
    subprocess.run(
        [sys.executable, "-c", FLAGGED, str(work / "PART"), str(flags)], check=True, env=environment(checkout)
    )
    for name in only:
        call(checkout, work, name, RUNS[name])
    return {
        str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(work.rglob("*"))
        if path.suffix in KEPT
    } | {str(path.relative_to(work)): "" for path in sorted(work.glob("table/steps/*"))}


# Flags as others would write them: every second row that the poisoning says is poisoned.
FLAGGED = """
import sys, pyarrow.parquet as pq, pyarrow as pa
table = pq.read_table(sys.argv[1] + "/_raydvae/poison.parquet")
flagged = [bool(p) for p in table["poisoned"].to_pylist()]
pq.write_table(pa.table({"row_id": table["row_id"], "flagged": flagged}), sys.argv[2])
"""


def call(checkout: Path, work: Path, name: str, command: list[str]) -> None:
    """Run one command of a checkout."""
    places = {place: str(work / place) for place in MADE_FIRST} | {"OUT": str(work / name)}
    places |= {f"OUT/{part}": str(work / name / part) for part in ("work", "flags.parquet")}
    places["FLAGS"] = str(work / "flags.parquet")
    words = [places.get(word, word) for word in command]
    program = [sys.executable, "-m", "raydvae.cli.main", *words]
    (work / name).mkdir(exist_ok=True)
    done = subprocess.run(program, env=environment(checkout), capture_output=True, text=True, check=False, cwd=work)
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def environment(checkout: Path) -> dict[str, str]:
    """Return the environment in which ``raydvae`` is the checkout's."""
    return os.environ | THREADS | {"PYTHONPATH": str(checkout)}


def main() -> None:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--work", type=Path, help="keep what is made in this new folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        old = make(options.old.resolve(), work / "old", options.only)
        new = make(options.new.resolve(), work / "new", options.only)
    names = sorted(old.keys() | new.keys())
    differing = [name for name in names if old.get(name) != new.get(name)]
    print(json.dumps({"files": len(names), "differing": differing}, indent=1))
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
