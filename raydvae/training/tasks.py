"""The two kinds of model that the loop trains, as tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import DVAEConfig, RateLossConfig
from raydvae.models.classifiers import build_classifier
from raydvae.models.dvae import DVAE, RateConstrainedVAE
from raydvae.models.losses import Parts, measure, total


@dataclass(frozen=True, slots=True)
class VAETask:
    """Train a D-VAE (Eq. 14), or with ``disentangle`` off the plain rate-constrained VAE (Eq. 3)."""

    model: DVAEConfig
    loss: RateLossConfig
    disentangle: bool = True

    def build(self) -> RateConstrainedVAE:
        """Return a new model."""
        return DVAE(self.model) if self.disentangle else RateConstrainedVAE(self.model)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Parts:
        """Run forward with sampled latents."""
        shape = (len(x), self.model.latents, self.model.grid, self.model.grid)
        noise = torch.randn(shape, generator=generator, device=x.device)
        return measure(x, model(x, y, noise))

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the loss of Eq. 3 or Eq. 14."""
        return total(parts, means, self.loss, epoch)


@dataclass(frozen=True, slots=True)
class ClassifierTask:
    """Train a classifier with cross-entropy on padded random crops and horizontal flips."""

    name: str
    num_classes: int
    crop_padding: int = 4
    flip: bool = True

    def build(self) -> nn.Module:
        """Return a new model."""
        return build_classifier(self.name, self.num_classes)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return what ``model`` learns from in place of images ``x`` (B, 3, H, W): random views, and their targets.

        Targets are classes (B,) or weights of the classes (B, C). Training recipes override this.
        """
        return self.views(x, generator), y

    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random crop and flip of each image."""
        x = random_crop(x, self.crop_padding, generator) if self.crop_padding else x
        return random_flip(x, generator) if self.flip else x

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Parts:
        """Run forward on the slice's `examples`; where an image has two labels, the accuracy counts their weights."""
        x, target = self.examples(model, x, y, generator)
        logits = model(x)
        guess = logits.detach().argmax(dim=1)
        right = guess == target if target.ndim == 1 else target.gather(1, guess[:, None])
        return {"cross_entropy": F.cross_entropy(logits, target), "accuracy": right.float().mean()}

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the cross-entropy."""
        return parts["cross_entropy"]


def random_crop(x: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image of (B, C, H, W) by up to ``padding`` pixels each way; what comes in is black."""
    batch, _, height, width = x.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = shifts[0] + torch.arange(height, device=x.device)
    columns = shifts[1] + torch.arange(width, device=x.device)
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    images = torch.arange(batch, device=x.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (B, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(3), x)
