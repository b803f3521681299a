"""What bytes are, by their first ones: the image formats that are read, and names for what else is found there.

Nothing is decoded here. What the headers of some formats announce is checked before Pillow sees them, as opening them
there already allocates (WebP), refuses what is harmless (PNG) or does not count (the scans of JPEG).
"""

from __future__ import annotations

import struct
import zlib

PROFILES = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts of a PNG that Pillow takes an orientation from
MAX_TEXT = 2**20  # bytes
READ = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF", "AVIF": "AVIF"}
READ["JPEG2000"] = "JPEG 2000"

_MAGIC = (  # first bytes, what it is, the Pillow plugin that reads it
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
    b"qt  ": "a QuickTime film",
    b"crx ": "a Canon raw image",
}
_OTHERS = (
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\0\0\1\0", "an ICO icon"),
    (b"8BPS", "a Photoshop image"),
    (b"v/1\1", "an OpenEXR image"),
    (b"qoif", "a QOI image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"DDS ", "a DDS texture"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\3\4", "a zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF", "a PDF document"),
    (b"\x80\2", "a Python pickle"),
    (b"\x80\3", "a Python pickle"),
    (b"\x80\4", "a Python pickle"),
    (b"\x80\5", "a Python pickle"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM film"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"version https://git-lfs", "a Git LFS pointer, whose image was not fetched"),
)


def format_of(data: bytes) -> str | None:
    """Return Pillow's name of the image format of ``data``, one of `READ`, or None where it is none that is read."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and (data[8:12] in (b"avif", b"avis") or b"avif" in data[16 : min(_size(data), 256)]):
        return "AVIF"
    return None


def name_of(data: bytes) -> str:
    """Return in words what ``data`` is, for a reason: "HTML text", "gzip data", "a HEIC image"."""
    known = format_of(data)
    if known:
        return f"{'an' if known == 'AVIF' else 'a'} {READ[known]} image"
    if not data:
        return "an empty value"
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 film")
    if data[:4] == b"RIFF":
        return {b"AVI ": "an AVI film", b"WAVE": "a WAVE sound"}.get(data[8:12], "a RIFF file")
    if data[:1] == b"P" and data[1:2] in b"1234567f" and data[2:3] in b" \t\r\n#":
        return "a Netpbm image (PPM, PGM, PBM)"
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    return _text(data[:1024]) or "bytes of no known format"


def _text(start: bytes) -> str | None:
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < 1024 else "ignore").lstrip("\ufeff \t\r\n").lower()
    except UnicodeDecodeError:
        return None
    if any(ord(sign) < 32 and sign not in "\t\r\n\f\x1b" for sign in text):
        return None
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "HTML text"
    if "<svg" in text:
        return "an SVG drawing"
    if text.startswith("<?xml") or text.startswith("<"):
        return "XML or HTML text"
    if text.startswith(("{", "[")):
        return "JSON text"
    return "text"


def _size(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


def essential_png(data: bytes, most: int) -> bytes | None:
    """Return a PNG without the chunks that say nothing of its pixels (text, time, profiles, animation).

    So damage and bombs in those do no harm. What may tell the orientation (eXIf, and texts that hold EXIF or XMP)
    stays where its checksum is right. Returns ``data`` itself where there is nothing to leave out or the chunks cannot
    be followed, and None where there are more than ``most``.
    """
    keep: list[bytes] = [data[:8]]
    profiles: list[bytes] = []
    at, left_out, count = 8, False, 0
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if stop > len(data):
            break
        count += 1
        if count > most:
            return None
        chunk = data[at:stop]
        good = kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf") or not kind[0] & 32
        if kind in (b"tEXt", b"zTXt", b"iTXt") and (profile := _profile(kind, chunk[8:-4])) not in (b"", *profiles):
            profiles.append(profile)
            good = True
        if good and kind in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            good = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if good:
            keep.append(chunk)
        else:
            left_out = True
        at = stop
        if kind == b"IEND":
            break
    return b"".join([*keep, data[at:]]) if left_out else data


def _profile(kind: bytes, body: bytes) -> bytes:
    """Return the name of a PNG's text that holds EXIF or XMP; nothing for others, and those too long for Pillow."""
    name, _, rest = body.partition(b"\0")
    if name not in PROFILES or (kind == b"zTXt" and rest[:1] != b"\0"):
        return b""
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] != b"\0")
    if packed:
        stream = rest[1:] if kind == b"zTXt" else b"".join(rest[2:].split(b"\0", 2)[2:])
        unpacking = zlib.decompressobj()
        try:
            unpacking.decompress(stream, MAX_TEXT)
        except zlib.error:
            return b""
        return name if unpacking.eof else b""
    return name if len(rest) < MAX_TEXT else b""


def jpeg_segments(data: bytes, enough: int) -> int:
    """Return how many segments, bytes of filling and stray bytes Pillow would step through before a JPEG's first scan.

    Counts to about ``enough``.
    """
    at, count = 2, 0
    while count <= enough:
        start = data.find(b"\xff", at)
        if start < 0:
            return count + len(data) - at
        marker = next((place for place in range(start, min(start + enough, len(data))) if data[place] != 255), -1)
        if marker < 0:
            return count + len(data) - at
        count += marker - at
        at = marker + 1
        if data[marker] == 0xDA:
            break
        if data[marker] not in (0, 1) and not 0xD0 <= data[marker] <= 0xD9:  # all others tell their length
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return count


def jpeg_scans(data: bytes, enough: int) -> int:
    """Return how many scans a JPEG has, counting to about ``enough``; an upper bound where markers are ambiguous."""
    if data.count(b"\xff\xda") <= enough:  # in entropy-coded data FF is followed by 00: only headers hold others
        return data.count(b"\xff\xda")
    at, scans = 2, 0
    while scans <= enough:
        at = data.find(b"\xff", at)
        if at < 0 or at + 2 > len(data):
            break
        marker = data[at + 1]
        if marker in (0, 1) or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker == 0xFF:
            at += 1
        elif marker == 0xD9:
            break
        else:
            scans += marker == 0xDA
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return scans


def is_packed_bmp(data: bytes) -> bool:
    """Whether a BMP's pixels are stored as runs, which Pillow unpacks in Python."""
    return data[30:34] in (b"\1\0\0\0", b"\2\0\0\0")


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height that the first header of a WebP announces; None where there is none."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
