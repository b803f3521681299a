"""What kind of file it is: by its name as far as that tells, else by its first bytes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from raydvae.data.store import Store

# What `codecs` decodes, and what it does not: those are rows that are rejected later, each with its reason.
PICTURES = re.compile(r"jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|avif|p[pgbn]m|hei[cf]|jxl|jp2|j2k|svg")
# The endings of files that lie beside images and are none: they are not opened to find out.
OTHERS = re.compile(
    r"txt|md|rst|html?|xml|jsonl?|ya?ml|toml|[ct]sv|lst|log|py|ipynb|sh|mat|np[yz]|pkl|pth?|h5|parquet|arrow|zip|t?gz|"
    r"tar|bz2|xz|7z|rar|pdf|docx?|xlsx?|db|ini|lnk|url|mp[34]|avi|mov|wav"
)
HEAD = 32  # bytes
SIGNS = (  # where a format's first bytes are, and what they are
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"JXL \r\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"jP  \r\n", "JPEG 2000"),
    (0, b"BM", "BMP"),
    *((0, b"P%d%b" % (number, space), "PPM") for number in range(1, 7) for space in (b" ", b"\n", b"\r", b"\t")),
)
TEXTS = (("<svg", "SVG"), ("<!doctype html", "HTML"), ("<html", "HTML"), ("<?xml", "XML"), ("{", "JSON"), ("[", "JSON"))
ARCHIVES = (
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF", "PDF"),
    (b"PAR1", "parquet"),
    (b"\x93NUMPY", "npy"),
)


def kind_of(data: bytes) -> str:
    """Return what ``data`` is by its first bytes: a format of images, another one, "text", "empty" or "unknown"."""
    if not data:
        return "empty"
    for at, sign, kind in SIGNS:
        if data[at : at + len(sign)] == sign:
            return kind
    for sign, kind in ARCHIVES:
        if data.startswith(sign):
            return kind
    head = data[:256].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for text, kind in TEXTS:
        if head.startswith(text.encode()):
            return "SVG" if b"<svg" in head else kind
    letters = data[:256].decode("utf-8", "ignore")
    return "text" if letters and all(sign.isprintable() or sign in "\r\n\t" for sign in letters) else "unknown"


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, without the dot; "" if it has none."""
    base = posixpath.basename(name)
    return base.rpartition(".")[2].lower() if "." in base else ""


def pictures(store: Store, files: Mapping[str, int]) -> set[str]:
    """Return which of ``files`` (sizes by name) are images by their names, or by their bytes where no name tells."""
    told = {name for name in files if PICTURES.fullmatch(ending(name))}
    unclear = [name for name, size in files.items() if size and name not in told and not OTHERS.fullmatch(ending(name))]
    heads = store.read_spans([(name, 0, min(files[name], HEAD)) for name in unclear])
    known = {kind for _, _, kind in SIGNS}
    return told | {name for name, head in zip(unclear, heads, strict=True) if kind_of(head) in known}
