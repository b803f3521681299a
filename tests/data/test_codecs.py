"""Images: exact pixels for every kind that is read, and a reason for everything else."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from raydvae.data.codecs import BadImage, decode, encode, fit, header, size_of
from tests.data.helpers import as_bytes, plain, random_images

LIMITS = plain()
IMAGE = random_images(1, 9)[0][:, :7]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of some bytes that claims a size; no pixels follow."""
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


def with_chunk(extra: bytes) -> bytes:
    """A good PNG with a chunk behind its header."""
    data = as_bytes(IMAGE)
    return data[:33] + extra + data[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just a text\n", "^text, not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000 image$"),
        (b"", "^an empty value, not a JPEG"),
        (b"<html><body>404</body></html>", "^HTML text, not a"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "^an SVG drawing, not a"),
        (b'{"error": 404}', "^JSON text, not a"),
        (gzip.compress(as_bytes(IMAGE), mtime=0), "^gzip data, not a"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "^a HEIC image, not a"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "^a JPEG XL image, not a"),
        (b"%PDF-1.7\n", "^a PDF document, not a"),
        (b"\0" * 100, "^nothing but zero bytes, not a"),
        (bytes(IMAGE), "^bytes of no known format, not a"),
        (as_bytes(random_images(1, 64)[0], "JPEG")[:-900], "cannot be decoded"),
        (as_bytes(random_images(1, 64)[0], "PNG")[:-900], "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value[:12]),
)
def test_everything_else_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data, LIMITS)


CODEC = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
SMOOTH = np.asarray(Image.fromarray(random_images(1, 4)[0]).resize((60, 40), Image.Resampling.BICUBIC))
FORMATS = ["BMP", "GIF", "TIFF", "WEBP"] + [kind for kind in ("AVIF", "JPEG2000") if features.check(CODEC[kind])]


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_are_what_pillow_decodes_and_cut_ones_are_refused(kind: str) -> None:
    data = as_bytes(SMOOTH, kind)
    assert np.array_equal(decode(data, LIMITS), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert size_of(data) == (60, 40)
    for share in (0.95, 0.5):
        with pytest.raises(BadImage, match="cannot be decoded"):
            decode(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_images_is_taken(kind: str) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255))
    data = as_bytes(first, kind, save_all=True, append_images=[second])
    assert decode(data, LIMITS).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_bytes(IMAGE, kind, exif=exif, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    upright = {  # of EXIF's definition: where row 0 and column 0 of the stored image are when it is shown
        1: IMAGE,
        2: IMAGE[:, ::-1],
        3: IMAGE[::-1, ::-1],
        4: IMAGE[::-1],
        5: IMAGE.transpose(1, 0, 2),
        6: np.rot90(IMAGE, -1),
        7: IMAGE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(IMAGE),
    }[orientation]
    got = decode(data, LIMITS)
    assert np.array_equal(got, upright)
    assert size_of(data) == (got.shape[1], got.shape[0])
    assert not Image.open(io.BytesIO(encode(got))).getexif()


EXIF6 = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
RAW = b"Raw profile type exif\0"
HEX = b"\nexif\n%8d\n%s\n" % (len(EXIF6), EXIF6.hex().encode())
XMP = b"XML:com.adobe.xmp\0"
RDF = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
TURNED = {
    "ImageMagick": chunk(b"zTXt", RAW + b"\0" + zlib.compress(HEX)),
    "plain": chunk(b"tEXt", RAW + HEX),
    "XMP": chunk(b"iTXt", XMP + b"\0\0\0\0" + RDF),
    "packed XMP": chunk(b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(RDF)),
}


@pytest.mark.parametrize("case", TURNED)
def test_orientation_in_the_texts_of_a_png_is_applied(case: str) -> None:
    data = with_chunk(TURNED[case])
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(shown, np.rot90(IMAGE, -1))  # what Pillow's users see
    assert np.array_equal(decode(data, LIMITS), shown)
    assert size_of(data) == (shown.shape[1], shown.shape[0])


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", RAW + b"\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"zTXt", RAW + b"\1" + zlib.compress(HEX)),
        chunk(b"zTXt", RAW + b"\0no zlib"),
        chunk(b"zTXt", RAW),
        chunk(b"tEXt", RAW + b"nonsense"),
        chunk(b"tEXt", RAW + HEX)[:-1] + b"?",
        chunk(b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"iTXt", XMP + b"\1"),
        chunk(b"iTXt", XMP),
    ],
    ids=["bomb", "method", "no zlib", "empty", "nonsense", "checksum", "bomb of XMP", "cut XMP", "empty XMP"],
)
def test_damaged_texts_turn_nothing(extra: bytes) -> None:
    assert np.array_equal(decode(with_chunk(extra), LIMITS), IMAGE)


