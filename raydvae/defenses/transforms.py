"""Compressions and filters of single images: (N, H, W, 3) uint8 in and out, and no image depends on another.

Image shortcut squeezing (Liu et al., ICML 2023) is bit depth reduction, grayscale or JPEG; smoothing filters are what
it is compared with.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from raydvae.data.codecs import Array

GRAY_WEIGHTS = (19595, 38470, 7471)  # 0.299, 0.587 and 0.114 (ITU-R BT.601) times 2**16, as Pillow has them


def reduce_depth(images: Array, depth: int) -> Array:
    """Return ``images`` with the highest ``depth`` bits of each value: 2**depth levels from 0 on, none at 255.

    As the code of ISS does it. That of D-VAE cuts a value of 255 to a level of its own, after augmentation.
    """
    return images & np.uint8(256 - 2 ** (8 - depth))


def grayscale(images: Array) -> Array:
    """Return the luma of ``images`` in all three channels, rounded as Pillow and torchvision round it."""
    weights = np.array(GRAY_WEIGHTS, np.uint32)
    out = np.empty_like(images)
    for index, image in enumerate(
        images
    ):  # one at a time, here and below: a unit's numbers would be many times its size
        weighted = image.astype(np.uint32) @ weights
        out[index] = ((weighted + 2**15) >> 16)[..., None]
    return out


def jpeg(images: Array, quality: int) -> Array:
    """Return ``images`` as they come back from Pillow's JPEG with default chroma subsampling."""
    out = np.empty_like(images)
    for index, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        with Image.open(buffer) as decoded:
            out[index] = np.asarray(decoded)
    return out


def gaussian(images: Array, kernel: int, sigma: float) -> Array:
    """Return ``images`` smoothed by a Gaussian window of ``kernel`` pixels; borders are mirrored, as in torchvision."""
    reach = kernel // 2
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    weights /= weights.sum()
    out = np.empty_like(images)
    for index, image in enumerate(images):
        values = image.astype(np.float64)
        for axis in (0, 1):
            padding = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
            padded = np.pad(values, padding, mode="reflect")
            shifted = (np.take(padded, range(k, k + image.shape[axis]), axis) for k in range(kernel))
            values = np.sum([w * part for w, part in zip(weights, shifted, strict=True)], axis=0)
        out[index] = np.clip(np.rint(values), 0, 255)
    return out


def median(images: Array, kernel: int) -> Array:
    """Return each channel's median over a window of ``kernel`` pixels; border pixels are repeated outwards."""
    out = np.empty_like(images)
    for index, image in enumerate(images):
        out[index] = np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(kernel)))
    return out
