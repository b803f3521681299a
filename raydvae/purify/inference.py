"""The three inference passes of Algorithm 1 on batches of images, and on the rows of a unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydvae.config import DVAEConfig, PurifyConfig, Quantize
from raydvae.data.codecs import Array
from raydvae.data.dataset import Rows, Unit
from raydvae.data.store import Store
from raydvae.models.dvae import DVAE, RateConstrainedVAE
from raydvae.seeds import derive
from raydvae.training.checkpoint import load_model
from raydvae.training.feed import to_float

Noise = Callable[[int], Tensor | None]
V = TypeVar("V", bound=RateConstrainedVAE)


@torch.no_grad()
def subtract(model: DVAE, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
    """Passes 1 and 2: return x - p_hat, clamped to [0, 1]."""
    return (x - model.estimate_perturbation(x, y, noise)).clamp_(0, 1)


@torch.no_grad()
def reconstruct(model: RateConstrainedVAE, x: Tensor, noise: Tensor | None) -> Tensor:
    """Pass 3: return x_hat, in [0, 1]."""
    return model.reconstruct(x, noise)


def to_uint8(x: Tensor, quantize: Quantize) -> Tensor:
    """Quantize [0, 1] to bytes. The official code truncates, which darkens by half a level on average."""
    scaled = x * 255
    return (scaled.round() if quantize == "round" else scaled).clamp(0, 255).to(torch.uint8)


def load_dvae(store: Store, architecture: DVAEConfig) -> DVAE:
    """Return a finished D-VAE, ready for inference."""
    return _ready(DVAE(architecture), store)


def load_vae(store: Store, architecture: DVAEConfig) -> RateConstrainedVAE:
    """Return a finished plain VAE, ready for inference."""
    return _ready(RateConstrainedVAE(architecture), store)


def _ready(model: V, store: Store) -> V:
    model.load_state_dict(load_model(store)[0])
    ready: V = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return ready


@dataclass(frozen=True, slots=True)
class Inference:
    """A model on a device, applied to the rows of a unit with noise that is seeded by run, pass and unit."""

    model: RateConstrainedVAE
    config: PurifyConfig
    device: torch.device

    @classmethod
    def load(cls, store: Store, architecture: DVAEConfig, config: PurifyConfig, device: torch.device) -> Inference:
        """Return the stage whose finished training lies in ``store``."""
        return cls(load_dvae(store, architecture).to(device), config, device)

    @torch.no_grad()
    def subtracted(self, rows: Rows) -> tuple[Array, npt.NDArray[np.float32]]:
        """Pass 1: return x1 (N, H, W, 3) uint8 and p_hat0 (N, H, W, 3), the perturbation that was taken off."""
        assert isinstance(self.model, DVAE)
        noise = self._noise(rows.unit, 1)
        out = np.empty_like(rows.images)
        estimates = np.empty(rows.images.shape, np.float32)
        for part, x, y in self._batches(rows):
            p_hat = self.model.estimate_perturbation(x, y, noise(len(x)))
            out[part] = _hwc(to_uint8((x - p_hat).clamp_(0, 1), self.config.quantize))
            estimates[part] = _hwc(p_hat)
        return out, estimates

    def purified(self, rows: Rows) -> tuple[Array | None, Array]:
        """Passes 2 and 3: return x2 if it is to be kept, and x3, both (N, H, W, 3) uint8; x2 goes on as float."""
        assert isinstance(self.model, DVAE)
        second, third = self._noise(rows.unit, 2), self._noise(rows.unit, 3)
        kept = np.empty_like(rows.images) if self.config.keep_intermediate else None
        out = np.empty_like(rows.images)
        for part, x, y in self._batches(rows):
            x2 = subtract(self.model, x, y, second(len(x)))
            out[part] = _hwc(to_uint8(reconstruct(self.model, x2, third(len(x))), self.config.quantize))
            if kept is not None:
                kept[part] = _hwc(to_uint8(x2, self.config.quantize))
        return kept, out

    @torch.no_grad()
    def disentangled(self, rows: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return x_hat0 and p_hat0, both (N, H, W, 3): what pass 1 takes for the image and for the perturbation."""
        assert isinstance(self.model, DVAE)
        noise = self._noise(rows.unit, 1)
        x_hat, p_hat = (np.empty(rows.images.shape, np.float32) for _ in range(2))
        for part, x, y in self._batches(rows):
            out = self.model(x, y, noise(len(x)))
            x_hat[part], p_hat[part] = _hwc(out.x_hat), _hwc(out.p_hat)
        return x_hat, p_hat

    def reconstructed(self, rows: Rows) -> Array:
        """Return x_hat (N, H, W, 3) uint8 of the rows as they came."""
        noise, out = self._noise(rows.unit, 1), np.empty_like(rows.images)
        for part, x, _ in self._batches(rows):
            out[part] = _hwc(to_uint8(reconstruct(self.model, x, noise(len(x))), self.config.quantize))
        return out

    def _batches(self, rows: Rows) -> list[tuple[slice, Tensor, Tensor]]:
        """Return the unit's images and labels in batches of fixed size, counted from the unit's first row."""
        step, count = self.config.pass_batch, len(rows.images)
        out = []
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            x = to_float(torch.from_numpy(rows.images[part]).permute(0, 3, 1, 2).to(self.device))
            out.append((part, x, torch.from_numpy(rows.labels[part]).to(self.device)))
        return out

    def _noise(self, unit: Unit, number: int) -> Noise:
        """Return a source of latent noise for pass ``number`` of a unit; it gives None where z is the mean."""
        generator = torch.Generator(self.device).manual_seed(derive(self.config.seed, "pass", number, unit.id))

        def draw(batch: int) -> Tensor | None:
            if not self.config.sample_z:
                return None
            return torch.randn(self.model.latent_shape(batch), generator=generator, device=self.device)

        return draw


def _hwc(x: Tensor) -> npt.NDArray[Any]:
    return np.asarray(x.permute(0, 2, 3, 1).cpu().numpy())