def test_an_unknown_orientation_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert np.array_equal(decode(as_bytes(IMAGE, exif=exif), LIMITS), IMAGE)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        chunk(b"tIME", b"\7\xea\1\1\0\0\0")[:-1] + b"?",
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"iCCP", b"p\0\0no zlib")[:-1] + b"?",
        chunk(b"eXIf", b"MM\0*nonsense"),
        chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
        chunk(b"tRNS", b"\0")[:-1] + b"?",
    ],
    ids=["text", "time", "bomb of text", "profile", "exif", "exif's checksum", "alpha"],
)
def test_what_says_nothing_of_pixels_is_no_reason_to_refuse_them(extra: bytes) -> None:
    assert np.array_equal(decode(with_chunk(extra), LIMITS), IMAGE)


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = as_bytes(SMOOTH, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + data[-2:]


def test_scans_of_a_jpeg_are_counted_before_they_are_decoded() -> None:
    assert decode(scans(20), LIMITS).shape == (40, 60, 3)
    with pytest.raises(BadImage, match="a JPEG of more than 100 scans"):
        decode(scans(1000), LIMITS)
    with pytest.raises(BadImage, match="a JPEG of more than 20 scans"):  # 16 for the limit's own size
        decode(scans(40), plain(max_image_pixels=3000))
    marked = as_bytes(SMOOTH, "JPEG", comment=b"\xff\xda" * 200)  # looks like scans, and is none
    assert np.array_equal(decode(marked, LIMITS), decode(as_bytes(SMOOTH, "JPEG"), LIMITS))


def bomb(side: int) -> bytes:
    """The first 34 bytes of a lossless WebP of one color, with its lengths set right."""
    bits = (side - 1) | (side - 1) << 14
    return b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<IBI", 13, 0x2F, bits) + bytes(9)


@pytest.mark.parametrize("stuff", [b"\xff\xfe\0\2", b"\xff", b"\0", b"\xff\xe1\0\x08Exif\0\0", b"\xff\xdd\0\4\0\0"])
def test_what_lies_before_a_jpeg_s_pixels_is_bounded(stuff: bytes) -> None:
    data = as_bytes(SMOOTH, "JPEG", icc_profile=bytes(200_000))
    start, rest = data[:2] + b"\xff\xfe\0\2", data[2:]
    assert np.array_equal(decode(start + stuff * 100 + rest, LIMITS), decode(data, LIMITS))
    for some in (start + stuff * 150_000 + rest, start + stuff * 150_000):
        with pytest.raises(BadImage, match="a JPEG of more than 100000 segments or stray bytes before its pixels"):
            decode(some, LIMITS)


def test_a_bmp_in_runs_is_bounded() -> None:
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))

    def packed(runs: bytes) -> bytes:
        head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 8, 1, len(runs), 0, 0, 256, 0)
        return b"BM" + struct.pack("<III", 1078 + len(runs), 0, 1078) + head + palette + runs

    assert decode(packed(b"\2\7\0\1"), LIMITS).tolist() == [[[7, 7, 7], [7, 7, 7]]]
    with pytest.raises(BadImage, match="a BMP in runs of more than 8388608 bytes"):
        decode(packed(b"\0\2\0\0" * (2 << 20)), LIMITS)


def test_a_webp_is_refused_before_pillow_allocates_for_it() -> None:
    tracemalloc.start()
    with pytest.raises(BadImage, match="8000x8000 pixels announced by 34 bytes"):
        decode(bomb(8000), LIMITS)
    with pytest.raises(BadImage, match="10000x10000 pixels, more than the limit of 64000000"):
        decode(bomb(10000), LIMITS)
    assert size_of(bomb(8000)) == (8000, 8000)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_an_unwanted_size_is_refused_by_the_header() -> None:
    with pytest.raises(BadImage, match="1900x2000 pixels where 32x32 are expected"):
        decode(png_header(1900, 2000), LIMITS, size=32)
    with pytest.raises(BadImage, match="cannot be decoded"):  # to be resized: its pixels are looked at
        decode(png_header(1900, 2000), plain("resize"), size=32)


def test_a_header_is_measured_within_the_limits() -> None:
    assert header(png_header(1900, 2000), LIMITS) == (1900, 2000)
    for data, reason in ((bomb(8000), "34 bytes"), (png_header(9000, 9000), "limit of"), (b"x", "text, not a")):
        with pytest.raises(BadImage, match=reason):
            header(data, LIMITS)


def test_a_png_of_very_many_chunks_is_refused() -> None:
    with pytest.raises(BadImage, match="a PNG of more than 100000 chunks"):
        decode(with_chunk(chunk(b"tEXt", b"a\0") * 100_001), LIMITS)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(BadImage, match="pixels of 32 bits"):
        decode(as_bytes(Image.new(mode, (4, 4), 1), "TIFF"), LIMITS)


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
