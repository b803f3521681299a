"""Passes that only evaluations need: reconstructions of data as it came, and P_hat of section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raydvae.attacks.releases import images_of, pairs
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.rows import Rows
from raydvae.purify.inference import Inference, load_vae
from raydvae.purify.passes import Pass

if TYPE_CHECKING:
    from raydvae.evaluation.bench import Bench


class ReconstructInput(Pass):
    """x_hat of the data as it came, by one D-VAE."""

    def compute(self, rows: Rows) -> Array:
        """Return x_hat (N, H, W, 3) uint8."""
        assert self.inference is not None
        return self.inference.reconstructed(rows)

    def commit(self, rows: Rows, result: Array) -> dict[str, Any]:
        """Publish the unit's reconstructions."""
        return self.run.commit(self.name, self.data, rows, result)


class ReconstructByVAE(ReconstructInput):
    """The same by a plain VAE."""

    def load(self, device: torch.device) -> None:
        """Load the model."""
        self.inference = Inference(load_vae(self.store, self.architecture).to(device), self.config, device)


@dataclass(slots=True)
class AddEstimate(Pass):
    """t + p_hat(x0) of each row, where t is the clean row that x0 was made from.

    The clean rows are read where the model is: `commit` may be given rows without pixels.
    """

    clean: Dataset | None = None

    def compute(self, rows: Rows) -> tuple[Array, dict[str, float]]:
        """Return P_hat's images (N, H, W, 3) uint8, and sums over rows of what `amplitudes` tells."""
        assert self.inference is not None
        assert self.clean is not None
        p_hat = self.inference.subtracted(rows)[1].astype(np.float64)
        clean = images_of(self.clean, rows, self.classes, self.config.image_size)
        p = (rows.images.astype(np.float64) - clean) / 255
        mse = np.square(p - p_hat).mean(axis=(1, 2, 3))
        sums = {
            "p": float(_norms(p).sum()),
            "p_hat": float(_norms(p_hat).sum()),
            "mse": float(mse.sum()),
            "psnr": float((-10 * np.log10(np.maximum(mse, 1e-10))).sum()),
        }
        return np.rint(np.clip(clean + 255 * p_hat, 0, 255)).astype(np.uint8), sums

    def commit(self, rows: Rows, result: tuple[Array, dict[str, float]]) -> dict[str, Any]:
        """Publish the unit's part of P_hat."""
        return self.run.commit(self.name, self.data, rows, result[0], notes={"sums": result[1]})


def amplitudes(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return Table 10 of `AddEstimate`'s records: means over rows of the l2 norms of p and p_hat, MSE, PSNR in dB."""
    rows = sum(record["rows_out"] for record in records)
    return {name: sum(record["sums"][name] for record in records) / rows for name in ("p", "p_hat", "mse", "psnr")}


def mean_psnr(before: Dataset, after: Dataset, bench: Bench) -> float:
    """Return the mean PSNR in dB of the images of ``after`` against those of ``before`` that they were made from."""
    total, rows = 0.0, 0
    for x, y, _ in pairs(before, after, bench.classes, bench.image_size):
        mse = np.square((x.astype(np.float64) - y) / 255).mean(axis=(1, 2, 3))
        total, rows = total - 10 * float(np.log10(np.maximum(mse, 1e-10)).sum()), rows + len(x)
    return total / rows


def _norms(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out: npt.NDArray[np.float64] = np.sqrt(np.square(values).sum(axis=(1, 2, 3)))
    return out
