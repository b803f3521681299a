"""One small cell of the matrix for each defense and each classifier, from the command line: defend, then classify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydvae.cli.main import run
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from raydvae.defenses.configs import DEFENSES
from raydvae.defenses.recipes import RECIPES

SMALL = ("--batch", "40", "--epochs", "1", "--image-size", "16", "--no-flip", "--json")
MODELS = {
    "vae": ("--epochs", "1", "--width", "4", "--batch", "20"),
    "ae": ("--epochs", "1", "--width", "4", "--batch", "20"),
    "avatar": ("--epochs", "1", "--width", "8", "--batch", "20", "--steps", "2", "--train-on", "CLEAN"),
}
CELLS = [
    *(("transform", name) for name in DEFENSES),
    *(("recipe", name) for name in RECIPES),
    *(("model", name) for name in ("resnet50", "densenet121", "mobilenetv2", "resnet18-224")),
    ("preset", "imagenet100"),
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 digits."""
    folder = tmp_path_factory.mktemp("clean")
    import_dataset("digits", Store(str(folder)), "digits", split="test", rows_per_shard=20, limit_per_class=4)
    return str(folder)


@pytest.mark.parametrize(("kind", "name"), CELLS)
def test_a_cell_is_made(
    kind: str,
    name: str,
    clean: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from raydvae.distributed.engine import RayEngine
    from raydvae.engine import InProcess

    monkeypatch.setattr(RayEngine, "map", lambda self, work, units: InProcess(1).map(work, units))
    source, chosen = clean, {"--model": "tiny"}
    if kind == "transform":
        source = str(tmp_path / "defended")
        flags = [clean if flag == "CLEAN" else flag for flag in MODELS.get(name, ())]
        assert run(["defend", name, clean, source, "--image-size", "16", *flags, "--json"]) == 0
    else:
        chosen |= {{"recipe": "--defense"}.get(kind, f"--{kind}"): name}
    args = [part for pair in chosen.items() for part in pair]
    assert run(["classify", source, "--test", clean, *args, *SMALL]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= result["test_acc"] <= 100 and 0 <= result["train_acc"] <= 100
