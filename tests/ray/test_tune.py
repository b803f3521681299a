"""Trials as a Ray Tune experiment: what one process finds, each with its share of the cores; and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import InProcess, Silent
from raydvae.errors import ConfigError, RaydvaeError
from raydvae.machine import available_cores
from raydvae.tuning.experiment import Here
from raydvae.tuning.search import Bisect
from raydvae.tuning.strategies import build
from raydvae.tuning.trial import Trials
from tests.conftest import small_config

pytestmark = pytest.mark.ray
WINDOW = (9.0, 9.3)


def trials_in(folder: Path, data: Dataset, epochs: int = 2) -> Trials:
    engine = InProcess(1)
    return Trials.of("stage1", data, find_classes(data), small_config(), 0.5, epochs, Store(str(folder)), engine)


def search() -> Bisect:
    return Bisect(window=WINDOW, width=2, trials=3)


def test_tune_finds_what_one_process_finds(digits_data: Dataset, tmp_path: Path, ray_cluster: None) -> None:
    from raydvae.distributed.tune import KLDSearcher, RayTrials

    alone, tuned = search(), search()
    Here(1).search(alone, trials_in(tmp_path / "alone", digits_data), Silent())
    with RayEngine() as engine:
        runner = RayTrials(engine, 2)
        runner.search(tuned, trials_in(tmp_path / "tuned", digits_data), Silent())
        assert tuned.state() == alone.state()
        assert tuned.verdict() == alone.verdict()
        assert len(tuned.told) >= 2

        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.json")}
        again = build("grid", window=WINDOW, trials=2, limits=(1.0, 4.0), width=2)
        runner.search(again, trials_in(tmp_path / "tuned", digits_data), Silent())
        assert {p: p.stat().st_mtime_ns for p in before} == before, "a finished trial is not run again"

        broken = trials_in(tmp_path / "broken", digits_data)
        Store(str(tmp_path / "broken/epochs-2/kld-1")).write("model.safetensors", b"nonsense")
        with pytest.raises(RaydvaeError, match="damaged"):
            runner.search(Bisect(window=WINDOW, trials=1), broken, Silent())

    searcher = KLDSearcher(search(), trials_in(tmp_path / "new", digits_data))
    first = [searcher.suggest("a"), searcher.suggest("b")]
    assert first == [{"kld": 1.0}, {"kld": 4.0}]
    assert searcher.suggest("c") is None, "the next round waits for this one"
    searcher.save(str(tmp_path / "state.json"))
    json.loads((tmp_path / "state.json").read_text())
    other = KLDSearcher(build("grid", window=WINDOW), searcher.trials)
    other.restore(str(tmp_path / "state.json"))
    assert other.suggest("d") == {"kld": 1.0}, "what nobody finished is asked for again"


def test_trials_at_once_share_the_cores(ray_cluster: None) -> None:
    from raydvae.distributed.tune import RayTrials

    with RayEngine() as engine:
        runner = RayTrials(engine, 2)
        cores = available_cores()
        for at_once in range(1, cores + 1):
            mine, gpus = runner.share(at_once)
            assert mine >= 1
            assert at_once * mine <= cores
            assert gpus == 0
        with pytest.raises(ConfigError, match="smaller --concurrency"):
            runner.share(cores + 1)


def test_a_killed_driver_goes_on_and_no_finished_trial_runs_again(digits_folder: Path, tmp_path: Path) -> None:
    """The search is over quickly, and so is the rest: the windows are where these few steps end.

    One trial at a time: a driver that Ray Tune works for replays the same records, and starts slowly.
    """
    command = [
        sys.executable, "-m", "raydvae.cli.main", "tune", str(digits_folder), "--out", str(tmp_path), "--preset", "digits",
        "--width", "4", "--batch", "16", "--full-epochs", "2", "--fraction", "1", "--concurrency", "1",
        "--stage1-psnr", "5:25", "--stage2-psnr", "5:25", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (done := list(tmp_path.rglob("trial.json"))):
        assert process.poll() is None, "it ended before the moment to kill it came"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done}
    assert not (tmp_path / "purify.toml").exists()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)  # all of stdout
    assert 5 <= result["stage1_psnr"] <= 25
    assert 5 <= result["stage2_psnr"] <= 25
    assert {"kld1", "kld2", "trials", "seconds"} <= result.keys()
    assert (tmp_path / "purify.toml").exists()
    page = (tmp_path / "tuning.html").read_text()
    assert page.count("<img") == 3
    assert page.count("<svg") == 2
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done} == before
