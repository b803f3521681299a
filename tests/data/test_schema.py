"""Columns: each image encoding of the contract survives decode, build_table, decode; wrong ones are explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.config import DataConfig
from raydvae.data.codecs import Array
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.rows import build_table
from raydvae.data.schema import class_names, detect, huggingface_metadata
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import STRUCT, as_bytes, decode_unit, random_images, smooth_images, write

SIZE = 8
IMAGES = random_images(5, SIZE)
SMOOTH = smooth_images(5, SIZE)
GREY = np.repeat(IMAGES[..., :1], 3, axis=3)


def fixed_list(values: Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)


def tensor(values: Array) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.uint8(), values.shape[1:])
    return pa.ExtensionArray.from_storage(kind, fixed_list(values))


def pngs(images: Array) -> list[bytes]:
    return [as_bytes(image) for image in images]


ENCODINGS = {
    "struct": (IMAGES, pa.array([{"bytes": b, "path": f"p{i}"} for i, b in enumerate(pngs(IMAGES))], STRUCT)),
    "struct path first": (
        IMAGES,
        pa.array(
            [{"bytes": b, "path": None} for b in pngs(IMAGES)],
            pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
        ),
    ),
    "struct without path": (
        IMAGES,
        pa.array([{"bytes": b} for b in pngs(IMAGES)], pa.struct([("bytes", pa.binary())])),
    ),
    "bytes": (IMAGES, pa.array(pngs(IMAGES), pa.binary())),
    "large bytes": (IMAGES, pa.array(pngs(IMAGES), pa.large_binary())),
    "list RGB": (SMOOTH, fixed_list(SMOOTH)),
    "list of planes": (SMOOTH, fixed_list(np.ascontiguousarray(SMOOTH.transpose(0, 3, 1, 2)))),
    "list grey": (GREY, fixed_list(GREY[..., 0])),
    "tensor HWC": (IMAGES, tensor(IMAGES)),
    "tensor CHW": (IMAGES, tensor(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))),
    "tensor grey": (GREY, tensor(np.ascontiguousarray(GREY[..., 0]))),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_survives_decode_and_build(encoding: str, tmp_path: Path) -> None:
    images, column = ENCODINGS[encoding]
    source = pa.table(
        {
            "id": pa.array([10, 11, None, 13, 14], pa.int16()),
            "image": column,
            "label": pa.array([0, 1, 2, 1, 0], pa.int32()),
            "tags": pa.array([["a"], [], None, ["b", "c"], ["d"]], pa.list_(pa.string())),
            "box": pa.array([{"x": i} for i in range(5)], pa.struct([("x", pa.float32())])),
            "kind": pa.array(["u", "v", "u", None, "v"]).dictionary_encode(),
        }
    ).replace_schema_metadata({b"owner": b"someone", **huggingface_metadata(["a", "b", "c"])})
    dataset = open_dataset(str(write(tmp_path / "in", source, groups=2)))
    (unit,) = dataset.units()
    rows = decode_unit(dataset, unit, SIZE)
    assert np.array_equal(rows.images, images)
    assert rows.labels.tolist() == [0, 1, 2, 1, 0]
    assert rows.rejected.num_rows == 0

    changed = 255 - rows.images
    table = build_table(dataset.schema, rows, changed)
    Store(str(tmp_path / "out")).write(unit.file, parquet_bytes(table, dataset.schema.image))
    written = pq.read_table(tmp_path / "out" / unit.file)
    assert written.schema.equals(source.schema)
    assert {k: v for k, v in written.schema.metadata.items() if k != b"raydvae.origin"} == source.schema.metadata
    for name in ("id", "label", "tags", "box", "kind"):
        assert written.column(name).to_pylist() == source.column(name).to_pylist()
    again = open_dataset(str(tmp_path / "out"))
    back = decode_unit(again, again.units()[0], SIZE)
    assert np.array_equal(back.images, changed)
    if "struct" in encoding and "path" in column.type.names:
        assert [v["path"] for v in written.column("image").to_pylist()] == [v["path"] for v in column.to_pylist()]


def test_arrays_with_missing_values_are_rejected(tmp_path: Path) -> None:
    column = pa.array([[1] * 12, None, [1] * 11 + [None]], pa.list_(pa.uint8(), 12))
    dataset = open_dataset(str(write(tmp_path, pa.table({"image": column, "label": [0, 0, 0]}))))
    rows = decode_unit(dataset, dataset.units()[0], 2)
    assert rows.kept.tolist() == [0]
    assert rows.rejected.column("reason").to_pylist() == ["no image (null)", "an array with missing values"]


def test_images_of_another_size_do_not_fit_fixed_arrays(tmp_path: Path) -> None:
    table = pa.table({"image": tensor(IMAGES), "label": [0, 1, 2, 1, 0]})
    dataset = open_dataset(str(write(tmp_path, table)), DataConfig(size_policy="resize"))
    rows = decode_unit(dataset, dataset.units()[0], SIZE // 2)
    with pytest.raises(
        DataError,
        match=r"do not fit column 'image' of .*: images of \(4, 4, 3\) do not fit its fixed shape \(8, 8, 3\)",
    ):
        build_table(dataset.schema, rows, rows.images)


def schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(list(fields))


@pytest.mark.parametrize(
    ("arrow", "image", "label"),
    [
        (schema(("image", STRUCT), ("label", pa.int64())), "image", "label"),
        (schema(("fine_label", pa.int8()), ("img", pa.binary()), ("coarse_label", pa.int8())), "img", "fine_label"),
        (schema(("thumb", pa.binary()), ("image", pa.binary()), ("label", pa.string())), "image", "label"),
        (schema(("photo", STRUCT), ("cls", pa.dictionary(pa.int8(), pa.string()))), "photo", "cls"),
    ],
)
def test_columns_are_recognized(arrow: pa.Schema, image: str, label: str) -> None:
    found = detect(arrow, DataConfig(), "x")
    assert (found.image, found.label) == (image, label)


def test_columns_can_be_named() -> None:
    arrow = schema(("a", pa.binary()), ("b", pa.binary()), ("c", pa.int64()))
    found = detect(arrow, DataConfig(image_column="b", label_column="c"), "x")
    assert (found.image, found.label) == ("b", "c")
    with pytest.raises(DataError, match="no image column 'c' that can be used. Its columns: a: binary"):
        detect(arrow, DataConfig(image_column="c", label_column="c"), "x")


@pytest.mark.parametrize(
    ("arrow", "message"),
    [
        (schema(("text", pa.string()), ("label", pa.int64())), "no image column that can be recognized"),
        (schema(("image", STRUCT), ("weight", pa.float32())), "no label column that can be recognized"),
        (
            schema(("image", STRUCT), ("label", pa.date32())),
            r"Its columns: image: struct.*Column 'label' is of type date",
        ),
        (schema(("image", pa.list_(pa.uint8(), 10)), ("label", pa.int64())), "images of 10 values"),
        (schema(("image", pa.fixed_shape_tensor(pa.uint8(), (4, 4, 4))), ("label", pa.int64())), r"shape \(4, 4, 4\)"),
        (
            schema(("image", pa.list_(pa.float32())), ("label", pa.int64())),
            r"'image' is of type list<.*cast them to uint8",
        ),
    ],
)
def test_unusable_columns_are_explained(arrow: pa.Schema, message: str) -> None:
    with pytest.raises(DataError, match=message):
        detect(arrow, DataConfig(), "file")


def test_class_names_travel_in_the_hugging_face_metadata() -> None:
    arrow = pa.schema(
        [("image", STRUCT), ("label", pa.int64())], metadata=huggingface_metadata(["cat", "dog"], z=["q"])
    )
    assert class_names(arrow, "label") == ("cat", "dog")
    assert class_names(arrow, "z") == ("q",)
    assert class_names(arrow, "image") is None
    assert class_names(arrow.with_metadata({b"huggingface": b"{not json"}), "label") is None
    assert class_names(arrow.with_metadata(None), "label") is None
