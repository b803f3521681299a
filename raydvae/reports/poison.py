"""What a poison is: its statistics as one JSON object, and a picture of each class's noise."""

from __future__ import annotations

import dataclasses
import io
import logging
from typing import Any

import numpy as np
from PIL import Image

from raydvae.attacks.base import Array
from raydvae.attacks.releases import pairs
from raydvae.attacks.statistics import describe
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset, probe_size
from raydvae.data.manifest import Run
from raydvae.data.store import Options, Store
from raydvae.errors import DataError, StorageError
from raydvae.reports.figures import normalize

log = logging.getLogger("raydvae.reports")
PICTURE = "poison.png"
MAX_ROWS = 50_000  # that are compared: statistics need the rows in memory
SHOWN_CLASSES = 20
SIDE = 96


def describe_poison(poisoned: str, clean: str, options: Options | None = None) -> dict[str, Any]:
    """Compare a poisoned data set with the clean one it was made from; write a picture into its folder if it may."""
    after, before = open_dataset(poisoned, options=options), open_dataset(clean, options=options, split="train")
    classes = find_classes(before)
    size = probe_size(after)
    parts, rows = [], 0
    for part in pairs(before, after, classes, size):
        parts.append(part)
        rows += len(part[2])
        if rows >= MAX_ROWS:
            break
    if not parts:
        raise DataError(f"{poisoned} has no rows to compare.")
    x, p, labels = (np.concatenate([part[column] for part in parts]) for column in range(3))
    changed = (x != p).any(axis=(1, 2, 3))
    if not changed.any():
        raise DataError(f"{poisoned} and {clean} hold the same images: nothing is poisoned.")
    found = describe(x[changed], p[changed], labels[changed], classes.count)
    store = Store(poisoned, options)
    picture = "_raydvae/" + PICTURE
    try:
        store.write(picture, _picture(x[changed], p[changed], labels[changed], found.mean))
    except StorageError as error:  # somebody else's folder
        log.warning("There is no picture of the noise. %s", error)
        picture = ""
    names = classes.names or tuple(str(number) for number in range(classes.count))
    result = {
        "rows": len(x),
        "rows_poisoned": int(changed.sum()),
        **{name: dataclasses.asdict(getattr(found, name)) for name in ("l0", "l2", "linf")},
        "inter_class_distance": found.inter_class,
        "intra_class_variance": found.intra_class,
        "entropy_components": found.components,
        "classes": {
            names[c]: {
                "rows": int(found.count[c]),
                "mean_l2": float(np.linalg.norm(found.mean[c])),
                "variance": float(found.variance[c]),
                "entropy": float(found.entropy[c]) if np.isfinite(found.entropy[c]) else None,
            }
            for c in range(classes.count)
        },
        "picture": f"{store.uri}/{picture}" if picture else None,
    }
    if Run(store).exists():
        result["settings"] = Run(store).read()["config"]
    return result


def _picture(x: Array, p: Array, labels: np.ndarray[Any, Any], means: np.ndarray[Any, Any]) -> bytes:
    """Return a PNG: a column a class, with two images' noise and the class's mean noise, each stretched to [0, 1]."""
    columns = []
    for label in np.unique(labels)[:SHOWN_CLASSES]:
        rows = np.flatnonzero(labels == label)[:2]
        noise = [p[row].astype(np.float32) - x[row] for row in rows] + [means[label].astype(np.float32)]
        tiles = [
            Image.fromarray(tile).resize((SIDE, SIDE), Image.Resampling.NEAREST) for tile in normalize(np.stack(noise))
        ]
        columns.append(
            np.concatenate([np.pad(np.asarray(t), ((2, 2), (2, 2), (0, 0)), constant_values=255) for t in tiles])
        )
    tallest = max(len(column) for column in columns)
    padded = [np.pad(c, ((0, tallest - len(c)), (0, 0), (0, 0)), constant_values=255) for c in columns]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(padded, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
