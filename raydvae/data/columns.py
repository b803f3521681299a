"""Image columns by their Arrow type: how rows are read from each, and how images are written back in the same type.

A row is read as encoded bytes, as an array of pixels, or as the reason why it is neither. What a row holds beside the
image (paths, further fields of a struct) is *carried*: taken out before the pixels are changed, put back with them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from raydvae.data.codecs import Array, BadImage, encode

Value = bytes | Array | BadImage
NO_IMAGE = "no image (null)"
NO_BYTES = "no image bytes"
FROM_URL = str.maketrans("-_", "+/")  # the alphabet for addresses and names of files
NO_FILE = "no image bytes, and its path is of no image file inside of the data set's folder"


class ImageColumn(Protocol):
    """How images lie in a column of one type."""

    @property
    def encoding(self) -> str:
        """The way in a word or some, for people."""
        ...

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """Iterate over the rows: encoded bytes, RGB pixels (H, W, 3), or why there are none."""
        ...

    def carried(self, rows: pa.Array) -> pa.Array:
        """Return what the rows hold beside their images."""
        ...

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """Return rows with (N, H, W, 3) ``images``; `ValueError` where the type has no place for images so large."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Bytes of an image file: any binary type, a dictionary of one, or a list of uint8."""

    kind: pa.DataType
    encoding: str = "bytes"

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """See `ImageColumn.values`."""
        for row in rows:
            if not row.is_valid:
                yield BadImage(NO_IMAGE)
                continue
            if isinstance(row, pa.ListScalar):
                whole = row.values.null_count == 0
                data = row.values.to_numpy(zero_copy_only=False).tobytes() if whole else b""
            else:
                data = row.as_py()
            yield data or BadImage(NO_BYTES)

    def carried(self, rows: pa.Array) -> pa.Array:
        """See `ImageColumn.carried`: nothing."""
        return pa.nulls(len(rows))

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """See `ImageColumn.build`."""
        blobs = [encode(image) for image in images]
        if not is_list(self.kind):
            return pa.array(blobs, self.kind)
        flat = pa.array(np.frombuffer(b"".join(blobs), np.uint8))
        return _lists(flat, [len(blob) for blob in blobs], self.kind)


@dataclass(frozen=True, slots=True)
class Base64:
    """Text in base64, as it is or as a data URI."""

    kind: pa.DataType
    uri: bool

    @property
    def encoding(self) -> str:
        """See `ImageColumn.encoding`."""
        return "data URI" if self.uri else "base64"

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """See `ImageColumn.values`."""
        for row in rows:
            text = row.as_py()
            yield BadImage(NO_IMAGE) if text is None else from_base64(text)

    def carried(self, rows: pa.Array) -> pa.Array:
        """See `ImageColumn.carried`: nothing."""
        return pa.nulls(len(rows))

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """See `ImageColumn.build`."""
        start = "data:image/png;base64," if self.uri else ""
        return pa.array([start + base64.b64encode(encode(image)).decode() for image in images], self.kind)


def from_base64(text: str) -> bytes | BadImage:
    """Return the bytes of a text in base64, or of a data URI in base64: in either alphabet, padded or not."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            return BadImage("a data URI that is not in base64")
    try:
        text = "".join(text.split()).translate(FROM_URL).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True) or BadImage(NO_BYTES)
    except (binascii.Error, ValueError):
        return BadImage("text that is not base64")


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct whose field ``bytes`` is the image, as Hugging Face's; further fields are kept as they are."""

    kind: pa.StructType
    inner: Encoded
    encoding: str = "struct"

    @property
    def others(self) -> list[pa.Field]:
        """The fields that are kept."""
        return [field for field in self.kind if field.name != "bytes"]

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """See `ImageColumn.values`."""
        columns = dict(zip(self.kind.names, rows.flatten(), strict=True))
        paths = columns.get("path")
        for at, value in enumerate(self.inner.values(columns["bytes"])):
            if not isinstance(value, BadImage):
                yield value
            elif not rows.is_valid()[at].as_py():
                yield BadImage(NO_IMAGE)
            else:
                yield BadImage(NO_FILE if paths is not None and paths[at].is_valid else NO_BYTES)

    def carried(self, rows: pa.Array) -> pa.Array:
        """See `ImageColumn.carried`: a struct of the other fields."""
        if not self.others:
            return pa.nulls(len(rows))
        columns = dict(zip(self.kind.names, rows.flatten(), strict=True))
        return pa.StructArray.from_arrays([columns[field.name] for field in self.others], fields=self.others)

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """See `ImageColumn.build`."""
        columns = {"bytes": self.inner.build(images, carried)}
        if self.others:
            columns |= dict(zip((field.name for field in self.others), carried.flatten(), strict=True))
        return pa.StructArray.from_arrays([columns[name] for name in self.kind.names], fields=list(self.kind))


