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
from raydvae.data.rows import Rows
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import each
from raydvae.models.dvae import DVAE, RateConstrainedVAE
from raydvae.models.folding import fold
from raydvae.seeds import derive
from raydvae.training.checkpoint import load_model
from raydvae.training.feed import to_float

Noise = Callable[[int], Tensor | None]
V = TypeVar("V", bound=RateConstrainedVAE)
CPU_PIXELS = 2**13  # that a CPU thread computes at a time: activations of more do not stay in caches


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
    return _ready(DVAE(architecture), load_model(store)[0])


def load_vae(store: Store, architecture: DVAEConfig) -> RateConstrainedVAE:
    """Return a finished plain VAE, ready for inference."""
    return _ready(RateConstrainedVAE(architecture), load_model(store)[0])


def _ready(model: V, tensors: dict[str, Tensor]) -> V:
    model.load_state_dict(tensors)
    ready: V = fold(model.eval().requires_grad_(False)).to(memory_format=torch.channels_last)
    return ready


@dataclass(frozen=True, slots=True)
class Inference:
    """A model on a device, applied to the rows of a unit with noise that is seeded by run, pass and unit.

    ``weights`` is the checksum of the weights, where they were read from a file.
    """

    model: RateConstrainedVAE
    config: PurifyConfig
    device: torch.device
    weights: str = ""

    @classmethod
    def load(cls, store: Store, architecture: DVAEConfig, config: PurifyConfig, device: torch.device) -> Inference:
        """Return the stage whose finished training lies in ``store``."""
        tensors, weights = load_model(store)
        return cls(_ready(DVAE(architecture), tensors).to(device), config, device, weights)

    def subtracted(self, rows: Rows) -> tuple[Array, npt.NDArray[np.float32]]:
        """Pass 1: return x1 (N, H, W, 3) uint8 and p_hat0 (N, H, W, 3), the perturbation that was taken off."""
        model = self.model
        assert isinstance(model, DVAE)

        def one(x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            p_hat = model.estimate_perturbation(x, y, noise(1))
            return to_uint8((x - p_hat).clamp_(0, 1), self.config.quantize), p_hat

        x1, p_hat = self._in_batches(rows, one, (torch.uint8, torch.float32))
        return x1, p_hat

    def purified(self, rows: Rows) -> tuple[Array | None, Array]:
        """Passes 2 and 3: return x2 if it is to be kept, and x3, both (N, H, W, 3) uint8; x2 goes on as float."""
        model, keep = self.model, self.config.keep_intermediate
        assert isinstance(model, DVAE)

        def one(x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            x2 = subtract(model, x, y, noise(2))
            x3 = to_uint8(reconstruct(model, x2, noise(3)), self.config.quantize)
            return (x3, to_uint8(x2, self.config.quantize)) if keep else (x3,)

        x3, *x2 = self._in_batches(rows, one, (torch.uint8, torch.uint8) if keep else (torch.uint8,))
        return x2[0] if keep else None, x3

    def disentangled(self, rows: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return x_hat0 and p_hat0, both (N, H, W, 3): what pass 1 takes for the image and for the perturbation."""
        model = self.model
        assert isinstance(model, DVAE)

        def one(x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            out = model(x, y, noise(1))
            return out.x_hat, out.p_hat

        x_hat, p_hat = self._in_batches(rows, one, (torch.float32, torch.float32))
        return x_hat, p_hat

    def reconstructed(self, rows: Rows) -> Array:
        """Return x_hat (N, H, W, 3) uint8 of the rows as they came."""

        def one(x: Tensor, _: Tensor, noise: Noise) -> tuple[Tensor, ...]:
            return (to_uint8(reconstruct(self.model, x, noise(1)), self.config.quantize),)

        return self._in_batches(rows, one, (torch.uint8,))[0]

    def _in_batches(
        self, rows: Rows, work: Callable[[Tensor, Tensor, Noise], tuple[Tensor, ...]], kinds: tuple[torch.dtype, ...]
    ) -> list[npt.NDArray[Any]]:
        """Return what ``work`` makes of the unit's images, in batches of fixed size counted from the unit's first row.

        A batch is ``pass_batch`` images, on a CPU fewer if they have more than `CPU_PIXELS`. It has noise of its own,
        so that any thread can compute it. On a GPU nothing waits for the device before the last batch is on its way.
        """
        gpu, step = self.device.type == "cuda", self.config.pass_batch
        if not gpu:
            step = min(step, max(1, CPU_PIXELS // self.config.image_size**2))
        images = _pinned(rows.images, gpu).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        labels = _pinned(rows.labels, gpu).to(self.device, non_blocking=True)
        out = [torch.empty(rows.images.shape, dtype=kind, pin_memory=gpu) for kind in kinds]

        @torch.inference_mode()
        def one(start: int) -> None:
            part = slice(start, start + step)
            made = work(to_float(images[part]), labels[part], self._noise(rows.unit, start, len(images[part])))
            for target, values in zip(out, made, strict=True):
                target[part].copy_(values.permute(0, 2, 3, 1), non_blocking=True)

        each(one, range(0, len(images), step))
        if gpu:
            torch.cuda.synchronize(self.device)
        return [tensor.numpy() for tensor in out]

    def _noise(self, unit: Unit, start: int, batch: int) -> Noise:
        """Return the latent noise by pass of the batch that begins at ``start``; it is None where z is the mean."""

        def draw(number: int) -> Tensor | None:
            if not self.config.sample_z:
                return None
            seed = derive(self.config.seed, "pass", number, unit.id, start)
            generator = torch.Generator(self.device).manual_seed(seed)
            return torch.randn(self.model.latent_shape(batch), generator=generator, device=self.device)

        return draw


def _pinned(values: npt.NDArray[Any], gpu: bool) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if gpu else tensor
