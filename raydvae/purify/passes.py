"""The inference passes of Algorithm 1 as work on the units of a data set.

Reading and committing happen in processes that have no use for torch, which takes seconds to import: only `load` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raydvae.config import DVAEConfig, PurifyConfig
from raydvae.data.classes import Classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.selection import Marked
from raydvae.data.store import Store
from raydvae.data.units import Unit

if TYPE_CHECKING:
    import torch

    from raydvae.purify.inference import Inference

Mask = npt.NDArray[np.bool_]
PSNR_EDGES = [float(edge) for edge in range(10, 51)]


@dataclass(slots=True)
class Pass:
    """What the units of both passes share. ``store`` holds the stage's finished training.

    With ``marked`` only those rows are worked on; the others go through as they came.
    """

    name: str
    run: Run
    data: Dataset
    classes: Classes
    config: PurifyConfig
    architecture: DVAEConfig
    store: Store
    marked: Marked | None = None
    inference: Inference | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "inference"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in (state | {"inference": None}).items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.config.image_size)

    def load(self, device: torch.device) -> None:
        """Load the stage's D-VAE."""
        from raydvae.purify.inference import Inference

        self.inference = Inference.load(self.store, self.architecture, self.config, device)

    def part(self, rows: Rows) -> tuple[Rows, Mask | None]:
        """Return the rows to work on, and which of all rows they are; None where they are all."""
        if self.marked is None:
            return rows, None
        mask = self.marked.mask(rows.row_ids)
        return replace(rows, images=rows.images[mask], labels=rows.labels[mask], kept=rows.kept[mask]), mask


class SubtractPass(Pass):
    """Pass 1: x1 = x0 - p_hat0, with the D-VAE of stage 1."""

    def compute(self, rows: Rows) -> tuple[Array, dict[str, Any]]:
        """Return x1 (N, H, W, 3) uint8 and the sums of ||p_hat||_2 a class."""
        assert self.inference is not None
        part, mask = self.part(rows)
        x1, p_hat = self.inference.subtracted(part)
        norms = np.sqrt(np.square(p_hat.astype(np.float64)).sum(axis=(1, 2, 3)))
        return _among(rows.images, mask, x1), {
            "p_norms": _per_class(norms, part.labels),
            "model": self.inference.weights,
        }

    def commit(self, rows: Rows, result: tuple[Array, dict[str, Any]]) -> dict[str, Any]:
        """Publish the unit's part of P1."""
        return self.run.commit(self.name, self.data, rows, result[0], folder="_raydvae/work/p1", notes=result[1])


class ReconstructPass(Pass):
    """Passes 2 and 3 in one: x2 = x1 - p_hat1 kept in float, then x3 = x_hat(x2), with the D-VAE of stage 2."""

    def compute(self, rows: Rows) -> tuple[Array | None, Array, dict[str, Any]]:
        """Return x2 (if it is to be kept), x3 (N, H, W, 3) uint8, and a histogram of PSNR(x1, x3)."""
        assert self.inference is not None
        part, mask = self.part(rows)
        x2, x3 = self.inference.purified(part)
        difference = (part.images.astype(np.float64) - x3) / 255
        mse = np.square(difference).mean(axis=(1, 2, 3))
        psnr = -10 * np.log10(np.maximum(mse, 1e-10))
        counts = np.histogram(psnr.clip(PSNR_EDGES[0], PSNR_EDGES[-1]), PSNR_EDGES)[0]
        notes = {"psnr_counts": counts.tolist(), "psnr_sum": float(psnr.sum()), "model": self.inference.weights}
        kept = None if x2 is None else _among(rows.images, mask, x2)
        return kept, _among(rows.images, mask, x3), notes

    def commit(self, rows: Rows, result: tuple[Array | None, Array, dict[str, Any]]) -> dict[str, Any]:
        """Publish the unit's part of P3, and of P2 if asked for."""
        x2, x3, notes = result
        p2 = {}
        if x2 is not None and (data := self.run.publish(self.data, rows, x2, "_raydvae/work/p2")):
            p2 = {f"_raydvae/work/p2/{rows.unit.file}": data}
        return self.run.commit(self.name, self.data, rows, x3, notes=notes, written=p2)


def _among(images: Array, mask: Mask | None, changed: Array) -> Array:
    """Return ``images`` with those of ``mask`` replaced by the ``changed`` ones."""
    if mask is None:
        return changed
    out = images.copy()
    out[mask] = changed
    return out


def _per_class(values: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, list[float]]:
    """Return count, sum and sum of squares for each class, which add up over units."""
    out = {}
    for label in np.unique(labels):
        mine = values[labels == label]
        out[str(label)] = [float(len(mine)), float(mine.sum()), float(np.square(mine).sum())]
    return out
