"""`purify --tune`: targets first, then the purification with the models that verified them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydvae.cli import tune as tune_command
from raydvae.cli.main import run
from raydvae.config import dump_toml
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import InProcess
from raydvae.training.checkpoint import load_model
from tests.tuning.test_experiment import config


def test_purify_tunes_first_and_trains_nothing_twice(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayEngine, "map", lambda self, work, units: InProcess().map(work, units))
    monkeypatch.setattr(tune_command, "trials_on", lambda engine, concurrency: None)  # what is tested here is not Ray
    trained = []
    real = RayEngine.train
    monkeypatch.setattr(
        RayEngine, "train", lambda self, job, progress: trained.append(job.name) or real(self, job, progress)
    )
    (tmp_path / "my.toml").write_text(dump_toml(config((5.0, 30.0), (5.0, 30.0), epochs=1)))
    out = tmp_path / "out"
    args = ["purify", str(digits_folder), str(out), "--config", str(tmp_path / "my.toml"), "--tune", "--json"]
    assert run(args) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["complete"], result["rows_out"]) == (True, 180)
    assert trained == ["stage1", "stage2"], "each stage was trained in full once, to verify its target"
    found = json.loads((out / "_raydvae/tune/_raydvae/tuning.json").read_text())
    known = json.loads((out / "_raydvae/run.json").read_text())
    assert known["config"]["stage1"]["loss"]["kld_target"] == found["kld1"]
    assert result["stage2_psnr"] == found["stage2_psnr"]
    verified = Store(str(out / f"_raydvae/tune/_raydvae/full/stage2/kld-{found['kld2']:g}"))
    weights = load_model(Store(str(out / "_raydvae/stage2")))[0]
    assert all(weights[name].equal(value) for name, value in load_model(verified)[0].items())

    assert run(args) == 0, "the same command finds it complete"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows_out"] == 180
    assert len(trained) == 2

    (out / "_raydvae/tune/_raydvae/tuning.json").write_text("")
    assert run(args) == 0, "what it was tuned to stands in run.json"
    shutil.rmtree(out / "_raydvae/tune")
    assert run(args) == 2
    assert "was begun without --tune" in capsys.readouterr().err
