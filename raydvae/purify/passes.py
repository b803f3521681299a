"""The three inference passes of Algorithm 1: on batches of images, and as work on units of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydvae.config import DVAEConfig, PurifyConfig, Quantize
from raydvae.data.codecs import Array
from raydvae.data.dataset import Classes, Dataset, Rows, Unit, decode_rows
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.models.dvae import DVAE
from raydvae.seeds import derive
from raydvae.training.checkpoint import load_model

PSNR_EDGES = [float(edge) for edge in range(10, 51)]
Noise = Callable[[int], Tensor | None]


@torch.no_grad()
def subtract(model: DVAE, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
    """Passes 1 and 2: return x - p_hat, clamped to [0, 1]."""
    return (x - model.estimate_perturbation(x, y, noise)).clamp_(0, 1)


@torch.no_grad()
def reconstruct(model: DVAE, x: Tensor, noise: Tensor | None) -> Tensor:
    """Pass 3: return x_hat, in [0, 1]."""
    return model.reconstruct(x, noise)


def to_uint8(x: Tensor, quantize: Quantize) -> Tensor:
    """Quantize [0, 1] to bytes. The official code truncates, which darkens by half a level on average."""
    scaled = x * 255
    return (scaled.round() if quantize == "round" else scaled).clamp(0, 255).to(torch.uint8)


@dataclass(slots=True)
class Pass:
    """What the units of both passes share. ``store`` holds the stage's finished training."""

    name: str
    run: Run
    data: Dataset
    classes: Classes
    config: PurifyConfig
    architecture: DVAEConfig
    store: Store
    model: DVAE | None = field(default=None, repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("model", "device")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in (state | {"model": None, "device": torch.device("cpu")}).items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.config.image_size)

    def load(self, device: torch.device) -> None:
        """Load the stage's D-VAE."""
        self.model = load_dvae(self.store, self.architecture).to(device)
        self.device = device

    def batches(self, rows: Rows) -> list[tuple[slice, Tensor, Tensor]]:
        """Return the unit's images and labels in batches of fixed size, counted from the unit's first row."""
        step, count = self.config.pass_batch, len(rows.images)
        out = []
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            x = torch.from_numpy(rows.images[part].transpose(0, 3, 1, 2).astype(np.float32)).to(self.device)
            x = x.div_(255).contiguous(memory_format=torch.channels_last)
            out.append((part, x, torch.from_numpy(rows.labels[part]).to(self.device)))
        return out

    def noise(self, unit: Unit, number: int) -> Noise:
        """Return a source of latent noise for pass ``number`` of a unit; it gives None where z is the mean."""
        generator = torch.Generator(self.device).manual_seed(derive(self.config.seed, "pass", number, unit.id))
        assert self.model is not None
        model = self.model

        def draw(batch: int) -> Tensor | None:
            if not self.config.sample_z:
                return None
            return torch.randn(model.latent_shape(batch), generator=generator, device=self.device)

        return draw


class SubtractPass(Pass):
    """Pass 1: x1 = x0 - p_hat0, with the D-VAE of stage 1."""

    def compute(self, rows: Rows) -> tuple[Array, dict[str, Any]]:
        """Return x1 (N, H, W, 3) uint8 and the sums of ||p_hat||_2 a class."""
        assert self.model is not None
        x1, p_hat = self.estimate(rows)
        norms = np.sqrt(np.square(p_hat.astype(np.float64)).sum(axis=(1, 2, 3)))
        return x1, {"p_norms": _per_class(norms, rows.labels)}

    @torch.no_grad()
    def estimate(self, rows: Rows) -> tuple[Array, npt.NDArray[np.float32]]:
        """Return x1 (N, H, W, 3) uint8 and p_hat0 (N, H, W, 3), the perturbation that was taken off."""
        assert self.model is not None
        noise = self.noise(rows.unit, 1)
        out = np.empty_like(rows.images)
        estimates = np.empty(rows.images.shape, np.float32)
        for part, x, y in self.batches(rows):
            p_hat = self.model.estimate_perturbation(x, y, noise(len(x)))
            out[part] = _hwc(to_uint8((x - p_hat).clamp_(0, 1), self.config.quantize))
            estimates[part] = _hwc(p_hat)
        return out, estimates

    def commit(self, rows: Rows, result: tuple[Array, dict[str, Any]]) -> dict[str, Any]:
        """Publish the unit's part of P1."""
        return self.run.commit(self.name, self.data, rows, result[0], folder="_raydvae/work/p1", notes=result[1])


class ReconstructPass(Pass):
    """Passes 2 and 3 in one: x2 = x1 - p_hat1 kept in float, then x3 = x_hat(x2), with the D-VAE of stage 2."""

    def compute(self, rows: Rows) -> tuple[Array | None, Array, dict[str, Any]]:
        """Return x2 (if it is to be kept), x3 (N, H, W, 3) uint8, and a histogram of PSNR(x1, x3)."""
        assert self.model is not None
        second, third = self.noise(rows.unit, 2), self.noise(rows.unit, 3)
        kept = np.empty_like(rows.images) if self.config.keep_intermediate else None
        out = np.empty_like(rows.images)
        for part, x, y in self.batches(rows):
            x2 = subtract(self.model, x, y, second(len(x)))
            out[part] = _hwc(to_uint8(reconstruct(self.model, x2, third(len(x))), self.config.quantize))
            if kept is not None:
                kept[part] = _hwc(to_uint8(x2, self.config.quantize))
        difference = (rows.images.astype(np.float64) - out) / 255
        mse = np.square(difference).mean(axis=(1, 2, 3))
        psnr = -10 * np.log10(np.maximum(mse, 1e-10))
        counts = np.histogram(psnr.clip(PSNR_EDGES[0], PSNR_EDGES[-1]), PSNR_EDGES)[0]
        return kept, out, {"psnr_counts": counts.tolist(), "psnr_sum": float(psnr.sum())}

    def commit(self, rows: Rows, result: tuple[Array | None, Array, dict[str, Any]]) -> dict[str, Any]:
        """Publish the unit's part of P3, and of P2 if asked for."""
        x2, x3, notes = result
        if x2 is not None:
            self.run.publish(self.data, rows, x2, "_raydvae/work/p2")
        return self.run.commit(self.name, self.data, rows, x3, notes=notes)


def load_dvae(store: Store, architecture: DVAEConfig) -> DVAE:
    """Return a finished D-VAE, ready for inference."""
    model = DVAE(architecture)
    model.load_state_dict(load_model(store)[0])
    ready: DVAE = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return ready


def _hwc(x: Tensor) -> npt.NDArray[Any]:
    return np.asarray(x.permute(0, 2, 3, 1).cpu().numpy())


def _per_class(values: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, list[float]]:
    """Return count, sum and sum of squares for each class, which add up over units."""
    out = {}
    for label in np.unique(labels):
        mine = values[labels == label]
        out[str(label)] = [float(len(mine)), float(mine.sum()), float(np.square(mine).sum())]
    return out
