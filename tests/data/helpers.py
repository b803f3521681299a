"""Small data sets for the tests, made by plain pyarrow and Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.units import Unit

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def random_images(count: int, size: int = 8, seed: int = 0) -> Array:
    """Return (N, size, size, 3) random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def as_bytes(image: Image.Image | npt.NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    """Encode with Pillow alone, so that a test does not rest on our own encoder."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def struct_table(images: Sequence[bytes | None], labels: Sequence[object], **others: Sequence[object]) -> pa.Table:
    """Return a table of image structs with paths, labels and other columns."""
    pairs = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    return pa.table({"image": pa.array(pairs, STRUCT), "label": list(labels), **others})


def write(folder: Path, table: pa.Table, name: str = "train-0.parquet", groups: int | None = None) -> Path:
    """Write ``table`` as a file with row groups of ``groups`` rows, and return its folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=groups)
    return folder


def decode_unit(dataset: Dataset, unit: Unit, image_size: int, num_classes: int | None = None) -> Rows:
    """Read and decode one unit."""
    return decode_rows(dataset, unit, dataset.read(unit), find_classes(dataset, num_classes), image_size)


def plain(size_policy: str = "reject", **settings: object) -> DataConfig:
    """Return a `DataConfig` with some settings changed."""
    return DataConfig(size_policy=size_policy, **settings)  # type: ignore[arg-type]


def smooth_images(count: int, size: int = 8, seed: int = 0) -> Array:
    """Return (N, size, size, 3) images in which neighbors are alike, as in photographs, and channels are not."""
    corners = random_images(count, 3, seed)
    resized = [Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in corners]
    return np.stack([np.asarray(each) for each in resized])
