"""Accuracy at different KLD targets, from the command line, on the digits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from raydvae.cli.main import run
from raydvae.data.store import Store
from raydvae.evaluation.sweep import Point, front

SMALL = (
    "--preset", "digits", "--width", "4", "--full-epochs", "1", "--objective", "accuracy", "--model", "tiny",
    "--model-epochs", "1", "--model-batch", "32", "--no-flip", "--json",
)  # fmt: skip


def point(psnr: float, acc: float) -> Point:
    return Point(kld1=1, kld2=3, psnr=psnr, test_acc=acc, seconds=0)


def test_the_front_is_what_nothing_surpasses() -> None:
    points = [point(20, 90), point(22, 85), point(21, 80), point(22, 85), point(19, 90)]
    assert [p.front for p in front(points)] == [True, True, False, True, False]


@pytest.mark.parametrize("kind", ["pairs", "dvae", "vae"])
def test_a_sweep_measures_each_target_and_goes_on(
    kind: str, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydvae.distributed.engine import RayEngine
    from raydvae.engine import InProcess

    monkeypatch.setattr(RayEngine, "map", lambda self, work, units: InProcess().map(work, units))
    targets = ("--kld1", "1", "--kld2", "2", "4") if kind == "pairs" else ("--kld1", "4")
    args = ("tune", str(digits_folder), "--out", str(tmp_path), "--test", str(digits_folder), "--sweep", kind)
    assert run([*args, *targets, *SMALL]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = result["points"]
    assert [(p["kld1"], p["kld2"]) for p in first] == ([(1, 2), (1, 4)] if kind == "pairs" else [(4, 0)])
    assert all(0 <= p["test_acc"] <= 100 and 5 < p["psnr"] < 40 for p in first)
    assert any(p["front"] for p in first)
    with (tmp_path / "accuracy.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(first)
    page = Path(result["page"]).read_text()
    assert page.count("<svg") == (3 if kind == "pairs" else 2)
    if kind == "pairs":
        models = list((tmp_path / "_raydvae/steps").glob("model-*"))
        assert len(models) == 3, "one model of stage 1 for both"

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something is trained again")

    monkeypatch.setattr(RayEngine, "train", fail)
    assert run([*args, *targets, *SMALL]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["points"] == first
    assert Store(str(tmp_path)).exists("accuracy.html")
