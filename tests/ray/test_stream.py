"""The stream of units itself: what it keeps in flight, what it plans, how it fails, and what it tells Ray's metrics."""

from __future__ import annotations

import os
import signal
import stat
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from raydvae.data.rows import Rows
from raydvae.data.units import Unit
from raydvae.distributed import passes
from raydvae.errors import ConfigError, DataError, RaydvaeError

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.ray
SIZE = 64


@dataclass(slots=True)
class Doubling:
    """A work that needs no model: doubles pixels, leaves a file a step, and can fail in several ways."""

    folder: str
    fails: str = ""
    name: str = "doubling"

    def read(self, unit: Unit) -> Rows:
        self._mark("read", unit)
        images = np.full((unit.rows, SIZE, SIZE, 3), unit.start % 100, np.uint8)
        table = pa.table({"label": np.zeros(unit.rows, np.int64)})
        return Rows(unit, images, np.arange(unit.rows), np.arange(unit.rows), table, table.slice(0, 0))

    def load(self, device: torch.device) -> None:
        if self.fails == "load":
            raise DataError("the model is of another data set")

    def compute(self, rows: Rows) -> np.ndarray:
        self._mark("computed", rows.unit)
        images = rows.images
        images *= 2  # a stage owns what it is given
        if self.fails == "compute" and rows.unit.start == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows.images

    def commit(self, rows: Rows, result: np.ndarray) -> dict[str, Any]:
        self._mark("committed", rows.unit)
        if self.fails == "commit" and rows.unit.start == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "slow":
            time.sleep(0.3)
        return {
            "unit": rows.unit.id,
            "rows_out": len(rows.images),
            "rows_rejected": 3,
            "bytes": result.nbytes,
            "value": [int(result.min()), int(result.max())],
        }

    def _mark(self, what: str, unit: Unit) -> None:
        Path(self.folder, f"{time.monotonic_ns()}-{what}-{unit.start}-{os.getpid()}").touch()


def units(count: int, rows: int = 10) -> list[Unit]:
    return [
        Unit(f"a-r{at:010d}", "a.parquet", at, at + rows, 0, at, (("a.parquet", at, at + rows),))
        for at in range(0, count * rows, rows)
    ]


def marks(folder: Path, what: str) -> list[tuple[int, int]]:
    """Times and units of one kind of mark, in order."""
    named = sorted(path.name.split("-") for path in folder.iterdir())
    return [(int(time), int(unit)) for time, kind, unit, _ in named if kind == what]


def check_metrics(count: int) -> None:
    """Look for what a stream of so many units has told Ray's metrics, under the names that the dashboard asks for."""
    import ray

    node = next(node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        "raydvae_rows": 10.0 * count,
        "raydvae_rejected_rows": 3.0 * count,
        "raydvae_bytes": 10.0 * count * SIZE * SIZE * 3,
    }
    seconds = {stage: float(count) for stage in ("read", "compute", "commit")}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = [
                line for line in answer.read().decode().splitlines() if 'step="counted"' in line or "counted" in line
            ]
        found = {
            name: sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith((f"ray_{name}{{", f"ray_{name}_total{{"))
            )
            for name in wanted
        }
        timed = {
            stage: sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith("ray_raydvae_unit_seconds_count") and f'"{stage}"' in line
            )
            for stage in seconds
        }
        if found == wanted and timed == seconds:
            return
        time.sleep(1)
    raise AssertionError((found, timed, lines))


def test_every_unit_comes_back_once_with_its_pixels_and_is_counted(tmp_path: Path, ray_cluster: None) -> None:
    wanted = units(50)
    records = list(passes.stream(Doubling(str(tmp_path), name="counted"), wanted, 2, use_gpu=False))
    assert sorted(record["unit"] for record in records) == [unit.id for unit in wanted]
    for record in records:
        value = int(record["unit"][-10:]) % 100 * 2
        assert record["value"] == [value, value] and record["rows_out"] == 10
    check_metrics(len(wanted))


def test_few_units_are_ahead_of_the_committed_ones(tmp_path: Path, ray_cluster: None) -> None:
    """Reading is far faster than committing here; without a bound all 80 units would be read at once."""
    work = Doubling(str(tmp_path), fails="slow")
    list(passes.stream(work, units(80), 1, use_gpu=False))
    committed = [at for at, _ in marks(tmp_path, "committed")]
    ahead = [number - sum(done < at for done in committed) for number, (at, _) in enumerate(marks(tmp_path, "read"), 1)]
    slots = 6  # of the tests' cluster: 4 logical cores, one an actor's
    # Each reading task has two blocks waiting for Ray Data to take them, and makes a third.
    assert max(ahead) <= passes.UNITS_PER_ACTOR + slots + 3 * slots // 2


def test_many_units_are_planned_as_few_small_blocks(ray_cluster: None) -> None:
    count = 20_000
    source = passes._source(units(count), slots=10)
    assert source.num_blocks() == -(-count // passes.UNITS_PER_TASK)
    assert source.count() == source.num_blocks(), "a block is one row, which lists its units"
    assert source.size_bytes() / count < 30


@pytest.mark.parametrize("stage", ["compute", "commit"])
def test_a_process_that_always_dies_ends_the_stream_with_advice(
    stage: str, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "RETRIES", 1)  # each takes a new process, which is what this test waits for
    with pytest.raises(RaydvaeError, match="doubling: processes that worked on one unit died 2 times.*unit_rows"):
        list(passes.stream(Doubling(str(tmp_path), fails=stage), units(3), 1, use_gpu=False))
    mark = {"compute": "computed", "commit": "committed"}[stage]
    assert sum(unit == 10 for _, unit in marks(tmp_path, mark)) == 2


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, ray_cluster: None) -> None:
    with pytest.raises(DataError, match="^the model is of another data set$") as caught:
        list(passes.stream(Doubling(str(tmp_path), fails="load"), units(2), 1, use_gpu=False))
    assert type(caught.value) is DataError


def test_what_is_waited_for_is_said(ray_cluster: None) -> None:
    text = passes._Waiting("pass1", 9, 2, use_gpu=True).message(61.0)
    assert "pass1: no unit was committed for 61 s (0 of 9 are)" in text
    assert "2 actors with one GPU each" in text and "of 4 CPUs" in text and "0 of 0 GPUs" in text


def test_a_packed_value_comes_back_writable() -> None:
    value = {"large": np.arange(10**5), "small": np.arange(3), "text": "x", "table": pa.table({"a": np.arange(10**5)})}
    back = passes._unpack(passes._pack(value))
    assert np.array_equal(back["large"], value["large"]) and back["large"].flags.writeable
    assert np.array_equal(back["small"], value["small"]) and back["small"].flags.writeable
    assert back["table"] == value["table"] and back["text"] == "x"


def test_where_no_folder_for_rays_files_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydvae.distributed.session import private_folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/no/such/folder")
    with pytest.raises(ConfigError, match=r"folder for Ray's files in /no/such/folder: No such file.*RAY_TMPDIR"):
        private_folder().__enter__()
    monkeypatch.setenv("RAY_TMPDIR", f"{tmp_path}/{'long' * 10}")
    with private_folder() as folder:
        assert folder.startswith("/tmp/rdv-")
        assert stat.S_IMODE(os.stat(os.path.dirname(folder)).st_mode) == 0o700
