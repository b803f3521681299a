"""Image bytes to arrays and back. Bytes come from strangers: formats, sizes and pixels are bounded before decoding."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from raydvae.config import DataConfig

Array = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP")


class BadImage(Exception):
    """An image that cannot be used; the message is the reason kept beside the rejected row."""


def decode(data: bytes, limits: DataConfig) -> Array:
    """Return the RGB image (H, W, 3) in ``data``, or raise `BadImage`.

    Grey is repeated over the channels, palettes and CMYK are converted, alpha is dropped, 16-bit values are scaled to
    8 bits; the orientation tag is not applied, as in torchvision's loaders.
    """
    if len(data) > limits.max_image_bytes:
        raise BadImage(f"{len(data)} bytes, more than the limit of {limits.max_image_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; ours is a hard limit
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > limits.max_image_pixels:
                    raise BadImage(f"{width}x{height} pixels, more than the limit of {limits.max_image_pixels}")
                image.load()
                return _to_rgb(image)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above any image of a data set
        raise BadImage(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        raise BadImage(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None
    except Exception as error:  # decoders fail in many ways on damaged bytes; each is a reason, none ends the run
        raise BadImage(f"cannot be decoded: {error or type(error).__name__}") from None


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height as the header tells them, without decoding; None where it is no image of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Exception:  # as in decode
        return None


def _to_rgb(image: Image.Image) -> Array:
    if image.mode.startswith("I"):  # 16-bit grey (8-bit conversion by Pillow would clip instead of scaling)
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def encode(image: Array) -> bytes:
    """Return (H, W, 3) as PNG: lossless, and the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def fit(image: Array, size: int, limits: DataConfig) -> Array:
    """Return ``image`` at ``size`` x ``size``, resized if the policy allows it; otherwise raise `BadImage`."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if limits.size_policy == "reject":
        raise BadImage(f"{width}x{height} pixels where {size}x{size} are expected")
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
