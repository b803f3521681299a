"""Labels of every type that is read, ids far apart, limits, and what is said of labels that are none."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.config import DataConfig
from raydvae.data import classes as module
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import RUN
from raydvae.data.rows import build_table, reason_columns
from raydvae.data.schema import huggingface_metadata
from raydvae.data.shapes import mismatch
from raydvae.errors import ConfigError, DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write

PNGS = [as_bytes(image) for image in random_images(6)]


def labeled(tmp_path: Path, labels: pa.Array | list[object], name: str = "x.parquet") -> Dataset:
    table = struct_table(PNGS[: len(labels)], [0] * len(labels))
    values = labels if isinstance(labels, pa.Array) else pa.array(labels)
    return open_dataset(str(write(tmp_path, table.set_column(1, "label", values), name)))


NUMBERS = [2, 0, 1, 0, 2, None]
TEXTS = ["eel", "cat", "dog", "cat", "eel", None]
KINDS = {
    "int8": pa.array(NUMBERS, pa.int8()),
    "uint64": pa.array(NUMBERS, pa.uint64()),
    "float": pa.array(NUMBERS, pa.float64()),
    "half": pa.array(NUMBERS, pa.float32()).cast(pa.float16()),
    "decimal": pa.array([None if v is None else decimal.Decimal(v) for v in NUMBERS], pa.decimal128(5, 0)),
    "decimal with places": pa.array([None if v is None else decimal.Decimal(v) for v in NUMBERS], pa.decimal128(5, 2)),
    "dictionary": pa.array(NUMBERS).dictionary_encode(),
    "list": pa.array([[v] for v in NUMBERS]),
    "large list": pa.array([[v] for v in NUMBERS], pa.large_list(pa.int16())),
    "fixed list": pa.array([[v] for v in NUMBERS], pa.list_(pa.int16(), 1)),
    "empty list": pa.array([[] if v is None else [v] for v in NUMBERS]),
    "list of two": pa.array([[0, 1] if v is None else [v] for v in NUMBERS]),
    "string": pa.array(TEXTS),
    "large string": pa.array(TEXTS, pa.large_string()),
    "string view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([None if v is None else v.encode() for v in TEXTS], pa.binary()),
    "no UTF-8": pa.array([b"\xff" if v is None else v.encode() for v in TEXTS], pa.binary()),
    "dictionary of text": pa.array(TEXTS).dictionary_encode(),
    "list of text": pa.array([[v] for v in TEXTS]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_type(kind: str, tmp_path: Path) -> None:
    dataset = labeled(tmp_path, KINDS[kind])
    text = isinstance(KINDS[kind][0].as_py(), str | bytes) or kind == "list of text"
    names = ("cat", "dog", "eel") if text else None
    assert find_classes(dataset) == Classes(3, names, text=text)
    rows = decode_unit(dataset, dataset.units()[0], 8)
    assert rows.labels.tolist() == [2, 0, 1, 0, 2]
    assert rows.rejected.num_rows == 1
    built = build_table(dataset.schema, rows, rows.images)
    assert built.schema.field("label").type == pq.read_schema(tmp_path / "x.parquet").field("label").type
    assert built.column("label").to_pylist() == KINDS[kind].to_pylist()[:5]


def test_booleans_are_two_classes(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, [True, False, None])
    assert find_classes(dataset) == Classes(2, None, text=False)
    assert decode_unit(dataset, dataset.units()[0], 8).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        ([7, 300, 99999, 300], (7, 300, 99999)),
        ([1, 2, 2_000_000_000, None, -1], (1, 2, 2_000_000_000)),
        ([100.0, 200.0, 300.0], (100, 200, 300)),
        ([2**63 - 1, 0], (0, 2**63 - 1)),
        (pa.array([2**64 - 1, 7], pa.uint64()), (7, 2**64 - 1)),
        (pa.array([decimal.Decimal(10**60), decimal.Decimal(0)], pa.decimal256(76, 0)), (0, 10**60)),
    ],
)
def test_ids_far_apart_are_as_many_classes_as_ids(tmp_path: Path, labels: list[Any], ids: tuple[int, ...]) -> None:
    dataset = labeled(tmp_path, labels)
    classes = find_classes(dataset)
    assert classes == Classes(len(ids), tuple(map(str, ids)), text=False, ids=ids)
    rows = decode_unit(dataset, dataset.units()[0], 8)
    values = labels.to_pylist() if isinstance(labels, pa.Array) else labels
    assert rows.labels.tolist() == [ids.index(int(v)) for v in values if v is not None and v >= 0]
    kept = json.loads(json.dumps(classes.to_dict()))
    assert Classes.from_dict(kept, dataset) == classes
    assert mismatch(kept, RUN["classes?"]) == ""  # else the same command would not go on
    if sum(label >= 10 for label in ids) * 2 > len(ids):
        assert find_classes(dataset, 10) == classes  # as many as a preset has, or more than there are
    assert find_classes(dataset, 1) == Classes(1, None, text=False)


def test_a_stray_label_is_no_class_where_classes_are_counted(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, [0, 1, 2, 3, 999])
    assert find_classes(dataset, 10) == Classes(10, None, text=False)
    assert decode_unit(dataset, dataset.units()[0], 8, 10).reasons == ["label 999 is outside of the 10 classes"]


@pytest.mark.parametrize("labels", [[99, 0], [1, 2, 3], [0] * 5 + [5], [9]])
def test_dense_ids_are_themselves(tmp_path: Path, labels: list[object]) -> None:
    found = find_classes(labeled(tmp_path, labels))
    assert found == Classes(max(labels) + 1, None, text=False)  # type: ignore[type-var,operator]
    assert found.to_dict() == {"count": found.count, "names": None}


def test_names_that_are_numbers_stay_names(tmp_path: Path) -> None:
    table = struct_table(PNGS[:3], [2, 1, 0]).replace_schema_metadata(huggingface_metadata(["500", "3", "7"]))
    dataset = open_dataset(str(write(tmp_path, table)))
    classes = find_classes(dataset)
    assert classes == Classes(3, ("500", "3", "7"), text=False)
    assert Classes.from_dict(classes.to_dict(), dataset).numbers(pa.array([2, 1, 0])).tolist() == [2, 1, 0]


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], [0, 1000, 2000, 3000]])
def test_one_limit_for_all_labels(tmp_path: Path, labels: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = labeled(tmp_path, labels)
    assert find_classes(dataset).count == 4
    monkeypatch.setattr(module, "MAX_CLASSES", 3)
    with pytest.raises(DataError, match="more than 3 different labels; that is no class label"):
        find_classes(dataset)
    with pytest.raises(ConfigError, match="4 classes are asked for, and at most 3"):
        find_classes(labeled(tmp_path, [0]), 4)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([-1, 1, -1], "holds -1 and 1, and classes are numbered from 0: write 0 and 1"),
        ([-1, -1], "no usable label: all are negative, as -1 is where a test split hides them"),
        ([None, float("nan")], r"no usable label: all are null\."),
        ([[0, 1, 0], [1, 0, 0]], "all are null, or lists of none or several labels.*one-hot .*numpy.argmax"),
        ([0.0, 0.5], "holds 0.5, which is no class: .*Round it and cast it to int64"),
        ([0.0, float("inf")], "holds inf, which is no class"),
    ],
)
def test_numbers_that_are_no_labels_are_explained(tmp_path: Path, labels: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        find_classes(labeled(tmp_path, labels))


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), {"id": 1}, datetime.timedelta(1), [["a"]], [[1]]])
def test_another_type_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(
        DataError, match=r"Column 'label' is of type .*; read are whole numbers .*: cast it, or set"
    ) as e:
        labeled(tmp_path, [value])
    assert "Name it" not in str(e.value)


def test_hidden_labels_beside_others_are_rejected_rows(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, [0, 1, -1])
    rows = decode_unit(dataset, dataset.units()[0], 8)
    assert rows.labels.tolist() == [0, 1]
    assert rows.reasons == ["label -1 is outside of the 2 classes"]


def test_a_reason_shows_a_label_s_beginning(tmp_path: Path) -> None:
    table = struct_table(PNGS[:2], ["a", "z" * 10**6]).replace_schema_metadata(huggingface_metadata(["a"]))
    dataset = open_dataset(str(write(tmp_path, table)))
    (reason,) = decode_unit(dataset, dataset.units()[0], 8).reasons
    assert reason == f"label '{'z' * 99}… is outside of the 1 classes"


def test_class_names_of_a_list_of_labels(tmp_path: Path) -> None:
    metadata = {
        b"huggingface": b'{"info": {"features": {"label": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, '
        b'"_type": "List"}}}}'
    }
    table = struct_table(PNGS[:2], [[1], [0]]).replace_schema_metadata(metadata)
    assert find_classes(open_dataset(str(write(tmp_path, table)))) == Classes(2, ("a", "b"), text=False)


def test_reasons_stand_beside_columns_of_the_same_name(tmp_path: Path) -> None:
    table = struct_table([PNGS[0], b"broken"], [0, 0], reason=["mine", "yours"], row_id=[5, 6])
    dataset = open_dataset(str(write(tmp_path, table)), DataConfig())
    rejected = decode_unit(dataset, dataset.units()[0], 8).rejected
    assert rejected.column_names == ["image", "label", "reason", "row_id", "reason_", "row_id_"]
    assert rejected["reason"].to_pylist() == ["yours"]
    assert rejected["row_id"].to_pylist() == [6]
    assert rejected["row_id_"].to_pylist() == ["train-0.parquet#1"]
    assert "not a JPEG" in rejected["reason_"][0].as_py()
    assert reason_columns(["a"]) == ("reason", "row_id")
    assert reason_columns(["row_id", "reason_"]) == ("reason__", "row_id__")
