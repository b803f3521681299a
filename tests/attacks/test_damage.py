"""Poisoned data sets whose files were damaged: mended by the same command, from whatever is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydvae.attacks.configs import EMConfig, OPSConfig
from raydvae.cli.main import run as cli
from raydvae.config import DataConfig
from raydvae.data import damage
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.attacks.stopped import SMALL, make
from tests.purify.test_damage import HARMS, Counts, Harm, flip

UNIT = "test-00001-of-00002-r0000000000"
EM = EMConfig(steps=1, surrogate=SMALL)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 digits in units of 20: two files, three units."""
    folder = tmp_path_factory.mktemp("clean")
    import_dataset("digits", Store(str(folder)), "digits", split="test", rows_per_shard=40, limit_per_class=6)
    return open_dataset(str(folder), DataConfig(unit_rows=20))


@pytest.fixture(scope="module")
def done(clean: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    make(EM, clean, out)
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


def contents(out: Path) -> dict[str, bytes]:
    """All that a run has made of the data, but for what it noted of itself."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("driver.")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def again(clean: Dataset, out: Path) -> list[str]:
    engine = Counts()
    make(EM, clean, out, engine)
    return engine.seen


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_output_is_poisoned_again_alone(harm: Harm, copied: Path, done: Path, clean: Dataset) -> None:
    harm(copied / f"{UNIT}.parquet")
    assert again(clean, copied) == ["surrogate", f"poison/{UNIT}"], "and the surrogate was trained already"
    assert contents(copied) == contents(done)
    assert again(clean, copied) == []


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_lost_table_of_poisoned_rows_is_made_again(harm: Harm, copied: Path, done: Path, clean: Dataset) -> None:
    harm(copied / "_raydvae/poison.parquet")
    assert len(again(clean, copied)) == 1 + 3, "its parts were deleted once they had been put together"
    assert contents(copied) == contents(done)


def test_what_was_counted_for_an_attack_is_checked_when_it_is_read(clean: Dataset, tmp_path: Path) -> None:
    make(OPSConfig(), clean, tmp_path)
    before, statistics = contents(tmp_path), tmp_path / "_raydvae/ops.safetensors"
    flip(statistics, 0.6)
    (tmp_path / f"{UNIT}.parquet").unlink()
    with pytest.raises(DataError, match=r"ops\.safetensors is damaged.*or delete it: the same command then makes it"):
        make(OPSConfig(), clean, tmp_path)
    statistics.unlink()
    make(OPSConfig(), clean, tmp_path)
    assert contents(tmp_path) == before


def test_the_command_line_mends_what_was_imported(
    clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(-8, 9, (60, 3, 32, 32), dtype=np.int8)
    np.save(tmp_path / "noise.npy", noise)
    out = tmp_path / "out"
    command = ["import-poison", str(tmp_path / "noise.npy"), str(out), "--clean", clean.store.root, "--json"]
    assert cli(command) == 0
    first, before = json.loads(capsys.readouterr().out.splitlines()[-1]), contents(out)
    (output,) = [path for path in out.glob("*.parquet") if path.name.startswith("test-00001")]
    output.unlink()
    assert cli(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert contents(out) == before
    monkeypatch.setattr(damage, "CHEAP", 10)
    flip(output)
    assert cli([*command, "--verify-files"]) == 0
    assert contents(out) == before
