"""scikit-learn's handwritten digits (UCI, 1797 images of 8x8): the data set that needs no download."""

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


class Digits:
    """One split, in the order that the split drew; ``rows`` are places in scikit-learn's data set."""

    names: tuple[str, ...] | None = tuple(str(digit) for digit in range(10))

    def __init__(
        self, images: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> None:
        self.images, self.labels, self.rows = images, labels, rows

    def scan(self) -> Iterator[Entry | Skip]:
        """See `Reader.scan`."""
        return (Entry(int(self.labels[row]), at=int(row)) for row in self.rows)

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """See `Reader.schema`."""
        return image_schema(names)

    def table(self, entries: Sequence[Entry], schema: pa.Schema) -> pa.Table:
        """See `Reader.table`."""
        images = [encode(enlarge(self.images[entry.at])) for entry in entries]
        return image_table(schema, entries, images, [f"{entry.at}.png" for entry in entries])


def open_digits(source: str) -> Source:
    """Return the fixed, stratified splits: 1437 rows to train on, 360 to test."""
    if source != "digits":
        raise ConfigError(f"The source is {source!r}; scikit-learn's digits come with it, so give the word digits.")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=TEST_ROWS, stratify=data.target, random_state=0
    )
    return Source({name: Digits(data.images, data.target, rows) for name, rows in (("train", train), ("test", test))})


def enlarge(values: npt.NDArray[np.float64]) -> Array:
    """Return 8x8 grey ``values`` in 0..16 as (32, 32, 3) bytes."""
    grey = np.rint(values * (255 / 16)).astype(np.uint8)
    large = np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return np.repeat(large[:, :, None], 3, axis=2)
