"""The two kinds of model that the loop trains, as tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import ClassifyConfig, Crop, DVAEConfig, RateLossConfig
from raydvae.models.classifiers import build_classifier, seed_dropout
from raydvae.models.dvae import DVAE, RateConstrainedVAE
from raydvae.models.losses import Parts, measure, total


@dataclass(frozen=True, slots=True)
class VAETask:
    """Train a D-VAE (Eq. 14), or with ``disentangle`` off the plain rate-constrained VAE (Eq. 3)."""

    kind: ClassVar[str] = "vae"

    model: DVAEConfig
    loss: RateLossConfig
    disentangle: bool = True

    def build(self) -> RateConstrainedVAE:
        """Return a new model."""
        return DVAE(self.model) if self.disentangle else RateConstrainedVAE(self.model)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward with sampled latents."""
        shape = (len(x), self.model.latents, self.model.grid, self.model.grid)
        noise = torch.randn(shape, generator=generator, device=x.device)
        return measure(x, model(x, y, noise))

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the loss of Eq. 3 or Eq. 14."""
        return total(parts, means, self.loss, epoch)


@dataclass(frozen=True, slots=True)
class ClassifierTask:
    """Train a classifier with cross-entropy on random crops and horizontal flips."""

    kind: ClassVar[str] = "classifier"

    name: str
    num_classes: int
    crop_padding: int = 4
    flip: bool = True
    crop: Crop = "padded"
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, config: ClassifyConfig, num_classes: int) -> ClassifierTask:
        """Return the task that ``config`` describes."""
        return cls(**common(config, num_classes))

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
        if self.crop == "resized":
            x = random_resized_crop(x, generator)
        elif self.crop_padding:
            x = random_crop(x, self.crop_padding, generator)
        return random_flip(x, generator) if self.flip else x

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward on the slice's `examples`; where an image has two labels, the accuracy counts their weights."""
        seed_dropout(model, generator)
        x, target = self.examples(model, x, y, generator)
        logits = model(x)
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        guess = logits.detach().argmax(dim=1)
        right = guess == target if target.ndim == 1 else target.gather(1, guess[:, None])
        return {"cross_entropy": loss, "accuracy": right.float().mean()}

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the cross-entropy."""
        return parts["cross_entropy"]


def common(config: ClassifyConfig, num_classes: int) -> dict[str, Any]:
    """Return the fields of `ClassifierTask` as ``config`` has them."""
    return {
        "name": config.model,
        "num_classes": num_classes,
        "crop_padding": config.crop_padding,
        "flip": config.flip,
        "crop": config.crop,
        "label_smoothing": config.label_smoothing,
    }


def random_crop(x: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image of (B, C, H, W) by up to ``padding`` pixels each way; what comes in is black."""
    batch, _, height, width = x.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = shifts[0] + torch.arange(height, device=x.device)
    columns = shifts[1] + torch.arange(width, device=x.device)
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    images = torch.arange(batch, device=x.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def view_side(side: int) -> int:
    """Return the side of what is seen of an image: 224 pixels of 256."""
    return side * 7 // 8


def random_resized_crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a random part out of each image of (B, C, H, W) and stretch it to 7/8 of H and W, bilinearly.

    As torchvision's RandomResizedCrop: 8 to 100 % of the area, sides in proportions of 3:4 to 4:3, the first of ten
    draws that fits, or all of the image. Parts do not begin at whole pixels, and are not blurred where they shrink.
    """
    area, ratio = torch.rand(2, 10, len(x), generator=generator, device=x.device)
    area, ratio = 0.08 + 0.92 * area, (4 / 3) ** (2 * ratio - 1)
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])  # width and height in shares of the image's
    fits = (sides <= 1).all(dim=0)
    chosen = fits.float().argmax(dim=0)
    sides = sides.gather(1, chosen.expand(2, 1, -1))[:, 0].where(fits.any(dim=0), torch.ones((), device=x.device))
    middle = (2 * torch.rand(2, len(x), generator=generator, device=x.device) - 1) * (1 - sides)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = sides
    theta[:, :, 2] = middle.T
    shape = (*x.shape[:2], view_side(x.shape[2]), view_side(x.shape[3]))
    grid = F.affine_grid(theta, list(shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def center_crop(x: Tensor) -> Tensor:
    """Return the middle of each image of (B, C, H, W), 7/8 of its sides."""
    height, width = view_side(x.shape[2]), view_side(x.shape[3])
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (B, C, H, W) left to right with probability one half."""
    flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(3), x)
