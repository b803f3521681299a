"""python -m tests.fuzz [--count N] [--only NAME]... [--seed S] [--keep FOLDER]; or --replay FILE --only NAME."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.runner import fuzz
from tests.fuzz.targets import BAD, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="inputs a reader")
    parser.add_argument(
        "--only", action="append", choices=list(TARGETS), help="this reader; can be given several times"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where inputs of findings go")
    parser.add_argument("--replay", type=Path, help="read this file once, here, and show what comes out")
    args = parser.parse_args()
    names = args.only or [name for name in TARGETS if name != BAD]
    if args.replay:
        print(TARGETS[names[0]].read(args.replay.read_bytes()))
        return 0
    bad = 0
    for name in names:
        (found,) = fuzz([name], args.count, args.seed, args.keep).values()
        bad += len(found.findings)
        print(f"{name:<12} {found}", flush=True)
        for what in found.findings:
            print(f"             {what}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
