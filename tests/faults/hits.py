"""Work whose processes end themselves by SIGKILL.

A module of its own without torch: processes that read and commit import it, and not torch where nothing is computed.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydvae.data.rows import Rows
from raydvae.data.units import Unit

if TYPE_CHECKING:
    import torch

    from raydvae.engine import Record, UnitWork


def die_once(mark: Path) -> None:
    """End this process as the kernel would end it, the first time."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Hit:
    """Work whose processes die: the actor before it has computed a unit, the committer between file and record."""

    work: UnitWork
    marks: Path
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.work.name

    def read(self, unit: Unit) -> Rows:
        return self.work.read(unit)

    def load(self, device: torch.device) -> None:
        self.work.load(device)

    def compute(self, rows: Rows) -> Any:
        with open(self.marks / f"{self.name}.computed", "a", encoding="utf-8") as file:
            file.write(rows.unit.id + "\n")
        if not rows.unit.id.endswith("r0000000000"):
            die_once(self.marks / f"{self.name}.actor")
        return self.work.compute(rows)

    def commit(self, rows: Rows, result: Any) -> Record:
        if self.name == "pass1" and not rows.unit.id.endswith("r0000000000"):
            mark = self.marks / "commit"
            if not mark.exists():
                self.work.run.publish(self.work.data, rows, result[0], "_raydvae/work/p1")  # type: ignore[attr-defined]
                die_once(mark)
        return self.work.commit(rows, result)
