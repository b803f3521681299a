from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from raydvae.cli.main import run
from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.engine import InProcess, Resources
from raydvae.errors import ConfigError, StorageError
from raydvae.purify.algorithm import purify
from raydvae.purify.preflight import Plan, preflight
from tests.conftest import small_config


def plan_of(source: Dataset, out: Path, **changes: object) -> Plan:
    return preflight(source, find_classes(source), Store(str(out)), small_config(**changes), InProcess(threads=2))


def test_a_plan_tells_what_is_going_to_happen(digits_data: Dataset, tmp_path: Path) -> None:
    plan = plan_of(digits_data, tmp_path / "out")
    plan.check()
    assert plan.steps == {
        "stage1": "2 epochs x 6 steps",
        "pass1": "6 units",
        "stage2": "2 epochs x 6 steps",
        "pass3": "6 units",
    }
    assert (plan.rows, plan.train_rows, plan.decoded_bytes, plan.streamed) == (180, 180, 180 * 3072, False)
    assert all(seconds > 0 for seconds in plan.seconds.values())
    assert plan.storage_bytes > 2 * 180 * 100
    text = plan.text()
    assert "180 rows" in text and "kept in each worker's memory" in text and "6 units" in text
    assert not (tmp_path / "out").exists()


def test_a_plan_counts_what_is_left(digits_data: Dataset, tmp_path: Path) -> None:
    purify(digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config())
    (tmp_path / "_raydvae/commits/pass3").rename(tmp_path / "_raydvae/commits/gone")
    assert plan_of(digits_data, tmp_path).steps == {"pass3": "6 units"}


def test_stages_too_short_for_the_amplitude_cap_are_named(digits_data: Dataset, tmp_path: Path) -> None:
    plan = plan_of(digits_data, tmp_path)
    assert plan.uncapped == ("stage1", "stage2")
    assert "warning   stage1 and stage2 will end before the cap on the amplitude of p_hat acts" in plan.text()
    long = preflight(
        digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config(epochs=12), InProcess(threads=2)
    )
    assert long.uncapped == () and "warning" not in long.text()


def test_sampling_and_streaming_show_in_a_plan(digits_data: Dataset, tmp_path: Path) -> None:
    plan = plan_of(digits_data, tmp_path, train_rows=90, data=DataConfig(unit_rows=40, memory_gib=1e-4))
    assert (plan.train_rows, plan.streamed) == (90, True)
    data = dataclasses.replace(digits_data, data=DataConfig(unit_rows=40))
    assert not plan_of(data, tmp_path, train_rows=90).streamed


def test_what_cannot_be_had_is_refused_with_what_to_change(digits_data: Dataset, tmp_path: Path) -> None:
    plan = plan_of(digits_data, tmp_path)
    few = dataclasses.replace(plan, asked=Resources(9, 8, 0), has=Resources(64, 4, 2**40, "the cluster of 2 nodes"))
    with pytest.raises(ConfigError, match="8 GPUs; the cluster of 2 nodes has 64 and 4.*fewer --workers"):
        few.check()
    big = dataclasses.replace(plan, asked=Resources(1, 0, 2**40), has=Resources(64, 0, 2**35, "this machine"))
    with pytest.raises(ConfigError, match="--memory-gib"):
        big.check()
    with pytest.raises(StorageError, match="Free some space"):
        dataclasses.replace(plan, free_bytes=10).check()


def test_a_dry_run_does_nothing(digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["purify", str(digits_folder), str(tmp_path / "out"), "--preset", "digits", "--width", "4", "--dry-run"]
    assert run([*args, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["rows"] == 180
    assert "20 epochs x 6 steps" in err
    assert not (tmp_path / "out").exists()
