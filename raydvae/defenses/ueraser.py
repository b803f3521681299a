"""The random views of UEraser (Qin et al., 2023), which the paper calls adversarial augmentations (AA).

Plasma brightness, plasma contrast, shuffled channels, and one operation of TrivialAugment, by kornia, which is needed
for this defense only. kornia's own augmentations draw from the process's global generator, which threads share; here
every parameter comes from the given generator, and kornia computes.

Images are (B, 3, H, W) in [0, 1], before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from raydvae.errors import ConfigError

PROBABILITY = 0.5  # of each of the first three, an image
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)
# kornia's policy of TrivialAugment: one operation for all images, with a magnitude for each. Degrees for rotations and
# shears, bits for posterize, shares of the side for translations.
OPERATIONS: dict[str, tuple[float, float]] = {
    "auto_contrast": (0, 0),
    "equalize": (0, 0),
    "rotate": (-30, 30),
    "posterize": (0, 4),
    "solarize": (0, 1),
    "contrast": (0.1, 1.9),
    "brightness": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
    "shear_x": (-54, 54),
    "shear_y": (-54, 54),
    "translate_x": (-0.5, 0.5),
    "translate_y": (-0.5, 0.5),
}


def check_installed() -> None:
    """Raise `ConfigError` where kornia is missing."""
    if find_spec("kornia") is None:
        raise ConfigError("The defense 'ueraser' needs kornia, which is not installed: pip install 'raydvae[ueraser]'")


@torch.no_grad()
def erased(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random view of each image."""
    for change in (plasma_brightness, plasma_contrast, shuffled_channels):
        chosen = torch.rand(len(x), generator=generator, device=x.device) < PROBABILITY
        x = torch.where(chosen[:, None, None, None], change(x, generator), x)
    return trivially_augmented(x, generator)


def plasma(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return fractal maps of the shape of ``x``, in [0, 1], as rough as drawn for each image."""
    from kornia.contrib import diamond_square

    roughness = _uniform(*ROUGHNESS, x, generator)
    batch, channels, height, width = x.shape
    random = partial(torch.rand, generator=generator)
    maps: Tensor = diamond_square(
        (batch, channels, height, width), roughness, random_fn=random, device=x.device, dtype=x.dtype
    )
    return maps


def plasma_brightness(x: Tensor, generator: torch.Generator) -> Tensor:
    """Lighten and darken parts of each image."""
    intensity = _uniform(*INTENSITY, x, generator)[:, None, None, None]
    return (x + (2 * plasma(x, generator) - 1) * intensity).clamp(0, 1)


def plasma_contrast(x: Tensor, generator: torch.Generator) -> Tensor:
    """Raise and lower the contrast of parts of each image."""
    return ((x - 0.5) * 4 * plasma(x, generator) + 0.5).clamp(0, 1)


def shuffled_channels(x: Tensor, generator: torch.Generator) -> Tensor:
    """Put the channels of each image into an order of its own."""
    order = torch.rand(x.shape[:2], generator=generator, device=x.device).argsort(dim=1)
    return x.gather(1, order[:, :, None, None].expand_as(x))


def trivially_augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one operation to all images, each with a magnitude of its own."""
    name = list(OPERATIONS)[int(torch.randint(len(OPERATIONS), (), generator=generator, device=x.device))]
    return augmented(x, name, _uniform(*OPERATIONS[name], x, generator))


def augmented(x: Tensor, name: str, magnitude: Tensor) -> Tensor:
    """Apply an operation of TrivialAugment with a magnitude (B,) in the units of `OPERATIONS`."""
    from kornia import enhance
    from kornia.geometry import transform

    height, width = x.shape[2:]
    zero = torch.zeros_like(magnitude)

    def shear(across: Tensor, down: Tensor) -> Tensor:
        center = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], device=x.device).expand(len(x), -1)
        matrix = transform.get_shear_matrix2d(center, across.deg2rad(), down.deg2rad())
        out: Tensor = transform.warp_affine(x, matrix[:, :2], (height, width), align_corners=True)
        return out

    def translate(across: Tensor, down: Tensor) -> Tensor:
        shifts = torch.stack([across * width, down * height], dim=1)
        out: Tensor = transform.translate(x, shifts, align_corners=True)
        return out

    operations: dict[str, Callable[[], Tensor]] = {
        "auto_contrast": lambda: enhance.normalize_min_max(x),
        "equalize": lambda: enhance.equalize(x),
        "rotate": lambda: transform.rotate(x, magnitude, align_corners=True),
        "posterize": lambda: enhance.posterize(x, magnitude.long()),
        "solarize": lambda: enhance.solarize(x, magnitude),
        "contrast": lambda: enhance.adjust_contrast(x, magnitude),
        "brightness": lambda: enhance.adjust_brightness(x, magnitude - 1),
        "sharpness": lambda: enhance.sharpness(x, magnitude),
        "shear_x": lambda: shear(magnitude, zero),
        "shear_y": lambda: shear(zero, magnitude),
        "translate_x": lambda: translate(magnitude, zero),
        "translate_y": lambda: translate(zero, magnitude),
    }
    return operations[name]().clamp(0, 1)


def _uniform(low: float, high: float, x: Tensor, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(x), generator=generator, device=x.device)
