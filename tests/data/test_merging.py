"""Files whose schemas differ: harmlessly, then they are read and written as one; otherwise it is said what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.merging import widest
from raydvae.data.rows import build_table
from raydvae.data.schema import huggingface_metadata
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import STRUCT, as_bytes, decode_unit, random_images, struct_table, write

IMAGES = random_images(6)
PNGS = [as_bytes(image) for image in IMAGES]
A = struct_table(PNGS[:3], [0, 1, 2])
B = struct_table(PNGS[3:], [2, 1, 0])


def with_column(table: pa.Table, values: pa.Array | list[object], name: str = "note") -> pa.Table:
    return table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))


def recast(table: pa.Table, name: str, kind: pa.DataType, nullable: bool = True) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, pa.field(name, kind, nullable), table.column(name).cast(kind))


TEXT = ["x", None, "y"]
HARMLESS = {
    "order": (A, B.select(["label", "image"]), pa.int64()),
    "width": (A, recast(B, "label", pa.int32()), pa.int64()),
    "sign": (recast(A, "label", pa.uint16()), recast(B, "label", pa.int8()), pa.int32()),
    "float labels": (recast(A, "label", pa.int32()), recast(B, "label", pa.float64()), pa.float64()),
    "nullability": (A, recast(B, "label", pa.int64(), nullable=False), pa.int64()),
    "dictionary": (A, B.set_column(1, "label", B["label"].dictionary_encode()), pa.int64()),
    "labels only in the second": (A.set_column(1, "label", pa.nulls(3)), B, pa.int64()),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_differences_are_read_and_written_as_one_schema(case: str, tmp_path: Path) -> None:
    first, second, kind = HARMLESS[case]
    write(tmp_path / "in", first, "a.parquet")
    write(tmp_path / "in", second, "b.parquet")
    dataset = open_dataset(str(tmp_path / "in"))
    assert dataset.schema.arrow.names == ["image", "label"]
    assert dataset.schema.arrow.field("label") == pa.field("label", kind)
    written = Store(str(tmp_path / "out"))
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        if rows.labels.size:
            written.write(unit.file, parquet_bytes(build_table(dataset.schema, rows, rows.images), "image"))
    kept = 3 if case == "labels only in the second" else 0
    again = open_dataset(written.uri)
    assert again.schema.arrow.equals(dataset.schema.arrow)
    tables = [again.read(unit) for unit in again.units()]
    assert pa.concat_tables(tables).column("label").to_pylist() == [0, 1, 2, 2, 1, 0][kept:]
    images = np.concatenate([decode_unit(again, unit, 8).images for unit in again.units()])
    assert np.array_equal(images, IMAGES[kept:])
    import_dataset(str(tmp_path / "in"), Store(str(tmp_path / "imported")), "parquet")
    (shard,) = (tmp_path / "imported").glob("*.parquet")
    found = pq.read_table(shard)
    assert found.schema.field("label").type == kind
    assert found.column("label").to_pylist() == [*first["label"].to_pylist(), 2, 1, 0]


EXTRA = {
    "null": (pa.array(TEXT), pa.nulls(3), pa.string()),
    "null first": (pa.nulls(3), pa.array(TEXT), pa.string()),
    "large": (pa.array(TEXT), pa.array(TEXT, pa.large_string()), pa.large_string()),
    "view": (pa.array(TEXT, pa.string_view()), pa.array(TEXT), pa.string()),
    "views": (pa.array(TEXT, pa.string_view()), pa.array(TEXT, pa.string_view()), pa.string_view()),
    "dictionary": (pa.array(TEXT).dictionary_encode(), pa.array(TEXT), pa.string()),
    "float": (pa.array([1.5, None, 2.5], pa.float32()), pa.array([0.1, None, 0.2]), pa.float64()),
    "struct": (
        pa.array([{"u": 1, "v": "x"}, None, {"u": 2, "v": None}]),
        pa.array([{"v": None, "u": 1}, None, {"v": None, "u": 2}]),
        pa.struct([("u", pa.int64()), ("v", pa.string())]),
    ),
    "list": (
        pa.array([[1], None, []], pa.list_(pa.int8())),
        pa.array([[1], None, []], pa.large_list(pa.int64())),
        pa.large_list(pa.int64()),
    ),
}


@pytest.mark.parametrize("case", EXTRA)
def test_values_of_extra_columns_are_kept(case: str, tmp_path: Path) -> None:
    one, two, kind = EXTRA[case]
    write(tmp_path, with_column(A, one), "a.parquet")
    write(tmp_path, with_column(B, two), "b.parquet")
    dataset = open_dataset(str(tmp_path))
    assert dataset.schema.arrow.field("note").type.equals(kind)
    tables = []
    for unit in dataset.units():
        rows = decode_unit(dataset, unit, 8)
        tables.append(build_table(dataset.schema, rows, rows.images))
    assert all(table.schema.field("note").type.equals(kind) for table in tables)
    got = [value for table in tables for value in table.column("note").to_pylist()]
    assert got == one.to_pylist() + two.to_pylist()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            with_column(A, TEXT),
            with_column(B, [1, 2, 3]),
            r"column 'note' is string in a.parquet and int64 in b.parquet",
        ),
        (
            with_column(A, [1, 2, 3]),
            with_column(B, [0.5, 1, 2]),
            r"'note' is int64 in a.*double in b.*cast\(pa.int64\(\)\)",
        ),
        (with_column(A, TEXT), B, r"a.parquet has a column 'note' \(string\) and b.parquet has none.*pa.nulls"),
        (A, with_column(B, TEXT), r"b.parquet has a column 'note' \(string\) and a.parquet has none"),
    ],
)
def test_other_differences_are_named(tmp_path: Path, first: pa.Table, second: pa.Table, words: str) -> None:
    write(tmp_path, first, "a.parquet")
    write(tmp_path, second, "b.parquet")
    with pytest.raises(DataError, match=words):
        open_dataset(str(tmp_path))


def test_the_file_that_widened_a_column_is_the_one_named(tmp_path: Path) -> None:
    for name, values in (("a", pa.nulls(3)), ("b", pa.array(TEXT)), ("c", pa.array([1, 2, 3]))):
        write(tmp_path, with_column(A, values), f"{name}.parquet")
    with pytest.raises(DataError, match=r"string in b.parquet and int64 in c.parquet"):
        open_dataset(str(tmp_path))


def test_class_names_must_be_the_same(tmp_path: Path) -> None:
    write(tmp_path, A.replace_schema_metadata(huggingface_metadata(["cat", "dog", "eel"])), "a.parquet")
    write(tmp_path, B.replace_schema_metadata(huggingface_metadata(["cat", "eel", "dog"])), "b.parquet")
    with pytest.raises(DataError, match=r"otherwise in b.parquet than in a.parquet: class 1 is 'eel' .* and 'dog'"):
        open_dataset(str(tmp_path))


def test_one_file_with_class_names_names_them_for_all(tmp_path: Path) -> None:
    write(tmp_path, A, "a.parquet")
    write(tmp_path, B.replace_schema_metadata(huggingface_metadata(["cat", "dog", "eel"])), "b.parquet")
    assert find_classes(open_dataset(str(tmp_path))).names == ("cat", "dog", "eel")


def test_columns_of_one_name_are_carried_but_not_used(tmp_path: Path) -> None:
    names = ["image", "label", "m", "m"]
    table = pa.Table.from_arrays([A["image"], A["label"], pa.array([1, 2, 3]), pa.array(TEXT)], names=names)
    dataset = open_dataset(str(write(tmp_path / "a", table)))
    rows = decode_unit(dataset, dataset.units()[0], 8)
    built = build_table(dataset.schema, rows, rows.images)
    assert built.column_names == names
    assert [built.column(at).to_pylist() for at in (2, 3)] == [[1, 2, 3], TEXT]
    for at, name in enumerate(["image", "label"]):
        twice = pa.Table.from_arrays([A["image"], A["label"], A.column(at)], names=["image", "label", name])
        with pytest.raises(DataError, match=f"has 2 columns named '{name}'; rename all but one"):
            open_dataset(str(write(tmp_path / name, twice)))


@pytest.mark.parametrize("metadata", [None, huggingface_metadata(["a", "b"])])
def test_files_without_any_row_are_an_error(tmp_path: Path, metadata: dict[bytes, bytes] | None) -> None:
    write(tmp_path, A.slice(0, 0).replace_schema_metadata(metadata))
    with pytest.raises(DataError, match="has no rows: its 1 parquet files are empty"):
        open_dataset(str(tmp_path))


def test_empty_files_and_row_groups_between_others_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, A.slice(0, 0), "a.parquet")
    with pq.ParquetWriter(tmp_path / "b.parquet", A.schema) as writer:
        for part in (A.slice(0, 0), A.slice(0, 1), A.slice(0, 0), A.slice(1, 2), A.slice(0, 0)):
            writer.write_table(part)
    dataset = open_dataset(str(tmp_path))
    (unit,) = dataset.units()
    assert np.array_equal(decode_unit(dataset, unit, 8).images, IMAGES[:3])


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (pa.uint64(), pa.int8(), None),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.int64(), pa.float64(), None),
        (pa.int16(), pa.float32(), pa.float64()),
        (pa.string(), pa.binary(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.binary(3), pa.binary(4), pa.binary()),
        (pa.decimal128(5, 2), pa.decimal128(9, 2), pa.decimal128(9, 2)),
        (pa.decimal128(5, 2), pa.decimal128(9, 3), None),
        (pa.timestamp("ms"), pa.timestamp("ns"), None),
        (pa.struct([("u", pa.int8())]), pa.struct([("v", pa.int8())]), None),
        (STRUCT, STRUCT, STRUCT),
    ],
)
def test_the_widest_type_loses_nothing(one: pa.DataType, two: pa.DataType, expected: pa.DataType | None) -> None:
    assert widest(one, two) == expected
    assert widest(two, one) == expected
