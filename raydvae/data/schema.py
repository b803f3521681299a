"""Which column holds the image, in which of the three encodings, and which holds the label."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from raydvae.config import DataConfig
from raydvae.data.codecs import Array, BadImage, decode, encode
from raydvae.errors import DataError

Encoding = Literal["struct", "bytes", "array"]
IMAGE_NAMES = ("image", "img", "images", "jpg", "png", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "cls", "y")
ORIGIN = b"raydvae.origin"


@dataclass(frozen=True, slots=True)
class ImageSchema:
    """The columns of a data set as raydvae sees them; ``arrow`` is the whole schema, which outputs keep."""

    arrow: pa.Schema
    image: str
    label: str
    encoding: Encoding
    shape: tuple[int, ...] | None
    class_names: tuple[str, ...] | None

    @property
    def labels_are_text(self) -> bool:
        """Whether labels are strings rather than numbers."""
        kind = self.arrow.field(self.label).type
        return not pt.is_integer(kind.value_type if pt.is_dictionary(kind) else kind)

    def pixels(self, value: object, limits: DataConfig) -> Array:
        """Return the RGB image (H, W, 3) of one value of the image column, or raise `BadImage`."""
        if value is None:
            raise BadImage("no image (null)")
        if self.encoding == "array":
            return self._from_array(value)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise BadImage("no image bytes")
        return decode(data, limits)

    def _from_array(self, value: object) -> Array:
        assert self.shape is not None
        pixels = np.asarray(value, dtype=object).reshape(-1)
        if any(v is None for v in pixels):
            raise BadImage("an array with missing values")
        image = pixels.astype(np.uint8).reshape(self.shape)
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        elif image.shape[0] == 3 and image.shape[2] != 3:
            image = image.transpose(1, 2, 0)
        return np.ascontiguousarray(image)

    def column(self, images: Array, paths: list[str | None]) -> pa.Array:
        """Return the image column for (N, H, W, 3) ``images``, of the same type as the source's."""
        kind = self.arrow.field(self.image).type
        if self.encoding == "bytes":
            return pa.array([encode(image) for image in images], type=kind)
        if self.encoding == "struct":
            rows = [{"bytes": encode(image), "path": path} for image, path in zip(images, paths, strict=True)]
            return pa.array(rows, type=kind)
        assert self.shape is not None
        if len(self.shape) == 2:
            images = images[..., 0]
        elif self.shape[0] == 3 and self.shape[2] != 3:
            images = images.transpose(0, 3, 1, 2)
        if images.shape[1:] != self.shape:
            raise DataError(
                f"Images of {images.shape[1:]} do not fit column {self.image!r} of fixed shape {self.shape}; "
                'set size_policy = "reject", or store the images as encoded bytes.'
            )
        storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        flat = pa.array(np.ascontiguousarray(images).reshape(-1), type=pa.uint8())
        stored = pa.FixedSizeListArray.from_arrays(flat, type=storage)
        return pa.ExtensionArray.from_storage(kind, stored) if isinstance(kind, pa.BaseExtensionType) else stored


def detect(schema: pa.Schema, limits: DataConfig, where: str) -> ImageSchema:
    """Find image and label column of an Arrow schema, or raise `DataError` that says what was found."""
    image = _pick(schema, IMAGE_NAMES, limits.image_column, _encoding, "image", where)
    label = _pick(schema, LABEL_NAMES, limits.label_column, _is_label, "label", where)
    encoding = _encoding(schema.field(image).type)
    assert encoding is not None
    return ImageSchema(
        arrow=schema,
        image=image,
        label=label,
        encoding=encoding,
        shape=_shape(schema.field(image).type, where) if encoding == "array" else None,
        class_names=class_names(schema, label),
    )


def _pick(
    schema: pa.Schema, names: tuple[str, ...], asked: str, fits: Callable[[pa.DataType], Any], what: str, where: str
) -> str:
    listing = ", ".join(f"{field.name}: {field.type}" for field in schema)
    if asked:
        if asked not in schema.names or not fits(schema.field(asked).type):
            raise DataError(f"{where} has no {what} column {asked!r} that can be used. Its columns: {listing}.")
        return asked
    candidates: list[str] = [field.name for field in schema if fits(field.type)]
    for name in names:
        if name in candidates:
            return name
    if len(candidates) == 1 and what == "image":
        return candidates[0]
    raise DataError(
        f"{where} has no {what} column that can be recognized. Its columns: {listing}. "
        f"Name it {names[0]!r}, or set data.{what}_column in a --config file."
    )


def _encoding(kind: pa.DataType) -> Encoding | None:
    if pt.is_struct(kind) and "bytes" in kind.names and _is_binary(kind.field("bytes").type):
        return "struct"
    if _is_binary(kind):
        return "bytes"
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pt.is_fixed_size_list(storage) and storage.value_type == pa.uint8():
        return "array"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _is_label(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind))


def _shape(kind: pa.DataType, where: str) -> tuple[int, ...]:
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = tuple(kind.shape)
        if len(shape) == 2 or (len(shape) == 3 and 3 in (shape[0], shape[2])):
            return shape
        raise DataError(f"{where} has images of shape {shape}; expected (H, W), (H, W, 3) or (3, H, W).")
    size = kind.list_size
    side = round((size / 3) ** 0.5)
    if side * side * 3 == size:
        return side, side, 3
    side = round(size**0.5)
    if side * side == size:
        return side, side
    raise DataError(
        f"{where} has images of {size} values, neither a square RGB nor a square grey image; "
        "use Arrow's fixed_shape_tensor, which tells height and width."
    )


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the class names that a Hugging Face schema carries for column ``label``, if it does."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return tuple(str(name) for name in names) or None
    except (KeyError, TypeError, ValueError):
        return None


def huggingface_metadata(names: Sequence[str], **others: Sequence[str]) -> dict[bytes, bytes]:
    """Return schema metadata that makes Hugging Face `datasets` read columns ``image`` and ``label`` as such.

    ``others`` are the class names of further label columns.
    """
    features: dict[str, dict[str, Any]] = {"image": {"_type": "Image"}}
    for column, labels in {"label": names, **others}.items():
        features[column] = {"names": list(labels), "_type": "ClassLabel"}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
