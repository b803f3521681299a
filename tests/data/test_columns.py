"""Types of image columns as people have them: pixels read, written back in the same type, what is beside them kept."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import parquet_bytes
from raydvae.data.rows import build_table
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, smooth_images, write

SIZE, COUNT = 8, 6
IMAGES = smooth_images(COUNT, SIZE)
GRAY = np.repeat(IMAGES[..., :1], 3, axis=3)
PNGS = [as_bytes(image) for image in IMAGES]
PLANES = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
BASE64 = [base64.b64encode(data).decode() for data in PNGS]
MORE = pa.struct([("sha", pa.string()), ("bytes", pa.binary()), ("path", pa.string()), ("box", pa.list_(pa.int32()))])


def nested(values: Array, sizes: tuple[int, ...]) -> pa.Array:
    """Fixed-size lists in each other."""
    out = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(sizes):
        out = pa.FixedSizeListArray.from_arrays(out, size)
    return out


def tensor(values: Array, **options: object) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.uint8(), values.shape[1:], **options)
    return pa.ExtensionArray.from_storage(kind, nested(values, (values[0].size,)))


def flat(values: Array, kind: pa.DataType) -> pa.Array:
    return pa.array([list(row.reshape(-1)) for row in values], kind)


def ragged(values: Array) -> pa.Array:
    kind = pa.struct([("data", pa.large_list(pa.uint8())), ("shape", pa.list_(pa.int64()))])
    return pa.array([{"data": list(row.reshape(-1)), "shape": list(row.shape)} for row in values], kind)


def extension(name: str, metadata: object) -> dict[bytes, bytes]:
    return {b"ARROW:extension:name": name.encode(), b"ARROW:extension:metadata": json.dumps(metadata).encode()}


RAY, HF = "ray.data.arrow_tensor_v2", "datasets.features.features.Array3DExtensionType"
TRIPLE = pa.list_(pa.list_(pa.list_(pa.uint8())))
CASES: dict[str, tuple[Array, pa.Array, dict[bytes, bytes] | None]] = {
    "struct with more": (
        IMAGES,
        pa.array([{"sha": f"s{i}", "bytes": b, "path": None, "box": [i]} for i, b in enumerate(PNGS)], MORE),
        None,
    ),
    "struct of large bytes": (
        IMAGES,
        pa.array([{"bytes": b} for b in PNGS], pa.struct([("bytes", pa.large_binary())])),
        None,
    ),
    "struct whose path is null": (IMAGES, pa.array([{"bytes": b, "path": None} for b in PNGS]), None),
    "bytes view": (IMAGES, pa.array(PNGS, pa.binary_view()), None),
    "dictionary": (IMAGES, pa.array(PNGS).dictionary_encode(), None),
    "list of bytes": (IMAGES, pa.array([list(b) for b in PNGS], pa.list_(pa.uint8())), None),
    "large list of bytes": (IMAGES, pa.array([list(b) for b in PNGS], pa.large_list(pa.uint8())), None),
    "base64": (IMAGES, pa.array(BASE64), None),
    "base64 in large text": (IMAGES, pa.array(BASE64, pa.large_string()), None),
    "base64 view": (IMAGES, pa.array(BASE64, pa.string_view()), None),
    "base64 for addresses, unpadded": (
        IMAGES,
        pa.array([base64.urlsafe_b64encode(data).decode().rstrip("=") for data in PNGS]),
        None,
    ),
    "list of one text": (IMAGES, pa.array([[text] for text in BASE64]), None),
    "data URI": (IMAGES, pa.array([f"data:image/png;base64,{text}" for text in BASE64]), None),
    "list of one": (IMAGES, pa.array([[b] for b in PNGS]), None),
    "large list of one struct": (
        IMAGES,
        pa.array([[{"bytes": b, "path": f"{i}"}] for i, b in enumerate(PNGS)]).cast(
            pa.large_list(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        ),
        None,
    ),
    "fixed list of one": (IMAGES, pa.array([[b] for b in PNGS], pa.list_(pa.binary(), 1)), None),
    "flat": (IMAGES, nested(IMAGES, (192,)), None),
    "flat planes": (IMAGES, nested(PLANES, (192,)), None),
    "flat gray in three channels": (GRAY, nested(GRAY, (192,)), None),
    "flat gray": (GRAY, nested(GRAY[..., 0], (64,)), None),
    "variable flat": (IMAGES, flat(IMAGES, pa.list_(pa.uint8())), None),
    "variable flat planes": (IMAGES, flat(PLANES, pa.large_list(pa.uint8())), None),
    "nested fixed": (IMAGES, nested(IMAGES, (8, 8, 3)), None),
    "nested fixed planes": (IMAGES, nested(PLANES, (3, 8, 8)), None),
    "nested fixed gray": (GRAY, nested(GRAY[..., 0], (8, 8)), None),
    "nested": (IMAGES, pa.array(IMAGES.tolist(), TRIPLE), None),
    "nested planes": (IMAGES, pa.array(PLANES.tolist(), TRIPLE), None),
    "nested gray": (GRAY, pa.array(GRAY[..., 0].tolist(), pa.list_(pa.list_(pa.uint8()))), None),
    "nested gray channel": (GRAY, pa.array(GRAY[..., :1].tolist(), TRIPLE), None),
    "nested mixture": (IMAGES, pa.array(IMAGES.tolist(), pa.large_list(pa.list_(pa.list_(pa.uint8(), 3)))), None),
    "Hugging Face's Array3D": (IMAGES, pa.array(IMAGES.tolist(), TRIPLE), extension(HF, [[8, 8, 3], "uint8"])),
    "Ray's tensor": (IMAGES, flat(IMAGES, pa.large_list(pa.uint8())), extension(RAY, [8, 8, 3])),
    "Ray's old tensor": (IMAGES, flat(PLANES, pa.list_(pa.uint8())), extension("ray.data.arrow_tensor", [3, 8, 8])),
    "Ray's ragged tensor": (IMAGES, ragged(IMAGES), extension("ray.data.arrow_variable_shaped_tensor", 3)),
    "tensor of one channel": (GRAY, tensor(GRAY[..., :1]), None),
    "tensor of one channel first": (GRAY, tensor(np.ascontiguousarray(GRAY.transpose(0, 3, 1, 2)[:, :1])), None),
    "tensor with names": (IMAGES, tensor(PLANES, dim_names=["C", "H", "W"]), None),
    "tensor turned": (IMAGES, tensor(np.ascontiguousarray(IMAGES.transpose(0, 2, 1, 3)), permutation=[1, 0, 2]), None),
}


@pytest.fixture(autouse=True)
def without_ray_s_types() -> Iterator[None]:
    """A process in which Ray is not loaded, though other tests may have loaded it."""
    names = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor")
    known = []
    for name in names:
        with contextlib.suppress(pa.ArrowKeyError):
            pa.unregister_extension_type(name)
            known.append(name)
    yield
    if known:
        from ray.data._internal.tensor_extensions import arrow

        kinds = (arrow.ArrowTensorType, arrow.ArrowTensorTypeV2)
        for kind in (
            kinds[0]((0,), pa.int64()),
            kinds[1]((0,), pa.int64()),
            arrow.ArrowVariableShapedTensorType(pa.int64(), 0),
        ):
            pa.register_extension_type(kind)


@pytest.mark.parametrize("case", CASES)
def test_images_are_read_and_written_back_in_their_type(case: str, tmp_path: Path) -> None:
    images, column, metadata = CASES[case]
    field = pa.field("image", column.type, metadata=metadata)
    schema = pa.schema([("id", pa.int16()), field, ("label", pa.int64())])
    source = pa.table([pa.array(range(COUNT), pa.int16()), column, pa.array([0, 1] * 3)], schema=schema)
    dataset = open_dataset(str(write(tmp_path / "in", source, groups=2)))
    (unit,) = dataset.units()
    rows = decode_unit(dataset, unit, SIZE)
    assert rows.rejected.num_rows == 0
    assert np.array_equal(rows.images, images)

    changed = 255 - rows.images
    (tmp_path / "out").mkdir()
    pq_bytes = parquet_bytes(build_table(dataset.schema, rows, changed), dataset.schema.image)
    (tmp_path / "out" / "x.parquet").write_bytes(pq_bytes)
    written = pq.read_table(tmp_path / "out" / "x.parquet")
    assert written.schema.equals(source.schema)
    for key, value in (metadata or {}).items():
        assert written.schema.field("image").metadata[key] == value
    assert written.column("id").to_pylist() == list(range(COUNT))
    again = open_dataset(str(tmp_path / "out"))
    assert np.array_equal(decode_unit(again, again.units()[0], SIZE).images, changed)
    if case == "struct with more":
        kept = [{key: value for key, value in row.items() if key != "bytes"} for row in written["image"].to_pylist()]
        assert kept == [{"sha": f"s{i}", "path": None, "box": [i]} for i in range(COUNT)]

    summary = import_dataset(str(tmp_path / "in"), Store(str(tmp_path / "imported")), "parquet")
    assert summary.sizes == {"8x8": COUNT}
    (shard,) = (tmp_path / "imported").glob("*.parquet")
    assert pq.read_table(shard).schema.equals(source.schema)
    assert pq.read_table(shard).column("image").to_pylist() == source.column("image").to_pylist()


def opened(tmp_path: Path, column: pa.Array, limits: DataConfig | None = None) -> pa.Table:
    """The rejected rows of a data set with one image column, decoded at 8 px."""
    table = pa.table({"image": column, "label": [0] * len(column)})
    dataset = open_dataset(str(write(tmp_path, table)), limits)
    return decode_unit(dataset, dataset.units()[0], SIZE, 1).rejected


@pytest.mark.parametrize("list_of", [None, lambda kind: pa.list_(kind), lambda kind: pa.list_(kind, 1), pa.large_list])
def test_bytes_of_one_length_are_read_and_written_as_bytes_of_any(
    tmp_path: Path, list_of: Callable[[pa.DataType], pa.DataType] | None
) -> None:
    blobs = [data.ljust(1000, b"\0") for data in PNGS]
    column = pa.array([[b] for b in blobs], list_of(pa.binary(1000))) if list_of else pa.array(blobs, pa.binary(1000))
    dataset = open_dataset(str(write(tmp_path, pa.table({"image": column, "label": [0] * COUNT}))))
    rows = decode_unit(dataset, dataset.units()[0], SIZE)
    assert np.array_equal(rows.images, IMAGES)
    kind = build_table(dataset.schema, rows, rows.images).schema.field("image").type
    assert kind == (list_of(pa.binary()) if list_of else pa.binary())


@pytest.mark.parametrize(
    ("column", "reasons"),
    [
        (pa.array([PNGS[:2], [], None, PNGS[:1]]), ["a list of 2 images", "a list of 0 images", "no image (null)"]),
        (
            pa.array([[[[1] * 3] * 8] * 8, [[[1] * 3] * 8, [[1] * 3] * 7], None], TRIPLE),
            ["lines differ", "no image (null)"],
        ),
        (pa.array([[[[1] * 3] * 8] * 8, [[[1, None, 1]] * 8] * 8], TRIPLE), ["an array with missing values"]),
        (pa.array([[[[1] * 3] * 8] * 8, [[[1] * 4] * 8] * 8], TRIPLE), ["an array of shape (8, 8, 4)"]),
        (
            pa.array([list(PNGS[0]), [1, 2, 3], []], pa.list_(pa.uint8())),
            ["bytes of no known format", "no image bytes"],
        ),
        (pa.array([BASE64[0], BASE64[1], "?!", None]), ["text that is not base64", "no image (null)"]),
    ],
    ids=["several", "uneven", "missing", "four channels", "list", "text"],
)
def test_rows_that_hold_no_image_are_rejected_with_a_reason(
    tmp_path: Path, column: pa.Array, reasons: list[str]
) -> None:
    found = opened(tmp_path, column).column("reason").to_pylist()
    assert len(found) == len(reasons)
    assert all(expected in reason for expected, reason in zip(reasons, found, strict=True))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            pa.list_(pa.float32(), 192),
            r"'image' is of type fixed_size_list<.*>\[192\]; its pixels are float, .*cast them to uint8",
        ),
        (pa.fixed_shape_tensor(pa.float32(), [8, 8, 3]), "its pixels are float, .*times 255"),
        (pa.list_(pa.list_(pa.list_(pa.int64()))), "its pixels are int64"),
        (pa.int64(), "'image' is of type int64; .*cast them to uint8"),
        (pa.timestamp("us"), r"'image' is of type timestamp\[us\]; read are encoded bytes"),
        (pa.map_(pa.string(), pa.int8()), "'image' is of type map<string, int8.*>; read are encoded bytes"),
    ],
)
def test_a_column_of_another_type_is_named_with_its_type(tmp_path: Path, kind: pa.DataType, words: str) -> None:
    table = pa.table({"image": pa.nulls(2, kind), "label": [0, 1]})
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(str(write(tmp_path, table)))
    assert "Name it" not in str(caught.value)


def test_noise_does_not_tell_the_order_of_flat_pixels(tmp_path: Path) -> None:
    table = pa.table({"image": nested(random_images(COUNT, SIZE), (192,)), "label": [0] * COUNT})
    with pytest.raises(DataError, match=r"do not show whether .*fixed_shape_tensor of \(8, 8, 3\) or of \(3, 8, 8\)"):
        open_dataset(str(write(tmp_path, table)))


def test_outputs_keep_the_order_that_their_pixels_need_not_show(tmp_path: Path) -> None:
    table = pa.table({"image": nested(PLANES, (192,)), "label": [0] * COUNT})
    dataset = open_dataset(str(write(tmp_path / "in", table)))
    rows = decode_unit(dataset, dataset.units()[0], SIZE)
    noise = random_images(COUNT, SIZE)
    write(tmp_path / "out", build_table(dataset.schema, rows, noise))
    again = open_dataset(str(tmp_path / "out"))
    assert np.array_equal(decode_unit(again, again.units()[0], SIZE).images, noise)


def test_files_must_store_flat_pixels_in_one_order(tmp_path: Path) -> None:
    for name, values in (("a.parquet", IMAGES), ("b.parquet", PLANES)):
        write(tmp_path, pa.table({"image": nested(values, (192,)), "label": [0] * COUNT}), name)
    with pytest.raises(
        DataError, match=r"of .*b.parquet are stored otherwise than those of .*a.parquet: .*\(3, H, W\)"
    ):
        open_dataset(str(tmp_path))


def test_a_type_that_a_process_registers_travels_as_it_is_stored(tmp_path: Path) -> None:
    class Tensor(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.large_list(pa.uint8()), RAY)

        def __arrow_ext_serialize__(self) -> bytes:
            return b"[8, 8, 3]"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, data: bytes) -> Tensor:
            return cls()

    images, column, metadata = CASES["Ray's tensor"]
    schema = pa.schema([pa.field("image", column.type, metadata=metadata), ("label", pa.int64())])
    source = pa.table([column, pa.array([0, 1] * 3)], schema=schema)
    folder = str(write(tmp_path, source))
    without = open_dataset(folder)
    pa.register_extension_type(Tensor())
    try:  # as in a worker, where Ray is loaded
        dataset = pickle.loads(pickle.dumps(without))
        assert open_dataset(folder).schema == dataset.schema == without.schema
        (unit,) = dataset.units()
        rows = pickle.loads(pickle.dumps(decode_unit(dataset, unit, SIZE)))
        assert np.array_equal(rows.images, images)
        data = parquet_bytes(build_table(dataset.schema, rows, rows.images), "image")
        assert pq.read_table(pa.BufferReader(data)).schema.field("image").type == Tensor()
    finally:
        pa.unregister_extension_type(RAY)
    assert pq.read_table(pa.BufferReader(data)).schema.field("image").metadata == metadata


def test_rays_pickled_shapes_are_refused(tmp_path: Path) -> None:
    metadata = {b"ARROW:extension:name": RAY.encode(), b"ARROW:extension:metadata": b"\x80\x04K\x08."}
    schema = pa.schema([pa.field("image", pa.list_(pa.uint8()), metadata=metadata), ("label", pa.int64())])
    table = pa.table([flat(IMAGES, pa.list_(pa.uint8())), pa.array([0] * COUNT)], schema=schema)
    with pytest.raises(DataError, match=r"a tensor as Ray 2.49 to 2.54 wrote it.*pickles from outside are not loaded"):
        open_dataset(str(write(tmp_path, table)))


def test_lists_of_paths_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [["a.png"], ["b.png"]], "label": [0, 1]})
    with pytest.raises(DataError, match="holds lists of paths; paths are read from a text column"):
        open_dataset(str(write(tmp_path, table)))


def test_a_column_called_image_goes_before_texts_and_others(tmp_path: Path) -> None:
    columns = {"image": ["a.jpg"] * COUNT, "content": PNGS, "label": [0] * COUNT}  # the image's name, and the image
    assert open_dataset(str(write(tmp_path / "a", pa.table(columns)))).schema.image == "content"
    columns = {"mask": PNGS[::-1], "image": PNGS, "label": [0] * COUNT}
    assert open_dataset(str(write(tmp_path / "b", pa.table(columns)))).schema.image == "image"
    columns = {"image": pa.nulls(COUNT, pa.list_(pa.float32())), "thumb": PNGS, "label": [0] * COUNT}
    with pytest.raises(DataError, match="'image' is of type list"):  # and not: read the thumbnails
        open_dataset(str(write(tmp_path / "c", pa.table(columns))))


def test_columns_whose_names_begin_alike_are_told_apart(tmp_path: Path) -> None:
    table = pa.table({"label.id": [9] * COUNT, "image.md5": ["z"] * COUNT, "image": PNGS, "label": [0, 1] * 3})
    dataset = open_dataset(str(write(tmp_path, table)))
    assert find_classes(dataset).count == 2
    (unit,) = dataset.units()
    assert dataset.read(unit, ["label"]).to_pydict() == {"label": [0, 1] * 3}
    assert np.array_equal(decode_unit(dataset, unit, SIZE).images, IMAGES)
