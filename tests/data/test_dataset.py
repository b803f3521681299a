"""Data sets: which files, which classes, which rows are refused and why."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.config import DataConfig
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.files import by_split
from raydvae.data.schema import huggingface_metadata
from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write

PNGS = [as_bytes(image) for image in random_images(6)]


def small(labels: list[object] | None = None) -> pa.Table:
    labels = [0, 1, 2, 0, 1, 2] if labels is None else labels
    return struct_table(PNGS[: len(labels)], labels)


def test_a_folder_a_file_and_a_glob(tmp_path: Path) -> None:
    for name in ("a.parquet", "sub/b.pq", "_raydvae/c.parquet", ".tmp-d.parquet", "sub/.hidden/e.parquet"):
        write(tmp_path, small(), name)
    (tmp_path / "README.md").write_text("hello")
    assert [f.name for f in open_dataset(str(tmp_path)).files] == ["a.parquet", "sub/b.pq"]
    assert [f.name for f in open_dataset(str(tmp_path / "a.parquet")).files] == ["a.parquet"]
    assert [f.name for f in open_dataset(str(tmp_path / "sub" / "*.pq")).files] == ["b.pq"]
    assert [f.name for f in open_dataset(str(tmp_path / "?.par*")).files] == ["a.parquet"]
    assert open_dataset(str(tmp_path)).rows == 12


def test_a_bucket_reads_as_a_disk_does(tmp_path: Path) -> None:
    write(tmp_path, small(), "a.parquet", groups=4)
    remote = Store(f"memory://{uuid.uuid4().hex}")
    remote.write("a.parquet", (tmp_path / "a.parquet").read_bytes())
    here, there = open_dataset(str(tmp_path)), open_dataset(remote.uri)
    assert here.files == there.files
    assert here.units() == there.units()
    assert all(here.read(unit).equals(there.read(unit)) for unit in here.units())


def test_nothing_to_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no .parquet files.*raydvae import"):
        open_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"No file matches .*\*.parquet"):
        open_dataset(str(tmp_path / "*.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"x.parquet is not a readable parquet file"):
        open_dataset(str(tmp_path))


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, small(), "a.parquet")
    write(tmp_path, small().append_column("more", pa.array([1] * 6)), "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet has other columns than a.parquet"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train-0", "train-1", "test-0"], "train", ["train-0", "train-1"]),
        (["train-0", "train-1", "test-0"], "test", ["test-0"]),
        (["train-0", "val-0"], "test", ["val-0"]),
        (["train-0", "validation-0", "test-0"], "test", ["test-0"]),
        (["data/train/0", "data/valid/0"], "test", ["data/valid/0"]),
        (["Train/0", "TEST/0"], "train", ["Train/0"]),
        (["train-0", "test-0"], None, ["test-0", "train-0"]),
        (["train-0", "train-1"], "test", ["train-0", "train-1"]),
        (["part-0", "part-1"], "train", ["part-0", "part-1"]),
        (["training-0", "testing-0"], "train", ["testing-0", "training-0"]),
    ],
)
def test_a_split_picks_files_by_name(tmp_path: Path, names: list[str], split: str | None, expected: list[str]) -> None:
    for name in names:
        write(tmp_path, small(), f"{name}.parquet")
    opened = open_dataset(str(tmp_path), split=split)
    assert [file.name.removesuffix(".parquet") for file in opened.files] == expected


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no split 'dev'; choose one of train, test"):
        open_dataset(str(write(tmp_path, small())), split="dev")


def test_by_split_needs_both_parts() -> None:
    assert by_split(["train-0.tar", "x.tar"]) == {}
    assert by_split(["train.tar", "val.tar", "x.tar"]) == {"train": ["train.tar"], "test": ["val.tar"]}


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["dog", "cat", None, "owl", "cat", "dog"]),
        pa.array(["dog", "cat", None, "owl", "cat", "dog"], pa.large_string()),
        pa.array(["dog", "cat", None, "owl", "cat", "dog"]).dictionary_encode(),
    ],
    ids=["string", "large string", "dictionary"],
)
def test_texts_are_numbered_in_sorted_order(tmp_path: Path, labels: pa.Array) -> None:
    dataset = open_dataset(str(write(tmp_path, small().set_column(1, "label", labels), groups=2)))
    classes = find_classes(dataset)
    assert classes == Classes(3, ("cat", "dog", "owl"), text=True)
    rows = decode_unit(dataset, dataset.units()[0], 8)
    assert rows.labels.tolist() == [1, 0, 2, 0, 1]
    assert rows.rejected.column("reason").to_pylist() == ["label None is outside of the 3 classes"]
    assert rows.carried.column("label").to_pylist() == ["dog", "cat", "owl", "cat", "dog"]


def test_a_dictionary_of_numbers_is_numbers(tmp_path: Path) -> None:
    labels = pa.array([5, 0, 5, 2, 0, 2]).dictionary_encode()
    dataset = open_dataset(str(write(tmp_path, small().set_column(1, "label", labels), groups=2)))
    assert find_classes(dataset) == Classes(6, None, text=False)
    assert decode_unit(dataset, dataset.units()[0], 8).labels.tolist() == [5, 0, 5, 2, 0, 2]


def test_numbers_are_counted_over_all_files(tmp_path: Path) -> None:
    write(tmp_path, small([0, 1, None]), "a.parquet")
    write(tmp_path, small([7, 2, 2]), "b.parquet")
    dataset = open_dataset(str(tmp_path))
    assert find_classes(dataset) == Classes(8, None, text=False)
    assert find_classes(dataset, 5) == Classes(5, None, text=False)


def test_names_in_the_schema_count_without_a_scan(tmp_path: Path) -> None:
    table = small([0] * 6).replace_schema_metadata(huggingface_metadata(["a", "b", "c", "d"]))
    dataset = open_dataset(str(write(tmp_path, table)))
    assert find_classes(dataset) == Classes(4, ("a", "b", "c", "d"), text=False)
    assert find_classes(dataset, 2) == Classes(2, None, text=False)


@pytest.mark.parametrize("labels", [[None, None], [-1, -2]])
def test_labels_of_no_class_are_an_error(tmp_path: Path, labels: list[object]) -> None:
    table = struct_table(PNGS[:2], labels)
    table = table.set_column(1, "label", table.column("label").cast(pa.int64()))
    with pytest.raises(DataError, match="holds no usable label"):
        find_classes(open_dataset(str(write(tmp_path, table))))


def test_bad_rows_are_rejected_with_reasons_and_none_is_lost(tmp_path: Path) -> None:
    good = random_images(2)
    jpeg = as_bytes(random_images(1, 8)[0], "JPEG", quality=100)
    images = [
        as_bytes(good[0]),
        jpeg[:-40],
        b"a text file",
        as_bytes(random_images(1, 1)[0]),
        PNGS[0],
        None,
        b"",
        PNGS[0],
        as_bytes(good[1]),
    ]
    table = struct_table(images, [0, 0, 0, 0, 99, 0, 0, None, 1], note=list("abcdefghi"))
    dataset = open_dataset(str(write(tmp_path, table)))
    (unit,) = dataset.units()
    rows = decode_unit(dataset, unit, 8, num_classes=2)
    assert np.array_equal(rows.images, good)
    assert rows.labels.tolist() == [0, 1]
    assert rows.kept.tolist() == [0, 8]
    assert rows.row_ids == ["train-0.parquet#0", "train-0.parquet#8"]
    assert len(rows.images) + rows.rejected.num_rows == unit.rows
    reasons = rows.rejected.column("reason").to_pylist()
    for reason, expected in zip(
        reasons,
        [
            "cannot be decoded",
            "not a JPEG",
            "1x1 pixels where 8x8",
            "label 99",
            "no image (null)",
            "no image bytes",
            "None",
        ],
        strict=True,
    ):
        assert expected in reason
    assert rows.rejected.column("row_id").to_pylist() == [f"train-0.parquet#{row}" for row in range(1, 8)]
    kept_bytes = [value and value["bytes"] for value in rows.rejected.column("image").to_pylist()]
    assert kept_bytes == images[1:8]  # as they came
    assert rows.rejected.column("note").to_pylist() == list("bcdefgh")


def test_a_unit_of_bad_rows_only(tmp_path: Path) -> None:
    dataset = open_dataset(str(write(tmp_path, struct_table([b"x", None], [0, 0]))))
    rows = decode_unit(dataset, dataset.units()[0], 8, 1)
    assert rows.images.shape == (0, 8, 8, 3)
    assert rows.rejected.num_rows == 2
    assert rows.row_ids == []


def test_columns_can_be_read_alone(tmp_path: Path) -> None:
    dataset = open_dataset(str(write(tmp_path, small(), groups=4)), DataConfig(unit_rows=5))
    read = [dataset.read(unit, ["label"]) for unit in dataset.units()]
    assert [table.column_names for table in read] == [["label"]] * len(read)
    assert pa.concat_tables(read).column("label").to_pylist() == [0, 1, 2, 0, 1, 2]


def test_a_file_that_shrank_is_noticed(tmp_path: Path) -> None:
    dataset = open_dataset(str(write(tmp_path, small())))
    write(tmp_path, small([0]))
    with pytest.raises(DataError, match="fewer rows than planned"):
        dataset.read(dataset.units()[0])


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path, small(), "a.parquet")
    write(tmp_path, small(), "b.parquet")
    write(tmp_path, small([0, 1, 2, 0, 1, 1]), "c.parquet")  # as long, and the same least and greatest label
    a, b, c = open_dataset(str(tmp_path)).files
    assert a.size == c.size
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_the_fingerprint_sees_other_pixels_of_the_same_size(tmp_path: Path) -> None:
    for seed in (1, 2):
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(random_images(400, 32, seed))
        table = pa.table({"image": column, "label": [0] * 400})
        path = tmp_path / f"{seed}.parquet"
        pq.write_table(table, path, compression="none", write_statistics=False, use_dictionary=False)
    one, two = open_dataset(str(tmp_path)).files
    assert one.size == two.size > 10**6
    assert one.fingerprint != two.fingerprint


def test_empty_files_have_no_units(tmp_path: Path) -> None:
    write(tmp_path, small(), "a.parquet")
    pq.write_table(small().slice(0, 0), tmp_path / "b.parquet")
    dataset = open_dataset(str(tmp_path))
    assert [unit.source for unit in dataset.units()] == ["a.parquet"]
