"""Other formats as rows: a reader a file. Each finds the splits of a source, and reads rows in two steps.

`Reader.scan` walks over all rows without reading images, so that they can be counted and chosen; `Reader.table` reads
chosen rows. Both may be called any number of times and tell the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from raydvae.data.schema import huggingface_metadata

MAX_CLASSES = 100_000
MAX_BYTES = 64 * 2**20  # of one encoded image, as DataConfig.max_image_bytes
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that is not read yet: its class, its file, the place in it (the reader knows the unit) and its bytes.

    ``path`` is the name that the row keeps, where that is not its file's.
    """

    label: int
    file: str = ""
    at: int = 0
    size: int = 0
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that becomes no row."""

    reason: str


class Reader(Protocol):
    """One split of a source."""

    names: tuple[str, ...] | None  # of the classes; None where the source has numbers only

    def scan(self) -> Iterator[Entry | Skip]:
        """Iterate over all rows in source order, reading labels at most."""
        ...

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the schema of the tables, for classes called ``names``."""
        ...

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """Read ``entries``, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The splits "train" and "test" of a source, or only "" where it is not divided.

    ``stray`` counts what no part can tell of, by the reason why it becomes no row. ``notes`` are sentences on how the
    source was understood, where another reading is possible.
    """

    parts: dict[str, Reader]
    stray: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def image_schema(names: Sequence[str], **others: Sequence[str]) -> pa.Schema:
    """Return the Hugging Face schema of images and labels; ``others`` are further label columns with their names."""
    fields = [("image", IMAGE), ("label", pa.int64()), *((name, pa.int64()) for name in others)]
    return pa.schema(fields, metadata=huggingface_metadata(names, **others))


def image_table(
    schema: pa.Schema,
    entries: Sequence[Entry],
    images: Sequence[bytes],
    paths: Sequence[str | None],
    **others: Sequence[int],
) -> pa.Table:
    """Return a table of `image_schema` with encoded ``images``; ``others`` fill the further label columns."""
    pairs = [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)]
    columns: dict[str, Sequence[object]] = {"image": pairs, "label": [entry.label for entry in entries], **others}
    return pa.table(columns, schema=schema)
