"""Runs: what is published, that it is repeatable and readable by others, and whose folder it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from raydvae.config import DataConfig, cifar10, to_dict
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import HOME, Run, _inside, check_rejected, parquet_bytes
from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError, StorageError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write

IMAGES = random_images(10)
CONFIG = to_dict(cifar10())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    images = [as_bytes(image) for image in IMAGES]
    table = struct_table([*images[:3], b"text", *images[4:]], list(range(10)), name=list("abcdefghij"))
    return open_dataset(str(write(tmp_path / "in", table, groups=4)), DataConfig(unit_rows=4))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Store(str(tmp_path / "out")))


def commit_all(run: Run, dataset: Dataset, step: str = "p1", folder: str = "") -> list[dict[str, object]]:
    out = []
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        out.append(run.commit(step, dataset, rows, 255 - rows.images, folder, {"seconds": 0}))
    return out


def contents(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.list()}


def test_a_commit_counts_and_checks_what_it_published(run: Run, dataset: Dataset) -> None:
    records = commit_all(run, dataset)
    assert run.records("p1") == records
    assert run.done("p1") == {unit.id for unit in dataset.units()}
    for record in records:
        data = run.store.read(f"{record['unit']}.parquet")
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert pq.read_metadata(pa.BufferReader(data)).num_rows == record["rows_out"]
        assert record["rows_in"] == record["rows_out"] + record["rows_rejected"]  # type: ignore[operator]
    assert sum(record["rows_in"] for record in records) == 10  # type: ignore[misc]
    rejected = pq.read_table(pa.BufferReader(run.home.read("rejected/train-0-r0000000000.parquet")))
    assert rejected.column("image").to_pylist() == [{"bytes": b"text", "path": "3.png"}]
    assert rejected.column("row_id").to_pylist() == ["train-0.parquet#3"]
    assert "not a JPEG" in rejected.column("reason")[0].as_py()


def test_committing_again_gives_the_same_bytes(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    commit_all(run, dataset)
    first = contents(run.store)
    commit_all(run, dataset)
    assert contents(run.store) == first
    other = Run(Store(str(tmp_path / "other")))
    commit_all(other, dataset)
    assert contents(other.store) == first


def test_outputs_are_read_by_others(run: Run, dataset: Dataset) -> None:
    commit_all(run, dataset)
    table = pyarrow.dataset.dataset(run.store.uri, format="parquet").to_table()  # the run's own files are not listed
    assert table.column("name").to_pylist() == list("abcefghij")
    pandas = pytest.importorskip("pandas")
    frame = pandas.concat([pandas.read_parquet(path) for path in sorted(Path(run.store.uri).glob("*.parquet"))])
    assert frame["label"].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert frame["image"].iloc[0]["path"] == "0.png"


def test_a_pandas_index_does_not_come_in_the_way(run: Run, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [as_bytes(image) for image in IMAGES], "label": range(10)})
    (tmp_path / "frames").mkdir()
    frame.to_parquet(tmp_path / "frames" / "a.parquet")
    source = open_dataset(str(tmp_path / "frames"), DataConfig(unit_rows=3))
    commit_all(run, source)
    parts = [pandas.read_parquet(path) for path in sorted(Path(run.store.uri).glob("*.parquet"))]
    assert pandas.concat(parts)["label"].tolist() == list(range(10))


def test_work_folders_are_no_part_of_the_output(run: Run, dataset: Dataset) -> None:
    commit_all(run, dataset, "p1", f"{HOME}/work/p1")
    with pytest.raises(DataError, match="holds no"):
        open_dataset(run.store.uri)
    assert open_dataset(f"{run.store.uri}/{HOME}/work/p1").rows == 9


def test_a_unit_without_good_rows_is_committed_without_a_file(run: Run, tmp_path: Path) -> None:
    bad = open_dataset(str(write(tmp_path / "bad", struct_table([b"x", None], [0, 0]))))
    (record,) = commit_all(run, bad)
    assert (record["rows_in"], record["rows_out"], record["sha256"]) == (2, 0, None)
    assert [name for name in run.store.list() if not name.startswith(HOME)] == []


def test_wrong_numbers_of_images_publish_nothing(run: Run, dataset: Dataset) -> None:
    unit = dataset.units()[0]
    rows = decode_unit(dataset, unit, 8)
    lost = dataclasses.replace(rows, rejected=rows.rejected.slice(0, 0))
    with pytest.raises(DataError, match="4 rows in, but 3 out; nothing was published"):
        run.commit("p1", dataset, lost, rows.images)
    assert run.store.list() == {}


def test_parquet_bytes_leave_images_alone_and_compress_the_rest() -> None:
    table = struct_table([as_bytes(image) for image in IMAGES], [0] * 10)
    meta = pq.read_metadata(pa.BufferReader(parquet_bytes(table, "image"))).row_group(0)
    kinds = {meta.column(i).path_in_schema: meta.column(i) for i in range(meta.num_columns)}
    assert {name: kind.compression for name, kind in kinds.items()} == {
        "image.bytes": "UNCOMPRESSED",
        "image.path": "ZSTD",
        "label": "ZSTD",
    }
    assert [kind.is_stats_set for kind in kinds.values()] == [False, True, True]


def test_raw_arrays_are_compressed() -> None:
    kind = pa.fixed_shape_tensor(pa.uint8(), (8, 8, 3))
    storage = pa.FixedSizeListArray.from_arrays(pa.array([7] * 1920, pa.uint8()), 192)
    table = pa.table({"image": pa.ExtensionArray.from_storage(kind, storage), "label": list(range(10))})
    meta = pq.read_metadata(pa.BufferReader(parquet_bytes(table, "image"))).row_group(0)
    assert [meta.column(i).compression for i in range(2)] == ["ZSTD", "ZSTD"]


def test_a_run_goes_on_with_the_same_settings(run: Run, dataset: Dataset) -> None:
    assert run.open("purify", CONFIG, dataset, {"steps": ["p1"]}) is False
    commit_all(run, dataset)
    assert run.open("purify", CONFIG, dataset, {"steps": ["p1"]}) is True
    assert run.read()["source"]["rows"] == 10
    assert set(run.read()["versions"]) >= {"raydvae", "torch", "pyarrow"}


def test_other_settings_are_named(run: Run, dataset: Dataset) -> None:
    run.open("purify", CONFIG, dataset, {})
    other = json.loads(json.dumps(CONFIG))
    other["stage1"]["loss"]["kld_target"] = 2.5
    with pytest.raises(ConfigError, match=r"config\.stage1\.loss\.kld_target = 1\.0, now it is 2\.5"):
        run.open("purify", other, dataset, {})
    with pytest.raises(ConfigError, match="holds a purify run, not a poison run"):
        run.open("poison", CONFIG, dataset, {})
    with pytest.raises(ConfigError, match=r"with attack = None, now it is 'lsp'"):
        run.open("purify", CONFIG, dataset, {"attack": "lsp"})


def test_a_changed_source_is_named(run: Run, dataset: Dataset) -> None:
    folder = Path(dataset.store.uri)
    run.open("purify", CONFIG, dataset, {})
    table = pq.read_table(folder / "train-0.parquet")
    write(folder, table, "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet is new since this run began"):
        run.open("purify", CONFIG, open_dataset(str(folder)), {})
    (folder / "train-0.parquet").unlink()
    with pytest.raises(DataError, match=r"train-0\.parquet is gone"):
        run.open("purify", CONFIG, open_dataset(str(folder)), {})
    (folder / "train-1.parquet").unlink()
    write(folder, table.slice(0, 9))
    with pytest.raises(DataError, match=r"train-0\.parquet has changed"):
        run.open("purify", CONFIG, open_dataset(str(folder)), {})


def test_a_strangers_folder_is_left_alone(run: Run, dataset: Dataset) -> None:
    run.store.write("mine.parquet", b"precious")
    with pytest.raises(StorageError, match=r"already holds data that no raydvae run made \(mine\.parquet\)"):
        run.open("purify", CONFIG, dataset, {})
    assert contents(run.store) == {"mine.parquet": b"precious"}


def test_no_run_and_a_run_of_another_format(run: Run) -> None:
    with pytest.raises(DataError, match="is not the folder of a raydvae run"):
        run.read()
    run.home.write_json("run.json", {"format": 99})
    with pytest.raises(ConfigError, match="written in format 99, this version reads up to 2"):
        run.read()


def test_too_many_rejected_rows_fail_a_run() -> None:
    check_rejected(1, 100, 0.01, "x")
    check_rejected(0, 0, 0.0, "x")
    with pytest.raises(DataError, match=r"2 of 100 rows cannot be used, more than the limit of 1\.0%.*: see x\."):
        check_rejected(2, 100, 0.01, "see x")


@pytest.mark.parametrize(
    ("out", "source", "inside"),
    [
        ("memory://a/x/out", "memory://a/x", True),
        ("memory://a/x/", "memory://a/x", True),
        ("memory://a/x-out", "memory://a/x", False),
        ("memory://a/x/_out/1", "memory://a/x", False),
        ("memory://a", "memory://a/x", False),
        ("memory:///tmp/a/x", "/tmp/a", False),
        ("/tmp/a/./b/../x", "/tmp/a/", True),
        ("/tmp/x", "/", True),
    ],
)
def test_inside_means_that_a_later_listing_would_find_it(out: str, source: str, inside: bool) -> None:
    assert _inside(Store(out), Store(source)) is inside
