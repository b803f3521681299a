"""What is found damaged of a step's files, and what a data set of committed files says when it is read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from raydvae.config import DataConfig
from raydvae.data import damage
from raydvae.data.damage import Committed, Found, examine, mend, open_committed
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import HOME, SEAL, Run
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write
from tests.s3 import S3Server

IMAGES = random_images(10)
FIRST = "train-0-r0000000000"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """10 rows in three units; the fourth row is no image."""
    images = [as_bytes(image) for image in IMAGES]
    table = struct_table([*images[:3], b"text", *images[4:]], list(range(10)))
    return open_dataset(str(write(tmp_path / "in", table, groups=4)), DataConfig(unit_rows=4))


def commit_all(run: Run, dataset: Dataset, folder: str = "") -> None:
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        run.commit("defend", dataset, rows, 255 - rows.images, folder)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server, dataset: Dataset) -> Run:
    run = Run(Store(str(tmp_path / "out")) if request.param == "local" else s3_server.store())
    commit_all(run, dataset)
    return run


def what(found: Found) -> dict[str, str]:
    return {each.file: each.what for each in found.damaged}


def test_files_that_are_whole_are_no_damage(run: Run) -> None:
    for sums in (None, True, False):
        found = examine(run, "defend", sums)
        assert found.damaged == [] and sorted(found.good) == sorted(run.done("defend")) and len(found.good) == 3


def test_each_kind_of_damage_is_told(run: Run) -> None:
    rejected, record = f"{HOME}/rejected/{FIRST}.parquet", f"{HOME}/commits/defend/train-0-r0000000004.json"
    last = "train-0-r0000000008.parquet"
    data, size = run.store.read(last), len(run.store.read(rejected))
    run.store.delete(rejected)
    run.store.write(record, b"")
    run.store.write(last, data[:-1] + b"?")
    assert what(examine(run, "defend", sums=False)) == {rejected: "is missing", record: "is no commit record"}
    told = what(examine(run, "defend", sums=True))
    assert told == {rejected: "is missing", record: "is no commit record", last: "has other bytes than were written"}
    assert what(examine(run, "defend")) == (told if run.store.is_local else examine_of(told, rejected, record))
    run.store.write(rejected, b"12")
    assert what(examine(run, "defend", sums=False))[rejected] == f"has 2 bytes instead of {size}"


def examine_of(told: dict[str, str], *files: str) -> dict[str, str]:
    return {file: told[file] for file in files}


def test_mending_makes_units_count_as_not_done(run: Run, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    before = {name: run.store.read(name) for name in run.store.list()}
    run.store.delete(f"{FIRST}.parquet")
    assert run.done("defend") != set(mend(run, "defend").good)
    assert FIRST not in run.done("defend") and len(run.done("defend")) == 2
    assert f"defend: 1 file is damaged: {FIRST}.parquet is missing. Doing units again: 1." in caplog.text
    commit_all(run, dataset)
    assert {name: run.store.read(name) for name in run.store.list()} == before


def test_what_a_kill_left_half_written_is_no_record(run: Run) -> None:
    run.home.write("commits/defend/.tmp-0123", b'{"unit')
    assert len(run.records("defend")) == 3 and examine(run, "defend").damaged == []


def test_records_of_the_version_before_are_compared_too(run: Run) -> None:
    name = f"commits/defend/{FIRST}.json"
    run.home.write_json(
        name, {key: value for key, value in run.home.read_json(name).items() if key not in ("files", SEAL)}
    )
    assert examine(run, "defend").damaged == []
    run.store.delete(f"{FIRST}.parquet")
    assert what(examine(run, "defend")) == {f"{FIRST}.parquet": "is missing"}


def test_files_that_are_deleted_once_used_may_be_gone_but_not_be_cut(dataset: Dataset, tmp_path: Path) -> None:
    run = Run(Store(str(tmp_path / "out")))
    commit_all(run, dataset, f"{HOME}/work/p1")
    cut = f"{HOME}/work/p1/{FIRST}.parquet"
    run.store.write(cut, b"cut")
    run.store.delete(f"{HOME}/work/p1/train-0-r0000000004.parquet")
    assert [*what(examine(run, "defend", spare=f"{HOME}/work/"))] == [cut]
    assert len(what(examine(run, "defend"))) == 2
    assert what(examine(run, "defend", only={"train-0-r0000000008"})) == {}


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b'{"unit": "' + FIRST.encode() + b'"}', b"\xfe"])
def test_a_damaged_record_is_told_to_those_who_read_it(run: Run, text: bytes) -> None:
    run.home.write(f"commits/defend/{FIRST}.json", text)
    assert [each.unit for each in examine(run, "defend").damaged] == [FIRST]
    if not text.startswith(b'{"unit'):
        with pytest.raises(DataError, match=rf"commits/defend/{FIRST}\.json is damaged; run the command that made"):
            run.records("defend")


def test_a_committed_file_is_compared_as_it_is_read(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Store(str(tmp_path / "out")))
    commit_all(run, dataset, f"{HOME}/work/p1")
    found: Committed = pickle.loads(pickle.dumps(open_committed(run, "defend", "work/p1", dataset)))
    plain = open_dataset(f"{run.home.uri}/work/p1", dataset.data)
    assert found.files == plain.files and len(found.sums) == 3
    assert [found.read(unit) for unit in found.units()] == [plain.read(unit) for unit in plain.units()]
    assert found.read(found.units()[0], ["label"]).column_names == ["label"]
    path = tmp_path / f"out/{HOME}/work/p1/{found.files[1].name}"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found.read(found.units()[0])
    with pytest.raises(DataError, match=rf"{found.files[1].name} is damaged: it has other bytes than were written"):
        found.read(found.units()[1])


def test_mending_is_tried_once_and_only_where_there_is_damage() -> None:
    calls: list[str] = []

    def use() -> str:
        calls.append("use")
        if len(calls) < 3:
            raise DataError("It cannot be read.")
        return "read"

    def mends() -> bool:
        calls.append("mend")
        return True

    assert damage.mending(use, mends) == "read" and calls == ["use", "mend", "use"]
    calls.clear()
    with pytest.raises(DataError):
        damage.mending(use, lambda: False)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"7", b'"x"', b'{"format": 1}', b'{"format": 1, "kind": [], "config": {}}']
)
def test_a_run_json_that_says_nothing_is_refused(tmp_path: Path, text: bytes) -> None:
    run = Run(Store(str(tmp_path)))
    run.home.write("run.json", text)
    with pytest.raises(DataError, match=r"run\.json is damaged.*Put it back from a copy, or give another folder"):
        run.read()
    assert json.loads(text) is not None
