"""Official releases of poisons, read into one form; and ours written in two forms that others read.

| file | made by | holds |
| --- | --- | --- |
| ``.pkl``, ``.npy`` int8 (N, 3, H, W) | EM, REM and TAP of REM's code | noise in levels of 1/255 |
| ``.pt`` float (N, 3, H, W), or (C, 3, H, W) a class | D-VAE, EM | noise in units of [0, 1] images |
| ``.npy`` float (N, H, W, 3) with negative values | OPS | noise in units of [0, 1] images |
| ``.npy`` float (n, 3, H, W), in chunks, by name | SEP | poisoned images in [0, 1] |
| ``.npy`` float (N, H, W, 3), clean rows and one-hot labels beside it | NTGA | poisoned images in [0, 1], own order |
| ``.png`` called by index | AR, TAP | poisoned images |

NTGA's rows are in an order of their own and not all are there: give its clean ``x_train`` file too, and rows are found
again by their bytes.
"""

from __future__ import annotations

import dataclasses
import io
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from raydvae.attacks.arrays import Values, read_array
from raydvae.attacks.base import Array
from raydvae.config import DataConfig
from raydvae.data.codecs import BadImage, decode
from raydvae.errors import DataError

Holds = Literal["noise", "class-noise", "images"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One release, as `read_artifact` returns it; call `fit` before `poison`.

    ``values`` are (N, H, W, 3): noise in levels of 1/255 (float or int8), or images (uint8).

    ``labels`` (N,) and ``clean`` (N, H, W, 3) uint8 are there for releases in an order of their own, which are to be
    put in order with `match`.
    """

    holds: Holds
    values: Values
    where: str
    labels: npt.NDArray[np.int64] | None = None
    clean: Array | None = None

    def fit(self, rows: int, shape: tuple[int, ...], num_classes: int) -> Artifact:
        """Return this release for a data set of ``rows`` images (H, W, 3); `DataError` unless it is made for it.

        Noise with a row for each class instead of each image becomes "class-noise".
        """
        if self.values.shape[1:] != shape:
            raise DataError(f"{self.where} is for images {self.values.shape[1:]}; these are {shape}.")
        if len(self.values) == rows or self.clean is not None:
            return self
        if self.holds == "noise" and len(self.values) == num_classes:
            return dataclasses.replace(self, holds="class-noise")
        raise DataError(
            f"{self.where} is for {len(self.values)} rows, and this data set has {rows} (and {num_classes} classes); "
            "give the data set that it was made for, in its original order."
        )

    def poison(self, clean: Array, labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Array:
        """Return the poisoned bytes of images ``clean`` (n, H, W, 3), which are ``rows`` (n,) of the data set.

        Noise is rounded to whole levels, towards the nearest.
        """
        index = labels if self.holds == "class-noise" else rows
        if len(index) and not 0 <= index.min() <= index.max() < len(self.values):
            raise DataError(f"{self.where} has {len(self.values)} rows; row {index.max()} was asked for.")
        if self.values.shape[1:] != clean.shape[1:]:
            raise DataError(f"{self.where} is for images {self.values.shape[1:]}; these are {clean.shape[1:]}.")
        chosen = self.values[index]
        if self.holds == "images":
            return np.asarray(chosen, np.uint8)
        return np.asarray(np.clip(np.rint(clean.astype(np.float64) + chosen), 0, 255), np.uint8)


def read_artifact(files: Mapping[str, bytes], where: str, limits: DataConfig | None = None) -> Artifact:
    """Return the release in ``files``, by name; `DataError` says what is wrong and names ``where``."""
    names = sorted(files)
    kinds = {posixpath.splitext(name)[1].lower() for name in names}
    if kinds == {".png"}:
        return Artifact("images", _pngs(files, where, limits or DataConfig()), where)
    if kinds == {".npy"} and len(names) > 1:
        return _several({name: read_array(name, files[name], where) for name in names}, where)
    if len(names) != 1:
        raise DataError(f"{where} holds {', '.join(sorted(kinds)) or 'no'} files; give one release, as published.")
    return _single(read_array(names[0], files[names[0]], where), f"{where}: {names[0]}")


def match(artifact: Artifact, images: Array) -> npt.NDArray[np.int64]:
    """Return which row of the release belongs to each clean image (n, H, W, 3) uint8, or -1: by equal bytes.

    The release must have clean rows. Equal images are matched in order.
    """
    if artifact.clean is None:
        raise DataError(f"{artifact.where} has rows in an order of its own; give its clean x_train file as well.")
    places: dict[bytes, list[int]] = {}
    for row in range(len(artifact.clean) - 1, -1, -1):
        places.setdefault(artifact.clean[row].tobytes(), []).append(row)
    found = [places[key].pop() if places.get(key := image.tobytes()) else -1 for image in images]
    return np.array(found, dtype=np.int64)


def to_pt(clean: Array, poisoned: Array) -> bytes:
    """Return the noise between images (N, H, W, 3) uint8 as D-VAE's ``.pt``: float32 (N, 3, H, W), units of [0, 1]."""
    levels = _levels(clean, poisoned).astype(np.float32) / 255
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(levels.transpose(0, 3, 1, 2))), buffer)
    return buffer.getvalue()


