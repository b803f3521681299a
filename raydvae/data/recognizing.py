"""Which way of holding images a column's type and its first rows tell of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from raydvae.data.codecs import Array, BadImage
from raydvae.data.columns import Base64, Encoded, ImageColumn, One, Pixels, Struct, dense, from_base64, is_list
from raydvae.data.formats import format_of
from raydvae.data.shapes import parse_json
from raydvae.errors import DataError

Shorts = npt.NDArray[np.int16]
PATHS = "path"
ORDER = b"raydvae.order"  # metadata of a field: how flat pixels are stored, once that is known
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SAMPLE = 64  # rows that are looked at where the type leaves something open
CLEAR = 1.25  # how much smoother one reading of flat pixels must be than the other
READ_TYPES = (
    "encoded bytes (binary, or a struct with 'bytes'), arrays of uint8 (lists, fixed_shape_tensor, tensors of Ray and "
    "Hugging Face), base64 text, paths of files in the data set's folder, and lists of one of these"
)


def unread(kind: pa.DataType) -> str:
    """Return why a column of type ``kind`` cannot hold images that are read, and what to do."""
    leaf = _bare(kind)
    while is_list(leaf):
        leaf = _bare(leaf.value_type)
    if pt.is_struct(leaf) and "data" in leaf.names and is_list(leaf.field("data").type):
        leaf = leaf.field("data").type.value_type
    if (pt.is_floating(leaf) or pt.is_integer(leaf)) and leaf != pa.uint8():
        scaled = " (values from 0 to 1 times 255, and rounded)" if pt.is_floating(leaf) else ""
        return f"its pixels are {leaf}, and arrays of uint8 are read: cast them to uint8, 0 to 255{scaled}"
    return f"read are {READ_TYPES}"


def fits(kind: pa.DataType, text: bool = False) -> bool:
    """Whether a column of type ``kind`` can hold images; a text column only if ``text``, as it may hold anything."""
    kind = _bare(kind)
    if _is_text(kind):
        return text
    if _is_bytes(kind) or kind == pa.uint8():
        return _is_bytes(kind)
    if pt.is_struct(kind):
        return _image_struct(kind) or _ragged(kind)
    if not is_list(kind):
        return False
    inner = kind
    while is_list(inner):
        inner = _bare(inner.value_type)
    if inner == pa.uint8():
        return True
    return not is_list(_bare(kind.value_type)) and fits(kind.value_type, text)


def open_question(field: pa.Field) -> bool:
    """Whether only rows can tell how the column's images lie."""
    kind = field.type
    while is_list(kind) and not is_list(_bare(kind.value_type)) and _bare(kind.value_type) != pa.uint8():
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType) or _tensor_shape(field):
        return False
    return _is_text(kind) or is_list(kind) or (pt.is_struct(kind) and _ragged(kind))


def recognize(field: pa.Field, rows: pa.Array | None, where: str) -> ImageColumn:
    """Return how the images lie in a column, of which ``rows`` are some; `DataError` where they do not tell.

    Without rows what is likely is taken: nothing can be read wrongly then.
    """
    kind = field.type
    if rows is not None:
        rows = rows.drop_null()
    if isinstance(kind, pa.FixedShapeTensorType):
        return _tensor(kind, field.name, where)
    if _is_text(kind):
        return _text(kind, rows)
    if _is_bytes(kind):
        return Encoded(kind)
    if pt.is_struct(kind):
        if _image_struct(kind):
            return Struct(kind, Encoded(kind.field("bytes").type))
        shapes = [] if rows is None else [tuple(shape or ()) for shape in rows.field("shape").to_pylist()]
        order, gray = _layout(shapes, field.name, kind, where)
        return Pixels(kind, order, None, gray)
    shape = _tensor_shape(field)
    if shape and kind.value_type == pa.uint8():
        return _fixed(kind, shape, field.name, where)
    if _bare(kind.value_type) == pa.uint8():
        return _flat(field, rows, where)
    if is_list(kind.value_type):
        return _nested(kind, rows, field.name, where)
    inner = recognize(pa.field(field.name, kind.value_type), None if rows is None else rows.flatten(), where)
    if _is_text(kind.value_type) and isinstance(inner, Struct):
        if rows is None:
            return One(kind, Base64(kind.value_type, uri=False))
        raise DataError(f"Column {field.name!r} of {where} holds lists of paths; paths are read from a text column.")
    return One(kind, inner)


