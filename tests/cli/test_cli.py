from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydvae.cli.main import run
from raydvae.data.dataset import open_dataset
from raydvae.data.formats import READ
from tests.data.helpers import as_bytes, struct_table, write


def cli(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = run([str(arg) for arg in args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


FLAGS = {
    "quickstart": "--json --out --seed --workers",
    "import": "--classes --format --json --limit-per-class --rows-per-shard --split --storage-option",
    "poison": "--adversarial-norm --block-rows --checkpoints --class-means --draws --image-size --inner-steps --json --net "
    "--norm --patch --ratio --seed --steps --storage-option --stratified --surrogate-batch --surrogate-lr --surrogate-model "
    "--surrogate-steps --surrogate-width --t --update --validation-rows --variant --view --wise --workers --address --wait "
    "--verify-files",
    "purify": "--batch --batch-stats --classes --config --epochs --image-size --json --keep-intermediate --kld1 --kld2 "
    "--lr --preset --reject-limit --seed --size-policy --slices --storage-option --unit-rows --width --workers "
    "--address --dry-run --memory-gib --models --only-flagged --train-rows --tune --until --verify-files --wait",
    "detect": "--address --batch --classes --epochs --image-size --json --model --model-batch --model-epochs --model-lr "
    "--no-flip --out --preset --rule --seed --storage-option --verify-files --wait --width --work --workers",
    "grow": "--address --batch --classes --image-size --json --kld --preset --seed --steps --storage-option --verify-files "
    "--wait --width --workers",
    "tune": "--address --batch --concurrency --config --epochs --fraction --full-epochs --image-size --json --out --preset "
    "--search --seed --stage1-psnr --stage2-psnr --storage-option --train-rows --trials --wait --width --workers --objective "
    "--test --sweep --kld1 --kld2 --model --model-epochs --model-batch --model-lr --no-flip",
    "defend": "--address --batch --depth --epochs --image-size --json --kernel --kld --model --quality --seed --sigma --steps "
    "--storage-option --train-on --verify-files --wait --width --workers",
    "status": "--json --storage-option",
    "classify": "--address --wait --batch --defense --epochs --hard-epochs --preset --no-flip --image-size --json --lr --model --out --seed --storage-option --test --workers",
    "inspect": "--clean --json --poison --storage-option",
    "import-poison": "--clean --json --storage-option --verify-files",
    "export-poison": "--clean --format --json --storage-option",
    "report": "--json --source --storage-option",
    "table": "--address --columns --data --json --out --rows --scale --seeds --storage-option --wait --workers",
}


@pytest.mark.parametrize("command", FLAGS)
def test_nobody_adds_a_flag_by_accident(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    code, out, _ = cli(capsys, command, "--help")
    assert code == 0
    found = {flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", out)}
    found -= {"--help"}
    mentioned = {"--format", "--image-size"}  # in help texts
    assert found - mentioned == set(FLAGS[command].split()) - mentioned


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["fly"], 2, "Unrecognized options"),
        (["purify"], 2, "Required options"),
        (["purify", "IN", "OUT", "--preset", "mnist"], 2, "cifar10"),
        (["purify", "IN", "OUT", "--kld1", "-1"], 2, "0 or more"),
        (["purify", "IN", "OUT", "--epochs", "0"], 2, "at least one"),
        (["purify", "IN", "OUT", "--width", "7"], 2, "even number"),
        (["purify", "IN", "OUT", "--workers", "0"], 2, "at least 1"),
        (["purify", "IN", "OUT", "--workers", "3:2"], 2, "smaller number first"),
        (["purify", "IN", "OUT", "--workers", "many"], 2, "MIN:MAX"),
        (["purify", "IN", "OUT", "--train-rows", "5"], 2, "between 10 and 180"),
        (["purify", "IN", "OUT", "--models", "NOWHERE"], 3, "not the folder of a raydvae run"),
        (["purify", "IN", "OUT", "--models", "NOWHERE", "--kld1", "1"], 2, "setting of the models"),
        (["purify", "IN", "OUT", "--models", "NOWHERE", "--tune"], 2, "give one of them"),
        (["purify", "IN", "OUT", "--memory-gib", "0"], 2, "positive number"),
        (["purify", "IN", "OUT", "--only-flagged", "NOWHERE"], 3, "There are no flags at"),
        (["purify", "IN", "OUT", "--only-flagged", "NOWHERE", "--tune"], 2, "give one of them"),
        (["detect", "IN", "--out", "flags.csv"], 2, "ends in .parquet"),
        (["grow", "IN", "IN", "OUT", "--steps", "0"], 2, "at least one"),
        (["purify", "IN", "OUT", "--address", "http://127.0.0.1:9"], 2, "did not take the job"),
        (["tune", "IN", "--out", "OUT", "--stage1-psnr", "22:20"], 2, "smaller one first"),
        (["tune", "IN", "--out", "OUT", "--stage1-psnr", "20:20"], 2, "smaller one first"),
        (["tune", "IN", "--out", "OUT", "--stage2-psnr", ":30"], 2, "LOW:HIGH"),
        (["tune", "IN", "--out", "OUT", "--stage2-psnr=-3:30"], 2, "two positive dB values"),
        (["tune", "IN", "--out", "OUT", "--fraction", "0"], 2, "above 0"),
        (["tune", "IN", "--out", "OUT", "--objective", "accuracy"], 2, "belong together"),
        (
            ["tune", "IN", "--out", "OUT", "--objective", "accuracy", "--test", "IN", "--kld1", "1"],
            2,
            "both --kld1 and",
        ),
        (
            ["tune", "IN", "--out", "OUT", "--objective", "accuracy", "--test", "LARGE"],
            2,
            "have 40x40. Give --image-size 32",
        ),
        (["tune", "IN", "--out", "OUT", "--search", "anneal"], 2, "bisect"),
        (["tune", "NOWHERE", "--out", "OUT"], 3, "does not exist"),
        (["status", "IN"], 3, "not the folder of a raydvae run"),
        (["purify", "IN", "OUT", "--config", "NONE.toml"], 2, "Cannot read --config"),
        (["purify", "NOWHERE", "OUT"], 3, "does not exist"),
        (["poison", "lsp", "IN", "OUT", "--norm", "0"], 2, "positive number"),
        (["poison", "lsp", "IN", "OUT", "--ratio", "1.5"], 2, "between 0 and 1"),
        (["defend", "blur", "IN", "OUT"], 2, "median"),
        (["defend", "bdr", "IN", "OUT", "--depth", "9"], 2, "1 to 8 bits"),
        (["defend", "jpeg", "IN", "OUT", "--quality", "0"], 2, "1 to 100"),
        (["defend", "median", "IN", "OUT", "--kernel", "4"], 2, "odd number"),
        (["defend", "median", "IN", "OUT", "--kernel", "33"], 2, "images have 32 pixels"),
        (["defend", "gaussian", "IN", "OUT", "--sigma", "0"], 2, "positive number of pixels"),
        (["defend", "lfu", "IN", "OUT", "--epochs", "0"], 2, "1 or more"),
        (["defend", "gray", "IN", "OUT", "--quality", "10"], 2, "The defense gray has no --quality"),
        (["defend", "ae", "IN", "OUT", "--train-on", "IN"], 2, "The defense ae has no --train-on"),
        (["defend", "avatar", "IN", "OUT"], 2, "needs a diffusion model of clean images"),
        (["defend", "avatar", "IN", "OUT", "--train-on", "IN", "--image-size", "30"], 2, "give --image-size 32"),
        (["defend", "vae", "IN", "OUT", "--kld", "-1"], 2, "0 or more"),
        (["classify", "IN", "--test", "IN", "--hard-epochs", "-1"], 2, "0 for none"),
        (["classify", "IN", "--test", "IN", "--defense", "prayer"], 2, "mixup"),
        (["classify", "IN", "--test", "NOWHERE"], 3, "does not exist"),
        (["classify", "IN", "--test", "LARGE"], 2, "have 40x40. Give --image-size 32 to have them"),
        (["inspect", "NOWHERE"], 3, "does not exist"),
        (["inspect", "gibberish://x"], 2, "cannot be opened"),
        (["report", "IN"], 3, "not the folder of a raydvae run"),
        (["import", "NOWHERE", "OUT", "--format", "imagefolder"], 3, "does not exist"),
    ],
)
def test_mistakes_get_a_message_and_an_exit_code(
    args: list[str],
    code: int,
    says: str,
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").symlink_to(digits_folder)
    write(tmp_path / "LARGE", struct_table([as_bytes(np.zeros((40, 40, 3), np.uint8))] * 10, range(10)))
    got, out, err = cli(capsys, *args)
    assert got == code, err
    assert says in out + err
    assert "Traceback" not in out + err
    assert not (tmp_path / "OUT").exists(), "nothing was begun"


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(capsys, "--version") == (0, f"raydvae {importlib.metadata.version('raydvae')}\n", "")


@pytest.mark.parametrize(
    "args",
    [
        ["purify", "IN", "IN"],
        ["purify", "IN", "IN/out", "--dry-run"],
        ["purify", "IN/", "./IN/../IN/out"],
        ["defend", "gray", "IN", "IN/out"],
        ["poison", "lsp", "IN", "IN/out"],
        ["detect", "IN", "--out", "IN/flags.parquet"],
        ["tune", "IN", "--out", "IN/tuned"],
        ["grow", "OTHER", "IN", "IN/grown"],
        ["grow", "IN", "OTHER", "LINK/grown"],
        ["table", "2", "--data", "SPLIT", "--out", "SPLIT/tables"],
    ],
)
def test_nothing_is_written_among_the_files_of_the_source(
    args: list[str],
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("IN", "OTHER"):
        shutil.copytree(digits_folder, tmp_path / name)
    (tmp_path / "LINK").symlink_to(tmp_path / "IN")
    for split in ("train", "test"):
        shutil.copytree(digits_folder, tmp_path / "SPLIT" / split)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = cli(capsys, *args)
    assert code == 2, err
    assert "lies in the source" in err and "Give a folder beside it" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("source", "out"), [("IN/*.parquet", "IN/out"), ("IN", "IN/_out"), ("IN", "IN-out")])
def test_where_it_would_not_be_read_again_it_may_be_written(
    source: str, out: str, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits_folder, tmp_path / "IN")
    code, _, err = cli(capsys, "defend", "gray", str(tmp_path / source), str(tmp_path / out), "--json")
    assert code == 0, err
    again = open_dataset(str(tmp_path / source))
    assert again.rows == open_dataset(str(digits_folder)).rows


def test_a_dry_run_sees_that_the_folder_is_another_runs(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(capsys, "defend", "gray", str(digits_folder), str(tmp_path / "gray"), "--json")[0] == 0
    code, _, err = cli(capsys, "purify", str(digits_folder), str(tmp_path / "gray"), "--dry-run")
    assert code == 2
    assert "holds a defend run, not a purify run" in err


@pytest.mark.parametrize("args", [["purify", "--help"], ["inspect", "IN"]])
def test_a_reader_that_leaves_gets_no_traceback_and_no_success(
    args: list[str], digits_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "IN").symlink_to(digits_folder)
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "raydvae.cli.main", *args]
    done = subprocess.run(command, cwd=tmp_path, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_import_poison_and_inspect_tell_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    clean, poisoned, again = tmp_path / "clean", tmp_path / "poisoned", tmp_path / "again"
    args = (
        "digits",
        clean,
        "--format",
        "digits",
        "--split",
        "test",
        "--limit-per-class",
        "4",
        "--rows-per-shard",
        "15",
    )
    code, out, _ = cli(capsys, "import", *args, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["rows"] == 40
    code, out, _ = cli(capsys, "inspect", clean, "--json")
    about = json.loads(out.splitlines()[-1])
    assert (about["rows"], about["shards"], about["classes"], about["image_sizes"]) == (40, 3, 10, {"32x32": 15})
    assert set(about["rows_per_class"].values()) == {4}
    code, out, _ = cli(capsys, "poison", "lsp", clean, poisoned, "--json")
    assert code == 0
    made = json.loads(out.splitlines()[-1])
    assert (made["rows_in"], made["rows_poisoned"]) == (40, 40)
    release = tmp_path / "release.pt"
    assert cli(capsys, "export-poison", poisoned, release, "--clean", clean)[0] == 0
    code, out, _ = cli(capsys, "import-poison", release, again, "--clean", clean, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["rows_poisoned"] == 40
    before, after = (pads.dataset(str(folder), exclude_invalid_files=True).to_table() for folder in (poisoned, again))
    assert before["image"].to_pylist() == after["image"].to_pylist()
    code, out, _ = cli(capsys, "inspect", "--poison", again, "--clean", clean, "--json")
    assert (code, json.loads(out.splitlines()[-1])["rows_poisoned"]) == (0, 40)


def test_a_divided_folder_is_told_alike_by_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    pictures = [as_bytes(np.full((16, 16, 3), 40 * i, np.uint8)) for i in range(5)]
    for name, rows in {"train-0": 2, "train-1": 2, "test-\x1b0": 5}.items():
        write(tmp_path / "in", struct_table(pictures[:rows], list(range(rows))), f"data/{name}.parquet")
    said = (
        "taken: 2 files of train, 4 rows; left out: 1 file of another part (data/test-\\x1b0.parquet). "
        "To take others, give their folder, file or glob."
    )
    code, out, _ = cli(capsys, "inspect", tmp_path / "in")
    assert (code, said in out, "rows      9 in 3 shards" in out) == (0, True, True)
    _, out, _ = cli(capsys, "inspect", tmp_path / "in", "--json")
    assert {part: about["rows"] for part, about in json.loads(out)["parts"].items()} == {"train": 4, "test": 5}
    runs = {
        "defend": ["defend", "gray", tmp_path / "in", tmp_path / "gray"],
        "purify": [
            "purify",
            tmp_path / "in",
            tmp_path / "clean",
            "--dry-run",
            "--width",
            "8",
            "--batch",
            "4",
            "--slices",
            "1",
        ],
    }
    for name, args in runs.items():
        code, out, err = cli(capsys, *args, "--json")
        assert (code, said in err) == (0, True), err
        about = json.loads(out.splitlines()[-1])
        assert about["left_out"] == ["data/test-\x1b0.parquet"]
        assert about["rows_in" if name == "defend" else "rows"] == 4
        assert "\x1b" not in out + err


def test_an_import_says_what_it_took_and_what_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = as_bytes(np.zeros((8, 8, 3), np.uint8))
    for name, data in {
        "x/Train/cat/1.png": picture,
        "x/Train/cat/2.png": b"no image",
        "x/Test/cat/1.png": picture,
        "x/val/cat/1.png": picture,
        "x/Train/cat/\x1b[31m": b"text",
    }.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    code, out, _ = cli(capsys, "import", tmp_path / "in", tmp_path / "out", "--format", "imagefolder")
    assert code == 0
    assert [line.strip() for line in out.splitlines()] == [
        f"3 rows of 1 classes in 2 shards (train 2, test 1): {tmp_path / 'out'}",
        "classes are the folders in x/",
        "train is the folder x/Train, test is the folder x/Test",
        "1 of 3 images cannot be read: 1 text. They are rows, and will be rejected with their reasons; convert them to "
        f"one of {', '.join(READ.values())} to keep them",
        "skipped 1: file of neither split (val/)",
        "skipped 1: no image (\\x1b[31m)",
    ]
    code, out, _ = cli(capsys, "import", tmp_path / "in", tmp_path / "o", "--format", "imagefolder", "--json")
    about = json.loads(out)
    assert about["unreadable"] == {"text": 1}
    assert about["parts"] == {"train": 2, "test": 1}


def test_folder_of_horrors(tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None) -> None:
    """Every good row is purified, every bad row is in quarantine with its reason, and the counts add up."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    palette = picture.convert("P")
    palette.info["transparency"] = 3
    deep = Image.fromarray(rng.integers(0, 65536, (32, 32), dtype=np.uint16))
    good = {
        "16-bit png": as_bytes(deep),
        "palette png with alpha": as_bytes(palette, transparency=3),
        "cmyk jpeg": as_bytes(picture.convert("CMYK"), "JPEG"),
        "grey png": as_bytes(picture.convert("L")),
        **{f"plain {i}": as_bytes(picture.rotate(i * 7)) for i in range(16)},
    }
    bad = {
        "truncated jpeg": (as_bytes(picture, "JPEG")[:-200], 1, "cannot be decoded"),
        "text file": (b"these are no pixels", 1, "text, not a JPEG, PNG, WebP"),
        "1x1 png": (as_bytes(picture.resize((1, 1))), 1, "1x1 pixels where 32x32 are expected"),
        "label out of range": (as_bytes(picture), 10, "label 10 is outside of the 10 classes"),
    }
    images = [*good.values(), *(data for data, _, _ in bad.values())]
    labels = [*(i % 10 for i in range(len(good))), *(label for _, label, _ in bad.values())]
    names = [*good, *bad]
    source = write(tmp_path / "in", struct_table(images, labels, name=names), groups=6)

    args = (
        "purify",
        source,
        tmp_path / "out",
        "--preset",
        "digits",
        "--width",
        "4",
        "--epochs",
        "1",
        "--unit-rows",
        "9",
    )
    code, _, err = cli(capsys, *args)
    assert code == 3
    assert "4 of 24 rows cannot be used, more than the limit of 1.0%" in err

    code, out, err = cli(capsys, *args[:2], tmp_path / "out2", *args[3:], "--reject-limit", "0.2", "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["rows_in"], result["rows_out"], result["rows_rejected"]) == (24, 20, 4)
    purified = pq.read_table(tmp_path / "out2")
    assert purified["name"].to_pylist() == list(good)
    assert purified.schema.types == pq.read_table(source).schema.types
    for row in purified["image"].to_pylist():
        assert Image.open(io.BytesIO(row["bytes"])).size == (32, 32)
    rejected = pa.concat_tables(
        pq.read_table(file) for file in sorted((tmp_path / "out2/_raydvae/rejected").glob("*.parquet"))
    )
    reasons = dict(zip(rejected["name"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    originals = dict(zip(rejected["name"].to_pylist(), rejected["image"].to_pylist(), strict=True))
    assert reasons.keys() == bad.keys()
    for name, (data, _, reason) in bad.items():
        assert reason in reasons[name], name
        assert originals[name]["bytes"] == data, "the original bytes are kept"
    assert rejected["row_id"].to_pylist() == [f"train-0.parquet#{20 + i}" for i in range(4)]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes in this process too: what is tested here is not Ray."""
    from raydvae.distributed.engine import RayEngine
    from raydvae.engine import InProcess

    monkeypatch.setattr(RayEngine, "map", lambda self, work, units: InProcess().map(work, units))


def test_poison_purify_classify_inspect_and_report_belong_together(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    poisoned, purified = tmp_path / "poisoned", tmp_path / "purified"
    code, out, _ = cli(capsys, "poison", "lsp", digits_folder, poisoned, "--ratio", "0.5", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["rows_poisoned"] == 90
    table = pq.read_table(poisoned / "_raydvae/poison.parquet")
    assert table.column_names == ["row_id", "poisoned", "norm"]
    assert sum(table["poisoned"].to_pylist()) == 90
    norms = {p: n for p, n in zip(table["poisoned"].to_pylist(), table["norm"].to_pylist(), strict=True)}
    assert norms[False] == 0
    assert 0.5 < norms[True] <= 1

    settings = ("--preset", "digits", "--width", "4", "--epochs", "1")
    for _ in range(2):  # the second call says that it is complete
        code, out, _ = cli(capsys, "purify", poisoned, purified, *settings, "--json")
        assert code == 0
        result = json.loads(out.splitlines()[-1])
        assert {
            "rows_in", "rows_out", "rows_rejected", "stage1_psnr", "stage2_psnr", "stage1_kld", "stage2_kld",
            "seconds", "images_per_second", "report",
        } <= result.keys()  # fmt: skip
        assert set(result["seconds"]) == {"stage1", "pass1", "stage2", "pass3"}
        assert set(result["images_per_second"]) == {"pass1", "pass3"}
    page = Path(result["report"]).read_text()
    assert "180" in page
    assert page.count("<img") >= 10

    ids = [i for unit in open_dataset(str(purified)).units() for i in unit.row_ids()]
    assert ids == table["row_id"].to_pylist(), "a row keeps its id from step to step"

    code, out, _ = cli(capsys, "inspect", purified, "--json")
    about = json.loads(out.splitlines()[-1])
    assert [step["kind"] for step in about["lineage"]] == ["purify", "poison"]
    assert about["commits"] == {"pass1": 3, "pass3": 3}

    args = ("classify", purified, "--test", digits_folder, "--model", "small", "--epochs", "1", "--batch", "16")
    code, out, _ = cli(capsys, *args, "--json")
    assert code == 0
    assert {"test_acc", "train_acc", "seconds"} <= json.loads(out.splitlines()[-1]).keys()

    (purified / "_raydvae/report.html").unlink()
    code, out, _ = cli(capsys, "report", purified)
    assert code == 0
    assert (purified / "_raydvae/report.html").exists()


def test_toml_of_a_run_repeats_it(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: None
) -> None:
    from raydvae.config import dump_toml
    from tests.conftest import small_config
    from tests.purify.test_algorithm import hashes

    (tmp_path / "my.toml").write_text(dump_toml(small_config(epochs=1, pass_batch=128)))
    code, _, err = cli(capsys, "purify", digits_folder, tmp_path / "a", "--config", tmp_path / "my.toml")
    assert code == 0, err
    code, _, err = cli(
        capsys,
        "purify",
        digits_folder,
        tmp_path / "b",
        "--preset",
        "digits",
        "--epochs",
        "1",
        "--width",
        "4",
        "--batch",
        "32",
        "--unit-rows",
        "40",
    )
    assert code == 0, err
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kld = 1", "Unknown setting 'kld'"),
        ("stage1.loss.kld_target = 'low'", "stage1.loss.kld_target is 'low'; it must be of type float"),
        ("preset = 'mnist'", "There is no preset 'mnist'"),
        ("this is not toml", "not valid TOML"),
    ],
)
def test_a_wrong_toml_is_refused(
    text: str, says: str, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").write_text(text)
    code, _, err = cli(capsys, "purify", digits_folder, tmp_path / "out", "--config", tmp_path / "my.toml")
    assert code == 2
    assert says in err
