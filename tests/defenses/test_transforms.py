"""Each transform of single images beside an independent computation of what it promises."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from torchvision.transforms import GaussianBlur, Grayscale, RandomPosterize

from raydvae.defenses.transforms import gaussian, grayscale, jpeg, median, reduce_depth
from tests.data.helpers import as_bytes, random_images


def picture(size: int = 17) -> np.ndarray:  # type: ignore[type-arg]
    """A smooth color image with an edge and some noise, so that compression has something to keep."""
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([255 * x, 255 * y, 255 * (x > 0.5)], axis=2)
    return (0.8 * image + 0.2 * random_images(1, size)[0]).astype(np.uint8)


@pytest.mark.parametrize("depth", range(1, 9))
def test_bit_depth_reduction_leaves_as_many_levels_as_it_says(depth: int) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    out = reduce_depth(every, depth)
    assert len(np.unique(out)) == 2**depth
    assert (out == np.floor(every / 2 ** (8 - depth)) * 2 ** (8 - depth)).all()
    assert out.dtype == np.uint8


def test_two_bits_are_the_published_levels_as_torchvision_makes_them() -> None:
    images = random_images(2, 16)
    out = reduce_depth(images, 2)
    assert sorted(np.unique(out)) == [0, 64, 128, 192]
    assert (out[0] == np.asarray(RandomPosterize(bits=2, p=1)(Image.fromarray(images[0])))).all()


def test_grayscale_is_torchvisions_and_has_the_published_weights() -> None:
    images = random_images(3, 64)
    out = grayscale(images)
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 0] == out[..., 2]).all()
    for image, gray in zip(images, out, strict=True):
        assert (gray == np.asarray(Grayscale(3)(Image.fromarray(image)))).all()
    exact = images @ np.array([0.299, 0.587, 0.114])
    assert np.abs(out[..., 0] - exact).max() <= 0.5 + 255 * 3 / 2**16


@pytest.mark.parametrize("quality", [2, 10, 90])
def test_jpeg_is_pillows_at_that_quality(quality: int) -> None:
    images = np.stack([picture(), picture()[::-1]])
    out = jpeg(images, quality)
    for image, squeezed in zip(images, out, strict=True):
        data = as_bytes(image, "JPEG", quality=quality)
        assert (squeezed == np.asarray(Image.open(io.BytesIO(data)))).all()
    assert not (out == images).all()


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.8), (5, 1.5), (9, 0.5)])
def test_gaussian_is_scipys_and_torchvisions(kernel: int, sigma: float) -> None:
    images = random_images(2, 12)
    out = gaussian(images, kernel, sigma)
    for image, smooth in zip(images, out, strict=True):
        exact = scipy.ndimage.gaussian_filter(
            image.astype(float), (sigma, sigma), radius=kernel // 2, mode="mirror", axes=(0, 1)
        )
        assert np.abs(smooth - exact).max() <= 0.5 + 1e-9
        there = np.asarray(GaussianBlur(kernel, sigma)(Image.fromarray(image))).astype(int)
        assert np.abs(there - smooth).max() <= 1
    assert not (out == images).all()


def test_the_sigma_of_the_published_code_changes_no_byte() -> None:
    images = random_images(2, 12)
    assert (gaussian(images, 3, 0.1) == images).all()


@pytest.mark.parametrize("kernel", [3, 5])
def test_median_is_scipys(kernel: int) -> None:
    images = random_images(2, 12)
    out = median(images, kernel)
    expected = scipy.ndimage.median_filter(images, size=(1, kernel, kernel, 1), mode="nearest")
    assert (out == expected).all()


def test_a_pixel_out_of_line_is_gone_after_the_median() -> None:
    """One-pixel shortcuts are what it is good against."""
    image = np.full((1, 8, 8, 3), 100, np.uint8)
    image[0, 3, 4] = 255
    assert (median(image, 3) == 100).all()