def to_npy(clean: Array, poisoned: Array) -> bytes:
    """Return the noise as REM's pickle holds it, but in ``.npy``: int8 (N, 3, H, W), levels of 1/255."""
    levels = _levels(clean, poisoned)
    if levels.size and (levels.min() < -128 or levels.max() > 127):
        raise DataError(
            f"The noise reaches {int(np.abs(levels).max())} levels; int8 ends at 127. Export it in the .pt form."
        )
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(levels.transpose(0, 3, 1, 2)).astype(np.int8), allow_pickle=False)
    return buffer.getvalue()


def _levels(clean: Array, poisoned: Array) -> npt.NDArray[np.int16]:
    if clean.shape != poisoned.shape:
        raise DataError(
            f"Clean images are {clean.shape} and poisoned ones {poisoned.shape}; they must be the same rows."
        )
    return poisoned.astype(np.int16) - clean


def _single(values: Values, where: str) -> Artifact:
    values = _channels_last(values, where)
    if np.issubdtype(values.dtype, np.signedinteger):
        return Artifact("noise", values, where)
    values = _finite(values, where)
    if where.endswith((".pt", ".pth")) or (values.size and values.min() < 0):
        return Artifact("noise", _scaled(values, where), where)
    return Artifact("images", _bytes(values, where), where)


def _several(arrays: Mapping[str, Values], where: str) -> Artifact:
    flat = {name: value for name, value in arrays.items() if value.ndim <= 2}
    images = {name: value for name, value in arrays.items() if value.ndim == 4}
    ntga = [name for name in images if "ntga" in posixpath.basename(name).lower()]
    if not ntga:
        if flat:
            raise DataError(f"{where} holds {', '.join(flat)}, which are no images; give the poisoned chunks only.")
        chunks = [_channels_last(arrays[name], f"{where}: {name}") for name in sorted(arrays)]
        if len({chunk.shape[1:] for chunk in chunks}) > 1:
            raise DataError(f"The chunks of {where} hold images of different sizes.")
        return _single(np.concatenate(chunks), where)
    if len(ntga) > 1 or len(images) > 2 or len(flat) > 1 or len(images) + len(flat) < len(arrays):
        raise DataError(f"{where} holds several NTGA releases; give one, with its clean x_train and its y_train file.")
    found = _single(images.pop(ntga[0]), f"{where}: {ntga[0]}")
    labels = next((_labels(value, f"{where}: {name}") for name, value in flat.items()), None)
    clean = next((_single(value, f"{where}: {name}").values for name, value in images.items()), None)
    for name, other in (("labels", labels), ("clean rows", clean)):
        if other is not None and len(other) < len(found.values):
            raise DataError(f"{where} has {len(found.values)} poisoned rows, but {len(other)} {name}.")
    count = len(found.values)  # whole blocks only: the last rows of a release may be missing
    return Artifact(
        "images",
        found.values,
        where,
        None if labels is None else labels[:count],
        None if clean is None else clean[:count],
    )


def _labels(values: Values, where: str) -> npt.NDArray[np.int64]:
    if values.ndim == 0 or values.dtype.kind not in "biuf" or not values.size:
        raise DataError(
            f"{where} is {values.shape} {values.dtype}; expected (N,) labels, or one-hot ones of shape (N, C)."
        )
    if values.ndim == 2 and not ((values == 0) | (values == 1)).all():
        raise DataError(f"{where} is {values.shape}, but not one-hot labels.")
    if not np.isfinite(values).all() or np.abs(values).max() >= 2**53:
        raise DataError(f"{where} has labels that are no class numbers.")
    return np.asarray(values.argmax(axis=1) if values.ndim == 2 else values, np.int64)


def _pngs(files: Mapping[str, bytes], where: str, limits: DataConfig) -> Array:
    numbered: dict[int, bytes] = {}
    for name, data in files.items():
        number = re.fullmatch(r"(\d+)\.png", posixpath.basename(name), re.IGNORECASE)
        if not number:
            raise DataError(f"{where}: {name} is not called by its index in the data set, such as 42.png.")
        numbered[int(number[1])] = data
    missing = sorted(set(range(len(files))) - set(numbered))
    if missing:
        raise DataError(f"{where} holds {len(files)} images, but none of index {missing[0]}; it must be complete.")
    images: list[Array] = []
    for index in range(len(files)):
        try:
            images.append(decode(numbered[index], limits))
        except BadImage as error:
            raise DataError(f"{where}: {index}.png cannot be used: {error}.") from None
    if len({image.shape for image in images}) != 1:
        raise DataError(f"The images of {where} are of different sizes.")
    return np.stack(images)


def _channels_last(values: Values, where: str) -> Values:
    if values.ndim == 4 and values.dtype.kind in "fi" and 3 in (values.shape[1], values.shape[3]):
        # Images are larger than 3 px: one axis of 3 is the channels.
        return values if values.shape[3] == 3 and values.shape[1] != 3 else values.transpose(0, 2, 3, 1)
    raise DataError(f"{where} is {values.shape} {values.dtype}; expected (N, 3, H, W) or (N, H, W, 3) numbers.")


def _finite(values: Values, where: str) -> Values:
    if not np.isfinite(values).all():
        raise DataError(f"{where} has values that are not finite.")
    return values


def _scaled(values: Values, where: str) -> Values:
    if values.size and np.abs(values).max() > 1 + 1e-6:
        raise DataError(f"{where} has noise up to {np.abs(values).max():.4g}; expected units of [0, 1] images.")
    return values.astype(np.float32) * np.float32(255)


def _bytes(values: Values, where: str) -> Array:
    if values.size and values.max() > 1 + 1e-6:
        raise DataError(f"{where} has images up to {values.max():.4g}; expected values in [0, 1].")
    return np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)
