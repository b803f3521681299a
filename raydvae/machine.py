"""What of this machine a process may use: its cores and memory, less what affinity and containers take away."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MINE = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the cores that this process may run on: at least 1, parts of one not counted."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def available_memory() -> int:
    """Return the bytes of memory that this process may have."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_limit()))


def cpu_quota(mine: Path = MINE, cgroups: Path = CGROUPS) -> float:
    """Return how many cores' time control groups (1 or 2) allow; infinity without a limit."""
    found = [math.inf]
    for folder in _folders(mine, cgroups, "cpu"):
        found.append(_ratio(_words(folder / "cpu.max")))
        found.append(_ratio([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]))
    return min(found)


def memory_limit(mine: Path = MINE, cgroups: Path = CGROUPS) -> float:
    """Return how many bytes of memory control groups (1 or 2) allow; infinity without a limit."""
    found = [math.inf]
    for folder in _folders(mine, cgroups, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            found += [float(word) for word in _words(folder / name) if word.isdecimal()]
    return min(found)


def _folders(mine: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """Iterate over the folders of this process' groups and of all groups around them."""
    for line in _lines(mine):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" or controller in controllers.split(","):
            root = cgroups if number == "0" else cgroups / controller
            here = root / path.lstrip("/")
            yield from (folder for folder in (here, *here.parents) if folder == root or root in folder.parents)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _ratio(words: list[str]) -> float:
    """Return quota / period; infinity where there is none ("max", -1)."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or words[1] == "0":
        return math.inf
    return int(words[0]) / int(words[1])
