"""Limits of containers, read from files as the kernel writes them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydvae.machine import available_cores, available_memory, cpu_quota, memory_limit


def tree(folder: Path, mine: str, files: dict[str, str]) -> tuple[Path, Path]:
    (folder / "mine").write_text(mine)
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "mine", folder / "fs"


@pytest.mark.parametrize(
    ("mine", "files", "cores", "memory"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 2**30),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, math.inf, math.inf),
        # The limit of a group around ours counts, too.
        ("0::/pod/box\n", {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000", "pod/memory.max": "7"}, 2, 7),
        ("0::/pod\n", {"other/cpu.max": "100000 100000", "other/memory.max": "1"}, math.inf, math.inf),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {
                "cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "9",
            },
            4,
            9,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf, math.inf),
        ("nonsense\n\n::\n", {"cpu.max": "a b c"}, math.inf, math.inf),
    ],
)  # fmt: skip
def test_limits(mine: str, files: dict[str, str], cores: float, memory: float, tmp_path: Path) -> None:
    here = tree(tmp_path, mine, files)
    assert cpu_quota(*here) == cores
    assert memory_limit(*here) == memory


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) == memory_limit(tmp_path / "none", tmp_path) == math.inf


def test_affinity_counts() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert 2**20 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import raydvae.machine as m; "
    done = subprocess.run(
        [sys.executable, "-c", program + "print(m.available_cores())"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
