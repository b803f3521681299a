from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raydvae.data import lease as lease_module
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.errors import DataError, StorageError
from raydvae.purify.algorithm import purify
from raydvae.reports import status as module
from raydvae.reports.status import lines, status
from tests.conftest import small_config


class Looks(InProcess):
    """An engine that looks at the run after each unit of a pass, and fails after some."""

    def __init__(self, out: Path, step: str, fails_after: int) -> None:
        super().__init__()
        self.out, self.step, self.fails_after = out, step, fails_after
        self.seen: list[dict[str, object]] = []

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        for done, record in enumerate(super().map(work, units), start=1):
            yield record
            self.seen.append(status(Store(str(self.out))))
            if work.name == self.step and done == self.fails_after:
                raise StorageError("The disk is full.")


def test_a_run_tells_how_it_is_doing_alive_and_dead(
    digits_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "INTERVAL", 0.02)
    engine = Looks(tmp_path, "pass1", 2)
    with pytest.raises(StorageError):
        purify(digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config(), engine)
    during = engine.seen[-1]
    assert during["state"] == "running"
    assert during["steps"] == {
        "stage1": {"done": 2, "total": 2, "unit": "epochs", "finished": True},
        "pass1": {"done": 2, "total": 6, "unit": "units"},
        "stage2": {"done": 0, "total": 2, "unit": "epochs", "finished": False},
        "pass3": {"done": 0, "total": 6, "unit": "units"},
    }
    after = status(Store(str(tmp_path)))
    assert (after["state"], after["error"]) == ("failed", "The disk is full.")
    assert any("error     The disk is full." in line for line in lines(after))

    note = json.loads((tmp_path / "_raydvae/driver.json").read_text())
    (tmp_path / "_raydvae/driver.json").write_text(json.dumps(note | {"state": "running", "renewed": 1.0}))
    assert status(Store(str(tmp_path)))["state"] == "dead"
    begun = {"step": "pass1", "total": 180, "done": 80, "unit": "rows", "step_began": 1e12 - 8, "renewed": 1e12}
    (tmp_path / "_raydvae/driver.json").write_text(json.dumps(note | begun | {"state": "running"}))
    now = status(Store(str(tmp_path)))["now"]
    assert (now["rate"], now["seconds_left"]) == (10.0, 10.0)

    (tmp_path / "_raydvae/driver.json").write_text(json.dumps(note))  # by its process, this one would be alive
    purify(digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config())
    done = status(Store(str(tmp_path)))
    assert done["state"] == "done"
    assert {step["done"] for name, step in done["steps"].items() if name.startswith("pass")} == {6}
    assert module.lines(done)[0].startswith("purify run")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the folder of a raydvae run"):
        status(Store(str(tmp_path)))
