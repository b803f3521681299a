"""Charts are safe, deterministic elements of a page; images come back from their data URIs pixel for pixel."""

from __future__ import annotations

import base64
import io
import math
import re
import sys
import warnings
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raydvae.reports import figures

HOSTILE = ["<script>alert(1)</script>", "$x_{$", "--><b>", "a\nb\x00\x1b", "猫", "\"quoted\" & 'so'", ""]


def rectangles(svg: str) -> list[tuple[float, float]]:
    """Width and height of every filled accent shape but the window, in SVG units."""
    found = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--accent, #0b6e99\)"', svg)
    sizes = []
    for path in found:
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path), dtype=float)
        sizes.append(tuple(np.ptp(points, axis=0)))
    return sizes


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter("text")]


def decode(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_bars_are_as_long_as_their_values() -> None:
    svg = figures.bars({"a": 1.0, "b": 2.5, "c": math.nan}, label="l", title="t")
    widths = [width for width, _ in rectangles(svg)]
    assert widths[1] / widths[0] == pytest.approx(2.5, abs=1e-3) and widths[2] == 0
    assert {"1.00", "2.50", "n/a", "a", "b", "c"} <= set(texts(svg))


def test_histogram_heights_and_cut() -> None:
    svg = figures.histogram(
        [-math.inf, 10, 11, 12, 13, 14, math.inf], [9, 0, 1, 3, 0, 4], label="l", title="t", xlabel="x"
    )
    heights = [height for _, height in rectangles(svg)]
    assert len(heights) == 2 and heights[1] / heights[0] == pytest.approx(3, abs=1e-3)


def test_curve_has_window_target_and_end() -> None:
    svg = figures.curve([0, 1, 2], [10.0, 15.0, 21.5], label="l", title="t", window=(20, 22), target=7, unit=" dB")
    assert {"20–22 dB", "7 dB", "ends at 21.50 dB"} <= {
        part.strip() for text in texts(svg) for part in text.split("\n")
    }
    assert svg.count("opacity: 0.16") == 1 and "stroke-dasharray" in svg


def test_far_first_epochs_do_not_flatten_the_rest() -> None:
    low, high = figures._reach(np.array([900.0, *np.linspace(3, 1, 29)]), [1.0])
    assert low < 1 and 3 <= high < 4
    assert figures._reach(np.array([8.0, *np.linspace(3, 1, 29)]), [1.0])[1] > 8


@pytest.mark.parametrize("values", [[], [math.nan], [1.0], [math.inf, 2.0], [math.inf] * 20, [3.0] * 20])
def test_curve_of_odd_values(values: list[float]) -> None:
    svg = figures.curve(list(range(len(values))), values, label="l", title="t", target=1.0)
    assert ("no finite value" in svg) == (not any(map(math.isfinite, values)))


def test_hostile_names_are_text() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = {name: float(place) for place, name in enumerate(HOSTILE)}
        svg = figures.bars(values, errors=values, label='"><script>', title="<script>")
    assert "<script" not in svg and "<b>" not in svg
    shown = texts(svg)
    assert "<script>alert(1)</scr…" in shown and "$x_{$" in shown and "猫" in shown and "a b  " in shown
    assert ET.fromstring(svg).get("aria-label") == '"><script>'


def test_many_bars_have_no_names() -> None:
    values = {f"class{place}": float(place) for place in range(100)}
    svg = figures.bars(values, errors=values, label="l", title="t")
    assert "class5" not in svg and "rank among" in svg


def test_charts_repeat_and_leave_the_global_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    pyplot = "matplotlib.pyplot" in sys.modules
    first, second = (figures.bars({"a": 1.0}, label="l", title="t") for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before and ("matplotlib.pyplot" in sys.modules) == pyplot


def test_the_users_own_style_does_not_matter() -> None:
    plain = figures.bars({"a": 1.0}, label="l", title="t")
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "red"}):
        assert figures.bars({"a": 1.0}, label="l", title="t") == plain


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(1, 6))
def test_image_grid_keeps_every_pixel(count: int, columns: int, gap: int, size: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    sheet = decode(figures.image_grid(images, columns, side=size, gap=gap))
    for number, image in enumerate(images):
        top, left = (number // columns) * (size + gap), (number % columns) * (size + gap)
        np.testing.assert_array_equal(sheet[top : top + size, left : left + size, :3], image)
    if sheet.shape[-1] == 4:
        assert np.count_nonzero(sheet[..., 3]) == count * size * size


def test_large_images_shrink_to_their_means() -> None:
    image = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 10, np.ones((8, 8), np.uint8))
    sheet = decode(figures.image_grid(np.repeat(image[None, :, :, None], 3, axis=3), 1, side=4, gap=2))
    np.testing.assert_array_equal(sheet[..., 0], np.arange(16).reshape(4, 4) * 10)


def test_normalize_stretches_each_image() -> None:
    images = np.zeros((3, 1, 3, 3), np.float32)
    images[0, 0, :, 0] = [-0.5, 0.0, 0.5]
    images[1] = 7.0
    images[2, 0, 0, 0] = np.nan
    out = figures.normalize(images)
    assert out[0, 0, :, 0].tolist() == [0, 128, 255]
    assert set(out[1].ravel()) == {128}
    assert out.dtype == np.uint8


@pytest.mark.parametrize("targets", [[1.0, 4.0], [0.02, 1.0, 32.0], [1.0]])
def test_a_response_names_its_ticks_window_and_choice(targets: list[float]) -> None:
    values = [20.0 + n for n in range(len(targets))]
    svg = figures.response(
        {"trials": (targets, values), "full training": ([1.0], [21.5])},
        (targets, values),
        label="l",
        title="t",
        xlabel="KLD",
        ylabel="PSNR",
        window=(20.0, 22.0),
        chosen=(1.0, 21.5),
    )
    found = texts(svg)
    assert {"trials", "full training", "t", "KLD", "PSNR", "1: 21.50 dB"} <= set(found)
    assert any("20–22 dB" in text for text in found)
    assert not any("$" in text or "\\" in text for text in found), "no tick is left as TeX"