@dataclass(frozen=True, slots=True)
class One:
    """A list that holds exactly one image."""

    kind: pa.DataType
    inner: ImageColumn

    @property
    def encoding(self) -> str:
        """See `ImageColumn.encoding`."""
        return f"list of one {self.inner.encoding}"

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """See `ImageColumn.values`."""
        images = self.inner.values(rows.flatten())
        for length in pc.list_value_length(rows).to_pylist():
            if length is None:
                yield BadImage(NO_IMAGE)
                continue
            held = [next(images) for _ in range(length)]
            yield held[0] if length == 1 else BadImage(f"a list of {length} images, where one is expected")

    def carried(self, rows: pa.Array) -> pa.Array:
        """See `ImageColumn.carried`, for rows that hold one image each."""
        return self.inner.carried(rows.flatten())

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """See `ImageColumn.build`."""
        return _lists(self.inner.build(images, carried), [1] * len(images), self.kind)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Arrays of uint8: lists, flat or nested, Arrow's, Ray's and Hugging Face's tensors, structs of data and shape.

    ``order`` names the axes as they are stored: "HW", "HWC", "CHW", "WHC" and so on. ``shape`` is that of every row,
    or None where each row tells its own; ``gray`` means one channel where there is an axis of channels.
    """

    kind: pa.DataType
    order: str
    shape: tuple[int, ...] | None
    gray: bool
    encoding: str = "array"

    def values(self, rows: pa.Array) -> Iterator[Value]:
        """See `ImageColumn.values`."""
        rows = storage_of(rows)
        ragged = pt.is_struct(rows.type)
        if ragged:
            columns = dict(zip(rows.type.names, rows.flatten(), strict=True))
            rows, shapes = columns["data"], columns["shape"].to_pylist()
        for at, row in enumerate(rows):
            try:
                if not row.is_valid:
                    raise BadImage(NO_IMAGE)
                image = dense(row.values)
                shape = self.shape or (tuple(shapes[at] or ()) if ragged else image.shape)
                yield self._upright(image, shape)
            except BadImage as reason:
                yield reason

    def _upright(self, image: Array, shape: tuple[int, ...]) -> Array:
        channels = 1 if self.gray else 3
        if len(shape) != len(self.order) or min(shape) < 1 or np.prod(shape) != image.size:
            raise BadImage(f"an array of shape {shape} and {image.size} values, where {self.axes} is expected")
        image = image.reshape(shape)
        if len(shape) == 2:
            image = image[:, :, None] if self.order == "HW" else image.T[:, :, None]
        else:
            image = image.transpose([self.order.index(axis) for axis in "HWC"])
            if image.shape[2] != channels:
                raise BadImage(f"an array of shape {shape}, where {self.axes} is expected")
        return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)

    @property
    def axes(self) -> str:
        """The expected shape, for people: "(H, W, 3)"."""
        return f"({', '.join(axis if axis != 'C' else '1' if self.gray else '3' for axis in self.order)})"

    def carried(self, rows: pa.Array) -> pa.Array:
        """See `ImageColumn.carried`: nothing."""
        return pa.nulls(len(rows))

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """See `ImageColumn.build`. Of gray columns the first channel is kept."""
        if self.gray or "C" not in self.order:
            images = images[..., :1]
        stored = images.transpose(0, *(1 + "HWC".index(axis) for axis in self.order.ljust(3, "C")))
        shape = stored.shape[1 : 1 + len(self.order)]
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"images of {shape} do not fit its fixed shape {self.shape}")
        kind = self.kind.storage_type if isinstance(self.kind, pa.BaseExtensionType) else self.kind
        flat = pa.array(np.ascontiguousarray(stored).reshape(-1))
        out = self._ragged(flat, len(images), shape, kind) if pt.is_struct(kind) else _nested(flat, shape, kind)
        return pa.ExtensionArray.from_storage(self.kind, out) if isinstance(self.kind, pa.BaseExtensionType) else out

    def _ragged(self, flat: pa.Array, rows: int, shape: tuple[int, ...], kind: pa.StructType) -> pa.Array:
        columns = {
            "data": _lists(flat, [int(np.prod(shape))] * rows, kind.field("data").type),
            "shape": pa.array([list(shape)] * rows, kind.field("shape").type),
        }
        return pa.StructArray.from_arrays([columns[name] for name in kind.names], fields=list(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether ``kind`` is a list of fixed or variable length."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def storage_of(rows: pa.Array) -> pa.Array:
    """Return ``rows`` without an extension type."""
    return rows.storage if isinstance(rows, pa.ExtensionArray) else rows


def dense(values: pa.Array) -> Array:
    """Return nested lists of uint8 as an array of their depth, or raise `BadImage` where they are no block."""
    shape = [len(values)]
    while is_list(values.type):
        lengths = pc.list_value_length(values)
        if lengths.null_count:
            raise BadImage("an array with missing values")
        different = lengths.unique()
        if len(different) > 1:
            raise BadImage("an array whose lines differ in length")
        shape.append(different[0].as_py() if len(different) else 0)
        values = values.flatten()
    if values.null_count:
        raise BadImage("an array with missing values")
    flat: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat.astype(np.uint8, copy=False).reshape(shape)


def _nested(flat: pa.Array, shape: tuple[int, ...], kind: pa.DataType) -> pa.Array:
    """Return ``flat`` as rows of lists: nested as ``shape``, or flat where ``kind`` is not nested."""
    kinds = [kind]
    while is_list(kinds[-1].value_type):
        kinds.append(kinds[-1].value_type)
    sizes = [int(np.prod(shape))] if len(kinds) == 1 else list(shape)
    for level, size in zip(reversed(kinds), reversed(sizes), strict=True):
        flat = _lists(flat, [size] * (len(flat) // size), level)
    return flat


def _lists(values: pa.Array, lengths: list[int], kind: pa.DataType) -> pa.Array:
    """Return rows of lists of ``lengths``."""
    if pt.is_fixed_size_list(kind):
        if any(length != kind.list_size for length in lengths):
            raise ValueError(f"lists of {lengths[0]} values do not fit its fixed length {kind.list_size}")
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    large = pt.is_large_list(kind)
    ends = np.cumsum([0, *lengths], dtype=np.int64 if large else np.int32)
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(pa.array(ends), values, type=kind)
