from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.training.feed import Cut
from raydvae.training.stream import Source, StreamFeed, read_ahead

pytestmark = pytest.mark.ray


def test_windows_from_the_cluster_are_those_read_here(digits_folder: Path, ray_cluster: None) -> None:
    from raydvae.distributed.feed import read_windows

    data = open_dataset(str(digits_folder), DataConfig(unit_rows=20))
    source = Source(data, find_classes(data), 32)
    feed = StreamFeed(source, tuple(unit.rows for unit in data.units()), 10**6)
    for windows in feed.windows(Cut.of(180, 32, 2), seed=1, epoch=0):
        assert len(windows) > 1
        here, there = list(read_ahead(source, windows)), list(read_windows(source, windows))
        assert len(here) == len(there) == len(windows)
        for (images, labels), (images_there, labels_there) in zip(here, there, strict=True):
            np.testing.assert_array_equal(images, images_there)
            np.testing.assert_array_equal(labels, labels_there)
