"""Image bytes to arrays and back. Bytes come from strangers: size, pixels and work are bounded before decoding."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from raydvae.config import DataConfig
from raydvae.data.formats import (
    READ,
    essential_png,
    format_of,
    is_packed_bmp,
    jpeg_scans,
    jpeg_segments,
    name_of,
    webp_size,
)

Array = npt.NDArray[np.uint8]
MAX_SCANS = 100  # of a JPEG; encoders write up to some twenty
SCAN_WORK = 16  # scans that an image of max_image_pixels may have; smaller ones may have more
MAX_CHUNKS = 100_000  # of a PNG; and segments of a JPEG
MAX_PACKED_BMP = 8 * 2**20  # bytes of one that is stored as runs
FREE_PIXELS = 4 * 10**6  # above, an image has at least a byte for so many pixels: blank photographs do, bombs do not
PIXELS_PER_BYTE = 50_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow finds it
SIDEWAYS = [_TURNS[number] for number in (5, 6, 7, 8)]


class BadImage(Exception):
    """An image that cannot be used; the message is the reason kept beside the rejected row."""


def decode(data: bytes, limits: DataConfig, size: int = 0) -> Array:
    """Return the RGB image (H, W, 3) in ``data``, or raise `BadImage`.

    Gray is repeated over the channels, palettes and CMYK are converted, alpha is dropped, 16-bit values are scaled to
    8 bits; of an animation or a file of several images the first is taken. The orientation that a camera leaves in
    EXIF is applied, as `datasets` and browsers do: the array is what a viewer shows, and its PNG needs no tag.

    The header is read first, and everything that it announces is checked before a pixel is decoded: format, bytes,
    pixels, and work, which is counted and not timed, so that the answer is the same on every machine: a progressive
    JPEG is decoded once a scan, so its scans are counted and bounded by its pixels; an image of millions of pixels
    has some bytes. With ``size`` an image that is not ``size`` x ``size`` is refused there as well, where the policy
    is to reject it.
    """
    with _reasons(data), _opened(data, limits) as image:
        width, height = _upright(image)
        if size and limits.size_policy == "reject" and (width, height) != (size, size):
            raise BadImage(other_size(width, height, size))
        image.load()
        turn = _turn(image)  # after loading: Pillow turns a TIFF itself, and no other
        return _to_rgb(image if turn is None else image.transpose(turn))


def header(data: bytes, limits: DataConfig) -> tuple[int, int]:
    """Return width and height, upright, without decoding; `BadImage` where `decode` would not get as far."""
    with _reasons(data), _opened(data, limits) as image:
        return _upright(image)


@contextlib.contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Make a reason of whatever goes wrong with ``data``."""
    try:
        yield
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above any image of a data set
        raise BadImage(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        kind = READ[format_of(data) or "JPEG"]
        raise BadImage(f"cannot be decoded: damaged, or of a kind of {kind} that is not read") from None
    except Exception as error:  # decoders fail in many ways on damaged bytes; each is a reason, none ends the run
        raise BadImage(f"cannot be decoded: {error or type(error).__name__}") from None


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height as the header tells them, upright, without decoding; None where it is no image of ours.

    Sizes beyond the limits are told, too.
    """
    try:
        announced = webp_size(data) if format_of(data) == "WEBP" else None
        if announced and announced[0] * announced[1] > FREE_PIXELS:  # opening it would allocate as much
            return announced
        with _opened(data, None) as image:
            return _upright(image)
    except Exception:  # as in `_reasons`
        return None


@contextlib.contextmanager
def _opened(data: bytes, limits: DataConfig | None) -> Iterator[Image.Image]:
    """Open an image with Pillow, once what it announces is within the limits."""
    if limits and len(data) > limits.max_image_bytes:
        raise BadImage(f"{len(data)} bytes, more than the limit of {limits.max_image_bytes}")
    kind = format_of(data)
    if kind is None:
        names = list(READ.values())
        raise BadImage(f"{name_of(data)}, not a {', '.join(names[:-1])} or {names[-1]} image")
    if kind == "PNG":
        essential = essential_png(data, MAX_CHUNKS)
        if essential is None:
            raise BadImage(f"a PNG of more than {MAX_CHUNKS} chunks")
        data = essential
    if kind == "JPEG" and len(data) > MAX_CHUNKS and jpeg_segments(data, MAX_CHUNKS) > MAX_CHUNKS:
        raise BadImage(f"a JPEG of more than {MAX_CHUNKS} segments or stray bytes before its pixels")
    if kind == "BMP" and len(data) > MAX_PACKED_BMP and is_packed_bmp(data):
        raise BadImage(f"a BMP in runs of more than {MAX_PACKED_BMP} bytes")
    announced = webp_size(data) if kind == "WEBP" else None
    if limits and announced:  # Pillow allocates for a WebP on opening it
        _check(*announced, kind, data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images; ours is a hard limit
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if limits:
                _check(*image.size, kind, data, limits)
                if kind == "TIFF":
                    _check_tiles(image, limits)
            yield image


def _check(width: int, height: int, kind: str, data: bytes, limits: DataConfig) -> None:
    pixels = width * height
    if pixels > limits.max_image_pixels:
        raise BadImage(f"{width}x{height} pixels, more than the limit of {limits.max_image_pixels}")
    if pixels > FREE_PIXELS and pixels > PIXELS_PER_BYTE * len(data):
        raise BadImage(f"{width}x{height} pixels announced by {len(data)} bytes; that is no photograph")
    if kind == "JPEG":
        most = min(MAX_SCANS, SCAN_WORK * limits.max_image_pixels // max(1, pixels))
        if jpeg_scans(data, most) > most:
            raise BadImage(f"a JPEG of more than {most} scans, each of which would be decoded")


def _check_tiles(image: Image.Image, limits: DataConfig) -> None:
    """Refuse a TIFF whose tiles, which are decoded whole, are much larger than its image."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    width, height = (tags.get(tag, 0) for tag in (322, 323))
    if width * height > limits.max_image_pixels or tags.get(277, 1) > 16:
        raise BadImage(f"a TIFF in tiles of {width}x{height}, more than the limit of {limits.max_image_pixels} pixels")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn an image upright, as its EXIF tells; damaged EXIF tells nothing."""
    if image.format != "TIFF" and not EXIF & image.info.keys():  # a third of the time that a tiny PNG takes
        return None
    try:
        return _TURNS.get(image.getexif().get(0x0112))  # type: ignore[arg-type]
    except Exception:
        return None


def _upright(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an image that is not loaded yet, as they are once it is turned upright."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow tell the turned size already
        width, height = (image.tag_v2[tag] for tag in (256, 257))  # type: ignore[attr-defined]
    return (height, width) if _turn(image) in SIDEWAYS else (width, height)


def _to_rgb(image: Image.Image) -> Array:
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise BadImage(f"pixels of 32 bits ({image.format}, mode {image.mode}), whose range is not known; store 8 bits")
    if image.mode.startswith("I"):  # 16-bit gray (8-bit conversion by Pillow would clip instead of scaling)
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        gray = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def encode(image: Array) -> bytes:
    """Return (H, W, 3) as PNG: lossless, and the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def other_size(width: int, height: int, size: int) -> str:
    """Return the reason for an image that is not of the size that is expected."""
    return f"{width}x{height} pixels where {size}x{size} are expected"


def fit(image: Array, size: int, limits: DataConfig) -> Array:
    """Return ``image`` at ``size`` x ``size``, resized if the policy allows it; otherwise raise `BadImage`."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if limits.size_policy == "reject":
        raise BadImage(other_size(width, height, size))
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
