"""scikit-learn's handwritten digits (UCI, 1797 images of 8x8): the data set that needs no download.

``digits`` are white on black. ``faint-digits`` are the same with a quarter of the contrast, around a middle grey: noise
within the paper's bounds is not clipped away there, and matters as it does on photographs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from raydvae.data.codecs import Array, encode
from raydvae.data.readers import Entry, Skip, Source, image_schema, image_table
from raydvae.errors import ConfigError

SIZE = 32
TEST_ROWS = 360
SOURCES = {"digits": (0, 1), "faint-digits": (96, 4)}  # the level of what is black, and what the contrast is divided by


class Digits:
    """One split, in the order that the split drew; ``rows`` are places in scikit-learn's data set."""

    names: tuple[str, ...] | None = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        images: npt.NDArray[np.float64],
        labels: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        source: str,
    ) -> None:
        self.images, self.labels, self.rows, self.source = images, labels, rows, source

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        return (Entry(int(self.labels[row]), at=int(row)) for row in self.rows)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        images = [encode(enlarge(levels(self.images[entry.at], self.source))) for entry in entries]
        return image_table(schema, entries, images, [f"{entry.at}.png" for entry in entries])


def open_digits(source: str) -> Source:
    """Return the fixed, stratified splits: 1437 rows to train on, 360 to test."""
    if source not in SOURCES:
        raise ConfigError(
            f"The source is {source!r}; scikit-learn's digits come with it, so give the word digits, or faint-digits "
            "for a quarter of the contrast."
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=TEST_ROWS, stratify=data.target, random_state=0
    )
    splits = (("train", train), ("test", test))
    return Source({name: Digits(data.images, data.target, rows, source) for name, rows in splits})


def levels(values: npt.NDArray[np.float64], source: str) -> Array:
    """Return grey ``values`` in 0..16 as the bytes of ``source``, in the same shape."""
    black, divisor = SOURCES[source]
    return (black + np.rint(values * (255 / 16)) // divisor).astype(np.uint8)


def enlarge(grey: Array) -> Array:
    """Return 8x8 ``grey`` bytes as (32, 32, 3)."""
    large = np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return np.repeat(large[:, :, None], 3, axis=2)
