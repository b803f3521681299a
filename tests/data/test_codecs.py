"""Images: exact pixels for every kind that is read, and a reason for everything else."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from raydvae.data.codecs import BadImage, decode, encode, fit, size_of
from tests.data.helpers import as_bytes, plain, random_images

LIMITS = plain()
IMAGE = random_images(1, 9)[0][:, :7]


def png_header(width: int, height: int) -> bytes:
    """A PNG of some bytes that claims a size; no pixels follow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_png_is_exact_and_repeatable() -> None:
    assert np.array_equal(decode(encode(IMAGE), LIMITS), IMAGE)
    assert encode(IMAGE) == encode(IMAGE.copy())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(IMAGE)))), IMAGE)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_lossless_formats_keep_the_pixels(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(decode(as_bytes(IMAGE, kind, **options), LIMITS), IMAGE)


def test_jpeg_is_what_pillow_decodes() -> None:
    data = as_bytes(IMAGE, "JPEG", quality=90)
    assert np.array_equal(decode(data, LIMITS), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_is_repeated() -> None:
    grey = IMAGE[..., 0]
    assert np.array_equal(decode(as_bytes(grey), LIMITS), np.stack([grey] * 3, axis=2))


def test_one_bit_images_are_black_and_white() -> None:
    bits = IMAGE[..., 0] > 127
    got = decode(as_bytes(Image.fromarray(bits)), LIMITS)
    assert np.array_equal(got[..., 0], bits.astype(np.uint8) * 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 256, 32768], [65535, 65407, 40000, 1000]], dtype=np.uint16)
    expected = np.rint(values.astype(np.float64) / 65535 * 255).astype(np.uint8)
    got = decode(as_bytes(values), LIMITS)
    assert np.array_equal(got, np.stack([expected] * 3, axis=2))
    assert got[..., 0].tolist()[0] == [0, 0, 1, 128]


@pytest.mark.parametrize("mode", ["P", "PA", "RGBA", "LA"])
def test_palettes_are_looked_up_and_alpha_is_dropped(mode: str) -> None:
    opaque = Image.fromarray(np.tile(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), (4, 4, 1)))
    if mode in ("P", "PA"):
        image = opaque.convert("P", palette=Image.Palette.ADAPTIVE)
        data = as_bytes(image, transparency=0) if mode == "PA" else as_bytes(image)
        expected = np.asarray(opaque)
    else:
        image = opaque.convert(mode)
        image.putalpha(0)
        data = as_bytes(image)
        expected = np.asarray(opaque.convert("L").convert("RGB") if mode == "LA" else opaque)
    assert np.array_equal(decode(data, LIMITS), expected)


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    got = decode(as_bytes(red, "JPEG", quality=95), LIMITS)
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize("side", [60_000, 9_000])  # above Pillow's own limit, and between ours and Pillow's
def test_the_pixel_limit_holds_without_decoding(side: int) -> None:
    tracemalloc.start()
    with pytest.raises(BadImage, match="pixels"):
        decode(png_header(side, side), LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just a text\n", "not a JPEG, PNG or WEBP image"),
        (b"", "not a JPEG"),
        (as_bytes(random_images(1, 64)[0], "JPEG")[:-900], "cannot be decoded"),
        (as_bytes(random_images(1, 64)[0], "PNG")[:-900], "cannot be decoded"),
        (as_bytes(IMAGE, "BMP"), "not a JPEG"),
        (as_bytes(IMAGE, "TIFF"), "not a JPEG"),
    ],
    ids=["text", "empty", "cut JPEG", "cut PNG", "BMP", "TIFF"],
)
def test_everything_else_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data, LIMITS)


def test_limits_of_bytes_and_pixels_are_settings() -> None:
    data = encode(IMAGE)
    with pytest.raises(BadImage, match=f"{len(data)} bytes, more than the limit of 10"):
        decode(data, plain(max_image_bytes=10))
    with pytest.raises(BadImage, match="7x9 pixels, more than the limit of 62"):
        decode(data, plain(max_image_pixels=62))
    assert decode(data, plain(max_image_pixels=63, max_image_bytes=len(data))).shape == (9, 7, 3)


def test_sizes_follow_the_policy() -> None:
    with pytest.raises(BadImage, match="7x9 pixels where 8x8 are expected"):
        fit(IMAGE, 8, plain("reject"))
    assert fit(IMAGE, 8, plain("resize")).shape == (8, 8, 3)
    same = random_images(1, 8)[0]
    assert fit(same, 8, plain("resize")) is same
    flat = np.full((5, 9, 3), 77, np.uint8)
    assert (fit(flat, 8, plain("resize")) == 77).all()


def test_size_is_read_from_the_header_alone() -> None:
    assert size_of(encode(IMAGE)) == (7, 9)
    assert size_of(png_header(3000, 2000)) == (3000, 2000)
    assert size_of(b"text") is None