def is_flat(field: pa.Field) -> bool:
    """Whether the column holds plain lists of uint8, whose order of axes is told by nothing but `ORDER`."""
    return is_list(field.type) and bool(field.type.value_type == pa.uint8()) and not _tensor_shape(field)


def written_as(kind: pa.DataType) -> pa.DataType:
    """Return the type in which images of a column of type ``kind`` are written: the same, but for bytes of one length.

    A PNG is not as long as what it replaces, so these become bytes of any length.
    """
    if pt.is_fixed_size_binary(kind) and not isinstance(kind, pa.BaseExtensionType):
        return pa.binary()
    if pt.is_dictionary(kind):
        return pa.dictionary(kind.index_type, written_as(kind.value_type), kind.ordered)
    if is_list(kind) and not (held := written_as(kind.value_type)).equals(kind.value_type):
        item = kind.value_field.with_type(held)
        if pt.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if pt.is_large_list(kind) else pa.list_(item)
    if pt.is_struct(kind) and "bytes" in kind.names:
        return pa.struct([f.with_type(written_as(f.type)) if f.name == "bytes" else f for f in kind])
    return kind


def _bare(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _image_struct(kind: pa.StructType) -> bool:
    if kind.names.count("bytes") != 1:
        return False
    held = kind.field("bytes").type
    return _is_bytes(held) or (is_list(held) and held.value_type == pa.uint8())


def _ragged(kind: pa.StructType) -> bool:
    """Whether it is a tensor of any shape a row, as of Ray and of Arrow's specification."""
    if sorted(kind.names) != ["data", "shape"]:
        return False
    data, shape = kind.field("data").type, kind.field("shape").type
    return is_list(data) and data.value_type == pa.uint8() and is_list(shape) and pt.is_integer(shape.value_type)


def _tensor_shape(field: pa.Field) -> tuple[int, ...] | None:
    """Return the shape that the metadata of Ray's tensor types tells; see `merging.storable`."""
    metadata = field.metadata or {}
    if not metadata.get(b"raydvae.type.name", b"").startswith(b"ray.data.arrow_tensor"):
        return None
    try:
        shape = parse_json(metadata.get(b"raydvae.type.metadata", b""))
    except ValueError:
        return None
    known = isinstance(shape, list) and all(isinstance(side, int) and 0 < side < 2**20 for side in shape)
    return tuple(shape) or None if known else None


def _text(kind: pa.DataType, rows: pa.Array | None) -> ImageColumn:
    texts = [] if rows is None else [row.as_py() for row in rows]
    uris = sum(text[:5].lower() == "data:" for text in texts)
    if uris * 2 > len(texts):
        return Base64(kind, uri=True)
    heads = [from_base64("".join(text[:96].split())[:64]) for text in texts]
    images = sum(isinstance(head, bytes) and format_of(head) is not None for head in heads)
    if images * 2 > len(texts):
        return Base64(kind, uri=False)
    return Struct(IMAGE, Encoded(pa.binary()), encoding=PATHS)  # the column is read and written as such structs


def _tensor(kind: pa.FixedShapeTensorType, name: str, where: str) -> Pixels:
    shape = tuple(kind.shape)
    places = tuple(kind.permutation or range(len(shape)))  # the logical axes, by their places in storage
    if kind.dim_names and sorted(axis.upper() for axis in kind.dim_names) in (["C", "H", "W"], ["H", "W"]):
        order = "".join(axis.upper() for axis in kind.dim_names)
        if len(order) == 2 or shape[order.index("C")] in (1, 3):
            return Pixels(kind, order, shape, len(order) == 3 and shape[order.index("C")] == 1)
    order, gray = _layout([tuple(shape[place] for place in places)], name, kind, where)
    stored = [""] * len(order)
    for axis, place in zip(order, places, strict=True):
        stored[place] = axis
    return Pixels(kind, "".join(stored), shape, gray)


def _fixed(kind: pa.DataType, shape: tuple[int, ...], name: str, where: str) -> Pixels:
    order, gray = _layout([shape], name, kind, where)
    return Pixels(kind, order, shape, gray)


def _layout(shapes: Sequence[tuple[int, ...]], name: str, kind: pa.DataType, where: str) -> tuple[str, bool]:
    """Return the order of axes, and whether there is one channel, that most shapes show."""
    found = [_order(shape) for shape in shapes]
    known = [each for each in found if each is not None]
    if not shapes:
        return "HWC", False
    if not known:
        raise DataError(
            f"{where} has images of shape {shapes[0]} in column {name!r} ({kind}); expected (H, W), (H, W, 3), "
            "(3, H, W), (H, W, 1) or (1, H, W)."
        )
    return max(set(known), key=known.count)


def _order(shape: tuple[int, ...]) -> tuple[str, bool] | None:
    if len(shape) == 2:
        return "HW", False
    if len(shape) != 3:
        return None
    for channels in (3, 1):
        if shape[2] == channels:
            return "HWC", channels == 1
        if shape[0] == channels:
            return "CHW", channels == 1
    return None


def _nested(kind: pa.DataType, rows: pa.Array | None, name: str, where: str) -> Pixels:
    shapes: list[tuple[int, ...]] = []
    for row in rows if rows is not None else ():
        try:
            shapes.append(dense(row.values).shape)
        except BadImage:
            continue
    depth, sizes, level = 0, [], kind
    while is_list(level):
        sizes.append(level.list_size if pt.is_fixed_size_list(level) else 0)
        depth, level = depth + 1, level.value_type
    shape = tuple(sizes) if all(sizes) else None
    if shape is None and not shapes:
        return Pixels(kind, "HWC" if depth == 3 else "HW", None, False)
    order, gray = _layout([shape] if shape else shapes, name, kind, where)
    return Pixels(kind, order, shape, gray)


def _flat(field: pa.Field, rows: pa.Array | None, where: str) -> ImageColumn:
    """Return what lists of uint8 are: the bytes of image files, or pixels of square images."""
    kind, name = field.type, field.name
    blocks = []
    for row in rows if rows is not None else ():
        try:
            blocks.append(dense(row.values))
        except BadImage:
            continue
    encoded = sum(format_of(block[:64].tobytes()) is not None for block in blocks)
    fixed = pt.is_fixed_size_list(kind)
    if not fixed and (encoded * 2 > len(blocks) or not blocks):
        return Encoded(kind)
    size = kind.list_size if fixed else max((len(b) for b in blocks), key=[len(b) for b in blocks].count)
    side = round((size / 3) ** 0.5)
    if side and side * side * 3 == size:
        said = (field.metadata or {}).get(ORDER)
        same = [block for block in blocks if len(block) == size]
        planar = said == b"CHW" if said in (b"CHW", b"HWC") else _planar(same, side, name, where)
        return Pixels(kind, "CHW" if planar else "HWC", (3, side, side) if planar else (side, side, 3), False)
    side = round(size**0.5)
    if side and side * side == size:
        return Pixels(kind, "HW", (side, side), False)
    if encoded and not fixed:
        return Encoded(kind)
    raise DataError(
        f"{where} has images of {size} values in column {name!r}, neither a square RGB nor a square gray image; "
        "use Arrow's fixed_shape_tensor, which tells height and width."
    )


def _planar(blocks: list[Array], side: int, name: str, where: str) -> bool:
    """Whether flat RGB pixels are three planes (CIFAR's order) and not one pixel after another.

    Neighbors in an image are alike: read in the wrong order, they are not. Raises `DataError` where rows do not tell,
    as noise does not.
    """
    if not blocks or side == 1:
        return False
    pixels = np.stack(blocks).astype(np.int16)
    if not np.diff(pixels.reshape(-1, side * side, 3), axis=2).any():  # gray: equal channels beside each other
        return False
    pixelwise = _roughness(pixels.reshape(-1, side, side, 3), 1)
    planes = _roughness(pixels.reshape(-1, 3, side, side), 2)
    for mine, other, answer in ((pixelwise, planes, False), (planes, pixelwise, True)):
        clearer = mine * CLEAR < other
        if mine.sum() * CLEAR < other.sum() and clearer.sum() * 4 >= 3 * (mine != other).sum():
            return answer
    raise DataError(
        f"Column {name!r} of {where} holds flat images of {3 * side * side} values, and they do not show whether they "
        f"are stored pixel by pixel or as three planes. Say it in the type: store the values as Arrow's "
        f"fixed_shape_tensor of ({side}, {side}, 3) or of (3, {side}, {side}), as by "
        f"pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), ({side}, {side}, 3)), column)."
    )


def _roughness(images: Shorts, axis: int) -> npt.NDArray[np.float64]:
    """Return by image how much neighbors along its two sides differ, the first of which is ``axis``.

    The channels of a pixel say nothing: those of a gray image are equal, those of a red one far apart.
    """
    down, right = (np.abs(np.diff(images, axis=each)).mean(axis=(1, 2, 3)) for each in (axis, axis + 1))
    return np.asarray(down + right)
