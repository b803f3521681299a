"""Rows of a poisoned data set beside the clean ones that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.attacks.releases import pairs
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, decode_unit, random_images, struct_table, write

IMAGES = random_images(6)
LABELS = [0, 1, 2, 0, 1, 2]


def poisoned(tmp_path: Path) -> tuple[str, pa.Table]:
    """Write clean data and what a run makes of it; return the clean folder and the rows of the other."""
    clean = open_dataset(
        str(write(tmp_path / "clean", struct_table([as_bytes(i) for i in IMAGES], LABELS), "x.parquet"))
    )
    rows = decode_unit(clean, clean.units()[0], 8)
    Run(Store(str(tmp_path / "made"))).commit("poison", clean, rows, 255 - rows.images)
    (file,) = (tmp_path / "made").glob("*.parquet")
    return clean.store.uri, pq.ParquetFile(file).read()


def test_rows_are_found_by_their_ids(tmp_path: Path) -> None:
    clean = open_dataset(poisoned(tmp_path)[0])
    ((before, after, labels),) = pairs(clean, open_dataset(str(tmp_path / "made")), find_classes(clean), 8)
    assert np.array_equal(before, IMAGES)
    assert np.array_equal(after, 255 - IMAGES)
    assert labels.tolist() == LABELS


def test_rows_that_others_moved_are_not_taken_for_those_of_their_ids(tmp_path: Path) -> None:
    folder, table = poisoned(tmp_path)
    clean = open_dataset(folder)
    for name, moved in {"sorted": table.sort_by("label"), "filtered": table.slice(1)}.items():
        made = open_dataset(str(write(tmp_path / name, moved, "x.parquet")))
        with pytest.raises(
            DataError, match=r"row x.parquet#\d .* is of class \d, and of class \d in .*not the same row"
        ):
            list(pairs(clean, made, find_classes(clean), 8))
    kept = open_dataset(str(write(tmp_path / "kept", table.append_column("w", pa.array(range(6))), "x.parquet")))
    ((before, _, _),) = pairs(clean, kept, find_classes(clean), 8)
    assert np.array_equal(before, IMAGES)
