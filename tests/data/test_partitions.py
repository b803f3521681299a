"""Hive folders: what their names tell becomes a column, and stays one in outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.partitions import fields_of, parts_of
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write

IMAGES = random_images(6)
TABLE = struct_table([as_bytes(image) for image in IMAGES], [0] * 6).drop(["label"])


def hive(folder: Path, *names: str) -> str:
    for at, name in enumerate(names):
        write(folder, TABLE.slice(2 * at, 2), f"{name}/part-0.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("folders", "kind", "labels", "names"),
    [
        (["label=0", "label=1", "label=2"], pa.int64(), [0, 0, 1, 1, 2, 2], None),
        (["label=cat", "label=a%20dog", "label=eel"], pa.string(), ["a dog"] * 2 + ["cat"] * 2 + ["eel"] * 2, 3),
        (["label=007", "label=1", "label=2"], pa.string(), ["007", "007", "1", "1", "2", "2"], 3),
        (["year=1/label=0", "year=1/label=1", "year=2/label=1"], pa.int64(), [0, 0, 1, 1, 1, 1], None),
    ],
)
def test_labels_of_folders_are_labels(
    tmp_path: Path, folders: list[str], kind: pa.DataType, labels: list[object], names: int | None
) -> None:
    dataset = open_dataset(hive(tmp_path / "in", *folders))
    assert dataset.schema.arrow.field("label").type == kind
    classes = find_classes(dataset)
    run = Run(Store(str(tmp_path / "out")))
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        run.commit("defend", dataset, rows, rows.images)
    written = ds.dataset(tmp_path / "out", format="parquet", partitioning="hive", exclude_invalid_files=True)
    table = ds.dataset([f for f in written.files if "_raydvae" not in f], format="parquet").to_table()
    assert table.column("label").to_pylist() == labels
    assert table.schema.field("label").type == kind
    assert ("year" in table.column_names) == ("year" in folders[0])
    again = open_dataset(str(tmp_path / "out"))
    assert find_classes(again) == classes
    got = np.concatenate([decode_unit(again, unit, 8).images for unit in again.units()])
    assert sorted(map(bytes, got)) == sorted(map(bytes, IMAGES))
    assert again.units()[0].row_ids() == dataset.units()[0].row_ids()  # they name the source's files, keys and all


def test_an_import_carries_them(tmp_path: Path) -> None:
    source = hive(tmp_path / "in", "label=0", "label=1", "label=2")
    import_dataset(source, Store(str(tmp_path / "out")), "parquet")
    (shard,) = (tmp_path / "out").glob("*.parquet")
    assert pq.ParquetFile(shard).read().column("label").to_pylist() == [0, 0, 1, 1, 2, 2]


def test_a_column_in_the_files_goes_before_its_folder(tmp_path: Path) -> None:
    write(tmp_path, TABLE.append_column("label", pa.array([4] * 6)), "label=3/a.parquet")
    dataset = open_dataset(str(tmp_path))
    assert dataset.schema.arrow.names == ["image", "label"]
    assert decode_unit(dataset, dataset.units()[0], 8).labels.tolist() == [4] * 6


def test_files_beside_the_folders_lack_the_column(tmp_path: Path) -> None:
    hive(tmp_path, "label=0")
    write(tmp_path, TABLE, "z.parquet")
    with pytest.raises(
        DataError, match=r"label=0/part-0.parquet has a column 'label' \(int64\) and z.parquet has none"
    ):
        open_dataset(str(tmp_path))


def test_what_folders_tell() -> None:
    assert parts_of("a=1/b=x%2Fy/c/d=2.parquet") == {"a": "1", "b": "x/y"}
    assert parts_of("a=__HIVE_DEFAULT_PARTITION__/f.parquet") == {"a": None}
    assert parts_of("=1/a=/f.parquet") == {"a": ""}
    names = ["a=-1/b=2/f", "a=__HIVE_DEFAULT_PARTITION__/b=x/f"]
    assert fields_of(names) == [pa.field("a", pa.int64()), pa.field("b", pa.string())]


@pytest.mark.parametrize("value", ["--5", "-", "-0", "5-", "\u0663", "1_0", "+1", str(2**63), "-" + "9" * 40])
def test_what_is_no_whole_number_of_64_bits_is_a_text(tmp_path: Path, value: str) -> None:
    dataset = open_dataset(hive(tmp_path, f"label={value}", "label=1"))
    assert dataset.schema.arrow.field("label").type == pa.string()
    assert find_classes(dataset).names == tuple(sorted([value, "1"]))


def test_escapes_of_no_text_stay_apart(tmp_path: Path) -> None:
    dataset = open_dataset(hive(tmp_path, "label=caf%E9", "label=caf%E8", "label=caf%C3%A9"))
    assert find_classes(dataset).names == ("caf%E8", "caf%E9", "café")


def test_outputs_of_values_with_an_equals_sign_tell_no_column(tmp_path: Path) -> None:
    dataset = open_dataset(hive(tmp_path / "in", "label=a=b", "label=c", "label=d==e"))
    run = Run(Store(str(tmp_path / "out")))
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        run.commit("defend", dataset, rows, rows.images)
    again = open_dataset(str(tmp_path / "out"))
    assert again.schema.arrow.names == ["image", "label"]
    assert find_classes(again).names == ("a=b", "c", "d==e")
