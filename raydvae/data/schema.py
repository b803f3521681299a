"""Which column holds the image, how, and which holds the label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raydvae.config import DataConfig
from raydvae.data import labels, recognizing
from raydvae.data.codecs import Array, BadImage, decode, header, size_of
from raydvae.data.columns import ImageColumn, Value
from raydvae.data.merging import conform, in_memory
from raydvae.data.shapes import parse_json
from raydvae.errors import DataError

IMAGE_NAMES = ("image", "img", "images", "jpg", "png", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "cls", "y")
ORIGIN = b"raydvae.origin"


@dataclass(frozen=True, slots=True)
class ImageSchema:
    """The columns of a data set as raydvae sees them; ``arrow`` is the whole schema, which outputs have."""

    arrow: pa.Schema
    image: str
    label: str
    column: ImageColumn
    class_names: tuple[str, ...] | None

    @property
    def encoding(self) -> str:
        """How images lie in their column, for people."""
        return self.column.encoding

    @property
    def labels_are_text(self) -> bool:
        """Whether labels are strings rather than numbers."""
        return labels.is_text(self.arrow.field(self.label).type)

    @property
    def memory(self) -> pa.Schema:
        """The schema of rows in memory, where it differs from ``arrow``: see `merging.in_memory`."""
        return in_memory(self.arrow)

    def written(self, table: pa.Table) -> pa.Table:
        """Return a table of some columns in memory as it is written to files."""
        names = table.schema.names
        if names == self.arrow.names:  # several columns that nobody asks for may have one name
            return conform(table, self.arrow)
        return conform(table, pa.schema([self.arrow.field(name) for name in names]))

    def values(self, rows: pa.ChunkedArray | pa.Array) -> Iterator[Value]:
        """Iterate over rows of the image column, for `pixels`."""
        for chunk in rows.chunks if isinstance(rows, pa.ChunkedArray) else [rows]:
            yield from self.column.values(chunk)

    def pixels(self, value: Value, limits: DataConfig, size: int = 0) -> Array:
        """Return the RGB image (H, W, 3) of one of `values`, or raise `BadImage`.

        With ``size``, an encoded image that the size policy refuses is not decoded.
        """
        if isinstance(value, BadImage):
            raise value
        return decode(value, limits, size) if isinstance(value, bytes) else value

    def size(self, value: Value) -> tuple[int, int] | None:
        """Return width and height of one of `values` without decoding it; None where there is no image."""
        if isinstance(value, BadImage):
            return None
        return size_of(value) if isinstance(value, bytes) else (value.shape[1], value.shape[0])

    def measure(self, value: Value, limits: DataConfig) -> tuple[int, int]:
        """Return width and height of one of `values` without decoding it; `BadImage` where its header is refused."""
        if isinstance(value, BadImage):
            raise value
        return header(value, limits) if isinstance(value, bytes) else (value.shape[1], value.shape[0])

    def carried(self, rows: pa.ChunkedArray) -> pa.Array:
        """Return what rows of the image column hold beside their images, for `build`."""
        whole = rows.combine_chunks()
        if isinstance(whole, pa.ChunkedArray):  # of none or several chunks, in some versions
            whole = pa.concat_arrays(whole.chunks) if whole.chunks else pa.array([], whole.type)
        return self.column.carried(whole)

    def build(self, images: Array, carried: pa.Array) -> pa.Array:
        """Return the image column for (N, H, W, 3) ``images``, of the same type as the source's."""
        try:
            return self.column.build(images, carried)
        except ValueError as error:
            raise DataError(
                f"Images of {images.shape[1:]} do not fit column {self.image!r} of type "
                f'{self.arrow.field(self.image).type}: {error}; set size_policy = "reject", or store the images as '
                "encoded bytes."
            ) from None


def detect(schema: pa.Schema, limits: DataConfig, where: str, rows: pa.Array | None = None) -> ImageSchema:
    """Find image and label column of an Arrow schema, or raise `DataError` that says what was found.

    ``rows`` are some of the image column, for types that leave something open: see `recognizing`.
    """
    image = _pick_image(schema, limits.image_column, where)
    label = _pick(schema, LABEL_NAMES, limits.label_column, labels.fits, labels.unread, "label", where)
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise DataError(f"{where} has {schema.names.count(name)} columns named {name!r}; rename all but one.")
    column = recognizing.recognize(schema.field(image), rows, where)
    return ImageSchema(schema, image, label, column, class_names(schema, label))


def _pick_image(schema: pa.Schema, asked: str, where: str) -> str:
    def fits(kind: pa.DataType) -> bool:
        return recognizing.fits(kind, text=True)

    sure = [field.name for field in schema if recognizing.fits(field.type)]
    named = [name for name in IMAGE_NAMES if name in schema.names]
    if not asked:
        best = [name for name in named if name in sure]
        texts = all(fits(schema.field(schema.names.index(name)).type) for name in named)  # names of files, perhaps
        if best or (texts and len(set(sure)) == 1):
            return str((best or sure)[0])
    return _pick(schema, IMAGE_NAMES, asked, fits, recognizing.unread, "image", where)


def _pick(
    schema: pa.Schema,
    names: tuple[str, ...],
    asked: str,
    fits: Callable[[pa.DataType], bool],
    unread: Callable[[pa.DataType], str],
    what: str,
    where: str,
) -> str:
    listing = ", ".join(f"{field.name}: {field.type}" for field in schema)
    kinds = dict(zip(schema.names, schema.types, strict=True))
    if asked:
        if asked not in kinds:
            raise DataError(f"{where} has no {what} column {asked!r}. Its columns: {listing}.")
        if not fits(kinds[asked]):
            raise DataError(
                f"{where} has no {what} column {asked!r} that can be used. Its columns: {listing}. Column {asked!r} is "
                f"of type {kinds[asked]}; {unread(kinds[asked])}."
            )
        return asked
    named = [name for name in names if name in kinds]
    for name in named:
        if fits(kinds[name]):
            return name
    start = f"{where} has no {what} column that can be recognized. Its columns: {listing}. "
    if named:
        raise DataError(f"{start}Column {named[0]!r} is of type {kinds[named[0]]}; {unread(kinds[named[0]])}.")
    raise DataError(f"{start}Name it {names[0]!r}, or set data.{what}_column in a --config file.")


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the class names that a Hugging Face schema carries for column ``label``, if it does."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[label]
        names = (feature.get("feature") or feature)["names"]  # of a list of class labels, too
        return tuple(str(name) for name in names) or None if isinstance(names, list) else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def with_feature(schema: pa.Schema, column: str, feature: dict[str, Any]) -> pa.Schema:
    """Return a schema whose Hugging Face metadata, if it has any, says ``feature`` of ``column``."""
    try:
        described = parse_json((schema.metadata or {})[b"huggingface"])
        described["info"]["features"][column] = feature
    except (KeyError, TypeError, ValueError):
        return schema
    return schema.with_metadata(dict(schema.metadata) | {b"huggingface": json.dumps(described).encode()})


def huggingface_metadata(names: Sequence[str], **others: Sequence[str]) -> dict[bytes, bytes]:
    """Return schema metadata that makes Hugging Face `datasets` read columns ``image`` and ``label`` as such.

    ``others`` are the class names of further label columns.
    """
    features: dict[str, dict[str, Any]] = {"image": {"_type": "Image"}}
    for column, classes in {"label": names, **others}.items():
        features[column] = {"names": list(classes), "_type": "ClassLabel"}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
