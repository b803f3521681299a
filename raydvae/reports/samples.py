"""A few images at every step of a purification, kept beside the run for its report."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from raydvae.data.classes import MAX_CLASSES
from raydvae.data.codecs import Array
from raydvae.data.shapes import parse_json
from raydvae.data.store import Store
from raydvae.errors import DataError, StorageError

ARRAYS = {"x0": np.uint8, "p_hat": np.float32, "x1": np.uint8, "x3": np.uint8, "labels": np.int64}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """N images: input ``x0``, after pass 1 ``x1`` and output ``x3``, each (N, H, W, 3) uint8; the estimated
    perturbation ``p_hat`` (N, H, W, 3) float32 in units where a pixel is 0..1; ``labels`` (N,) int64; one row id each.
    Raises `DataError` when types or shapes are others.
    """

    x0: Array
    p_hat: npt.NDArray[np.float32]
    x1: Array
    x3: Array
    labels: npt.NDArray[np.int64]
    row_ids: list[str]

    def __post_init__(self) -> None:
        count = len(self.row_ids)
        shape = self.x0.shape
        if len(shape) != 4 or shape[0] != count or shape[-1] != 3 or 0 in shape[1:]:
            raise DataError(f"Samples x0 have the shape {shape}; with {count} row ids it must be ({count}, H, W, 3).")
        for name, kind in ARRAYS.items():
            array = getattr(self, name)
            expected = (count,) if name == "labels" else shape
            if array.dtype != kind or array.shape != expected:
                raise DataError(
                    f"Samples {name} are {array.dtype} {array.shape}; they must be {np.dtype(kind)} {expected}."
                )

    def save(self, store: Store, name: str) -> None:
        """Publish the samples as one safetensors file."""
        arrays = {key: np.ascontiguousarray(getattr(self, key)) for key in ARRAYS}
        store.write(name, safetensors.numpy.save(arrays, metadata={"row_ids": json.dumps(self.row_ids)}))

    @classmethod
    def load(cls, store: Store, name: str, classes: int = MAX_CLASSES) -> Samples:
        """Return the samples of a file that `save` wrote; `StorageError` if it is damaged or of more ``classes``."""
        data = store.read(name)
        try:
            arrays = safetensors.numpy.load(data)
            found = cls(**{key: arrays[key] for key in ARRAYS}, row_ids=_row_ids(data))
            if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < classes:
                raise ValueError(f"labels are from {found.labels.min()} to {found.labels.max()}")
            return found
        except (SafetensorError, DataError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{store.uri}/{name} holds no samples of a run ({error}); delete it and make the report again."
            ) from None


def _row_ids(data: bytes) -> list[str]:
    # safetensors returns the metadata of files only, not of bytes; the header is 8 bytes of length, then JSON.
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    ids = parse_json(header["__metadata__"]["row_ids"])
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise ValueError("row_ids is no list of texts")
    return ids
