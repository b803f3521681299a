"""What a file is, by its name or its first bytes."""

from __future__ import annotations

import io
import uuid

import pytest
from PIL import Image, features

from raydvae.data.readers.kinds import kind_of, pictures
from raydvae.data.store import Store
from tests.data.helpers import as_bytes, random_images

PICTURE = random_images(1)[0]


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else [])]
)
def test_what_pillow_writes(kind: str) -> None:
    data = as_bytes(PICTURE, kind)
    assert Image.open(io.BytesIO(data)).format == kind
    assert kind_of(data) == kind
    assert kind_of(data[:32]) == kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"hello,\nworld \xc3\xa4", "text"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b'<?xml version="1.0"?><svg width="1">', "SVG"),
        (b"<?xml version='1.0'?><annotation>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"PK\x03\x04....", "ZIP"),
        (b"%PDF-1.4", "PDF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\x00\x01\x02\xfe" * 9, "unknown"),
    ],
)
def test_what_is_no_image_of_ours(data: bytes, kind: str) -> None:
    assert kind_of(data) == kind


def test_names_tell_and_where_they_do_not_the_bytes() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    png = as_bytes(PICTURE)
    files = {"a/1.JPG": b"", "a/2.heic": b"x", "a/0f3b": png, "a/x.image": png, "a/README": b"read me", "a/n.txt": png}
    for name, data in files.items():
        store.write(name, data)
    assert pictures(store, store.list()) == {"a/1.JPG", "a/2.heic", "a/0f3b", "a/x.image"}
