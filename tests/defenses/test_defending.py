"""Every data transform over a data set: killed and resumed, with bad rows, and with other settings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydvae.cli.main import run as cli
from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.defenses.configs import DEFENSES, BDRConfig, JPEGConfig, LFUConfig
from raydvae.defenses.defending import DefendWork, defend
from raydvae.defenses.transforms import gaussian, grayscale, jpeg, median, reduce_depth
from raydvae.engine import InProcess
from raydvae.errors import ConfigError
from tests.data.helpers import as_bytes, random_images, struct_table, write
from tests.defenses.stopped import UNIT_ROWS, committed, make, settings

ROWS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``clean``, and a folder a defense with the data sets ``straight`` and ``killed``."""
    folder = tmp_path_factory.mktemp("runs")
    import_dataset("digits", Store(str(folder / "clean")), "digits", split="test", rows_per_shard=40, limit_per_class=6)
    quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.defenses.stopped", str(folder / "clean"), str(folder)],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pixels(folder: Path) -> Array:
    data = open_dataset(str(folder))
    classes = find_classes(data)
    return np.concatenate([decode_rows(data, u, data.read(u), classes, 32).images for u in data.units()])


@pytest.mark.parametrize("name", DEFENSES)
def test_killed_and_resumed_it_ends_with_the_same_bytes(name: str, runs: Path) -> None:
    straight, killed = runs / name / "straight", runs / name / "killed"
    files = {path.name: path.read_bytes() for path in straight.glob("*.parquet")}
    assert len(files) == len(committed(straight)) == ROWS // UNIT_ROWS
    assert {path.name: path.read_bytes() for path in killed.glob("*.parquet")} == files
    assert [path.read_bytes() for path in committed(killed)] == [path.read_bytes() for path in committed(straight)]


def test_the_rows_are_those_of_the_source_under_the_published_settings(runs: Path) -> None:
    clean = pixels(runs / "clean")
    expected = {
        "bdr": reduce_depth(clean, 2),
        "gray": grayscale(clean),
        "jpeg": jpeg(clean, 10),
        "gaussian": gaussian(clean, 3, 0.8),
        "median": median(clean, 3),
    }
    for name, images in expected.items():
        assert (pixels(runs / name / "straight") == images).all(), name
    for name in ("lfu", "vae", "ae", "avatar"):
        assert not (pixels(runs / name / "straight") == clean).all(), name


def test_columns_stay_and_bad_rows_are_kept_aside(tmp_path: Path) -> None:
    images = random_images(6)
    data = [as_bytes(image) for image in images[:5]] + [b"no image"]
    write(tmp_path / "in", struct_table(data, [0, 1] * 3, name=list("abcdef")))
    source = open_dataset(str(tmp_path / "in"), DataConfig(reject_limit=0.5))
    counts = defend(BDRConfig(), source, find_classes(source), 8, Run(Store(str(tmp_path / "out"))), InProcess())
    assert counts == {"rows_in": 6, "rows_out": 5, "rows_rejected": 1}
    out = pq.read_table(tmp_path / "out")
    assert out["name"].to_pylist() == list("abcde")
    assert out.schema.types == pq.read_table(tmp_path / "in").schema.types
    rejected = pq.read_table(tmp_path / "out/_raydvae/rejected")
    assert rejected["name"].to_pylist() == ["f"]


def test_a_folder_belongs_to_one_defense_and_its_settings(runs: Path) -> None:
    source = open_dataset(str(runs / "clean"), DataConfig(unit_rows=UNIT_ROWS))
    with pytest.raises(ConfigError, match="started with .*quality = 10, now it is 20"):
        make(JPEGConfig(quality=20), source, runs / "jpeg/straight")
    with pytest.raises(ConfigError, match="started with"):
        make(BDRConfig(), source, runs / "jpeg/straight")


def test_lfu_refuses_what_it_cannot_project(tmp_path: Path) -> None:
    write(tmp_path / "one", struct_table([as_bytes(image) for image in random_images(4)], [0] * 4))
    code = cli(["defend", "lfu", str(tmp_path / "one"), str(tmp_path / "out")])
    assert code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("setting", "value"), [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("inf"))])
def test_lfus_fit_has_sane_settings(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is {value}"):
        LFUConfig(**{setting: value})  # type: ignore[arg-type]


def test_the_command_line_does_the_same(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raydvae.distributed.engine import RayEngine

    monkeypatch.setattr(RayEngine, "map", lambda self, work, units: InProcess().map(work, units))  # this is not of Ray
    args = ["defend", "jpeg", str(runs / "clean"), str(tmp_path / "out"), "--quality", "30", "--json"]
    assert cli(args) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["rows_in"], told["rows_out"], told["rows_rejected"]) == (ROWS, ROWS, 0)
    assert (pixels(tmp_path / "out") == jpeg(pixels(runs / "clean"), 30)).all()


def test_work_travels_without_what_it_has_loaded(runs: Path) -> None:
    source = open_dataset(str(runs / "clean"), DataConfig(unit_rows=UNIT_ROWS))
    run = Run(Store(str(runs / "lfu/straight")))
    work = DefendWork(run, source, find_classes(source), LFUConfig(), 32)
    work.load(torch.device("cpu"))
    there = pickle.loads(pickle.dumps(work))
    assert work.transform is not None and there.transform is None
    rows = there.read(source.units()[1])
    there.load(torch.device("cpu"))
    assert (there.compute(rows) == work.compute(rows)).all()
    made = pixels(runs / "lfu/straight")
    assert (there.compute(rows) == made[UNIT_ROWS : 2 * UNIT_ROWS]).all()


@pytest.mark.parametrize("name", ["bdr", "lfu"])
def test_a_damaged_output_is_made_again_alone(name: str, runs: Path, tmp_path: Path) -> None:
    out, clean = tmp_path / "out", str(runs / "clean")
    shutil.copytree(runs / name / "straight", out)
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    first, second, third, *rest = sorted(out.glob("*.parquet"))
    first.unlink()
    second.write_bytes(before[second.name][:-1])
    third.write_bytes(before[third.name][:-1] + b"?")
    stamps = {path: path.stat().st_mtime_ns for path in rest}
    assert make(settings(name, clean), open_dataset(clean, DataConfig(unit_rows=UNIT_ROWS)), out)["rows_out"] == ROWS
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == before
    assert {path: path.stat().st_mtime_ns for path in rest} == stamps
