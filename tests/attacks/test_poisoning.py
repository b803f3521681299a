"""Every attack over a data set: streamed, refused, given out and taken in again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydvae.attacks.base import measure
from raydvae.attacks.configs import EMConfig, LSPConfig
from raydvae.cli.main import run as cli
from raydvae.config import DataConfig
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from tests.attacks.stopped import SMALL, make


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 digits in units of 20."""
    folder = tmp_path_factory.mktemp("clean")
    import_dataset("digits", Store(str(folder)), "digits", split="test", rows_per_shard=40, limit_per_class=6)
    return open_dataset(str(folder), DataConfig(unit_rows=20))


def test_a_ratio_poisons_exactly_that_many_rows_and_no_pixel_of_others(clean: Dataset, tmp_path: Path) -> None:
    make(LSPConfig(), clean, tmp_path, ratio=0.25)
    table = pq.read_table(tmp_path / "_raydvae/poison.parquet")
    assert sum(table["poisoned"].to_pylist()) == 15
    before, after = pixels(clean), pixels(open_dataset(str(tmp_path)))
    changed = (before != after).any(axis=(1, 2, 3))
    assert changed.tolist() == table["poisoned"].to_pylist()
    ids = [row_id for unit in clean.units() for row_id in unit.row_ids()]
    assert table["row_id"].to_pylist() == ids


def pixels(data: Dataset) -> np.ndarray:  # type: ignore[type-arg]
    images = [
        data.schema.pixels(value, data.data)
        for unit in data.units()
        for value in data.schema.values(data.read(unit, columns=["image"]).column(0))
    ]
    return np.stack(images)


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, object], str]:
    capsys.readouterr()
    code = cli([str(arg) for arg in args] + ["--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if code == 0 else {}, err


@pytest.mark.parametrize("form", ["pt", "npy"])
def test_our_noise_goes_out_and_comes_in_again(
    form: str, clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = clean.store.root
    make(EMConfig(steps=1, surrogate=SMALL), clean, tmp_path / "poisoned")
    release = tmp_path / f"noise.{form}"
    code, result, err = call(
        capsys, "export-poison", tmp_path / "poisoned", release, "--clean", source, "--format", form
    )
    assert code == 0, err
    assert result["rows"] == 60
    if form == "pt":
        tensor = torch.load(release, weights_only=True)
        assert tensor.shape == (60, 3, 32, 32)
        assert tensor.abs().max() <= 8 / 255 + 1e-6
    else:
        assert np.load(release).dtype == np.int8
    code, result, err = call(capsys, "import-poison", release, tmp_path / "back", "--clean", source)
    assert code == 0, err
    assert (result["rows_in"], result["rows_poisoned"]) == (60, 60)
    assert result["linf_levels"] == 8
    assert (pixels(open_dataset(str(tmp_path / "back"))) == pixels(open_dataset(str(tmp_path / "poisoned")))).all()


def test_a_release_of_another_data_set_is_refused(
    clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((59, 3, 32, 32), np.int8))
    (tmp_path / "noise.npy").write_bytes(buffer.getvalue())
    code, _, err = call(capsys, "import-poison", tmp_path / "noise.npy", tmp_path / "out", "--clean", clean.store.root)
    assert code == 3
    assert "for 59 rows, and this data set has 60" in err
    assert not (tmp_path / "out").exists()
    code, _, err = call(capsys, "import-poison", tmp_path / "none.npy", tmp_path / "out", "--clean", clean.store.root)
    assert code == 4
    assert "neither a file nor a folder" in err


def test_a_pickle_that_holds_more_than_arrays_is_refused(
    clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    (tmp_path / "noise.pkl").write_bytes(pickle.dumps(Evil()))
    code, _, err = call(capsys, "import-poison", tmp_path / "noise.pkl", tmp_path / "out", "--clean", clean.store.root)
    assert code == 3
    assert "system" in err
    assert not (tmp_path / "owned").exists()


def test_a_poison_is_described(
    clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(LSPConfig(), clean, tmp_path / "poisoned", ratio=0.5)
    code, about, err = call(capsys, "inspect", "--poison", tmp_path / "poisoned", "--clean", clean.store.root)
    assert code == 0, err
    assert (about["rows"], about["rows_poisoned"]) == (60, 30)
    change = (pixels(open_dataset(str(tmp_path / "poisoned"))).astype(float) - pixels(clean)) / 255
    norms = measure(change, "l2")
    assert about["l2"]["mean"] == pytest.approx(norms[norms > 0].mean())  # type: ignore[index]
    assert Path(str(about["picture"])).read_bytes().startswith(b"\x89PNG")
    code, _, err = call(capsys, "inspect", "--poison", clean.store.root, "--clean", clean.store.root)
    assert code == 3
    assert "nothing is poisoned" in err

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Store, "_write_local", refused)  # the folder is somebody else's
    code, elsewhere, err = call(capsys, "inspect", "--poison", tmp_path / "poisoned", "--clean", clean.store.root)
    assert code == 0
    assert "There is no picture of the noise. Cannot write" in err
    assert elsewhere == about | {"picture": None}


def test_a_poison_of_resized_images_is_compared_with_the_clean_ones_at_its_size(
    clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "poisoned"
    code, _, err = call(capsys, "poison", "lsp", clean.store.root, out, "--image-size", "16", "--norm", "0.5")
    assert code == 0, err
    code, about, err = call(capsys, "inspect", "--poison", out, "--clean", clean.store.root)
    assert code == 0, err
    assert about["rows_poisoned"] == 60
    assert 0.2 < about["l2"]["most"] < 0.55  # type: ignore[index]
    code, about, err = call(
        capsys, "export-poison", out, tmp_path / "noise.npy", "--clean", clean.store.root, "--format", "npy"
    )
    assert code == 0, err
    assert np.load(tmp_path / "noise.npy").shape == (60, 3, 16, 16)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tap", "--norm", "-1"], "linf norm is -1.0; give a positive number"),
        (["lsp", "--variant", "fa"], "The attack lsp has no --variant"),
        (["lsp", "--surrogate-width", "8"], "The attack lsp has no --surrogate-"),
        (["lsp", "--patch", "7"], "do not tile"),
        (["em", "--surrogate-steps", "0"], "surrogate steps is 0"),
        (["ntga", "--ratio", "2"], "between 0 and 1"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    args: list[str], says: str, clean: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "poison", args[0], clean.store.root, tmp_path / "out", *args[1:])
    assert code == 2
    assert says in err
    assert not (tmp_path / "out").exists()
