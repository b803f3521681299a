"""A child process: reads inputs, one after another, and tells what came of each.

Before an input it writes its number to a file that outlives it, so that a crash or a hang has a culprit.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import sys
import traceback
import warnings
from pathlib import Path

from raydvae.errors import RaydvaeError
from tests.fuzz.targets import BAD, TARGETS, Target

NONE, DONE = 2**64 - 1, 2**64 - 2  # in place of an input's number
MEMORY = 2 * 2**30  # bytes of addresses above those at the start


def spoiled(target: Target, name: str, seed: int, number: int) -> bytes:
    """Return input ``number`` of a reader: the first ones are the valid files themselves."""
    seeds = target.seeds
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed} {name} {number}")
    return target.spoil(rng.choice(seeds), seeds, rng)


def outcome(target: Target, data: bytes) -> str:
    """Return "accepted", an error's class if it is one of ours, or "! " and what else came out."""
    try:
        target.read(data)
    except RaydvaeError as error:
        text = str(error)
        # One sentence or two: neither empty nor the whole of what a forged file holds.
        return type(error).__name__ if 10 < len(text) < 20_000 else f"! a message of {len(text)} characters"
    except target.allowed as error:
        return type(error).__name__
    except MemoryError:
        return f"! MemoryError {_where(sys.exc_info()[2])}"
    except Exception as error:
        return f"! {type(error).__name__}: {str(error)[:150]} {_where(error.__traceback__)}"
    return "accepted"


def _where(trace: object) -> str:
    frames = traceback.extract_tb(trace)  # type: ignore[arg-type]
    ours = [frame for frame in frames if "raydvae/" in frame.filename]
    frame = (ours or frames)[-1]
    return f"at {Path(frame.filename).name}:{frame.lineno}"


def main() -> None:
    names, count, seed, start, progress, results = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    every = [name for name in names.split(",") for _ in range(int(count))]
    warm = {BAD}
    with open("/proc/self/statm", encoding="ascii") as file:
        addresses = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(progress, "r+b", buffering=0) as now, open(results, "a", encoding="utf-8") as out:
        for number, name in list(enumerate(every))[int(start) :]:
            if name not in warm:  # imports and pools first: they are no finding
                now.seek(0)
                now.write(NONE.to_bytes(8, "little"))
                outcome(TARGETS[name], TARGETS[name].seeds[0])
                warm.add(name)
            now.seek(0)
            now.write(number.to_bytes(8, "little"))
            data = spoiled(TARGETS[name], name, int(seed), number % int(count))
            out.write(json.dumps([number, outcome(TARGETS[name], data)]) + "\n")
            out.flush()
        now.seek(0)
        now.write(DONE.to_bytes(8, "little"))


if __name__ == "__main__":
    main()
