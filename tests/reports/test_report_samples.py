"""Samples survive storage; damaged or foreign files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.data.store import Store
from raydvae.errors import DataError, StorageError
from raydvae.reports.samples import ARRAYS, Samples


def make(count: int = 3, size: int = 4, row_ids: list[str] | None = None) -> Samples:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (3, count, size, size, 3), dtype=np.uint8)
    return Samples(
        x0=images[0],
        x1=images[1],
        x3=images[2],
        p_hat=rng.normal(size=images[0].shape).astype(np.float32),
        labels=np.arange(count, dtype=np.int64),
        row_ids=row_ids if row_ids is not None else [f"a.parquet#{row}" for row in range(count)],
    )


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_round_trip(row_ids: list[str]) -> None:
    store = Store("memory://report-samples")
    samples = make(len(row_ids), row_ids=row_ids)
    samples.save(store, "samples.safetensors")
    again = Samples.load(store, "samples.safetensors")
    assert again.row_ids == row_ids
    for name, kind in ARRAYS.items():
        assert getattr(again, name).dtype == kind
        np.testing.assert_array_equal(getattr(again, name), getattr(samples, name))


def test_views_are_saved_as_they_look(tmp_path: Path) -> None:
    samples = make()
    flipped = Samples(
        x0=samples.x0[::-1], x1=samples.x1, x3=samples.x3, p_hat=samples.p_hat, labels=samples.labels, row_ids=["a"] * 3
    )
    flipped.save(Store(str(tmp_path)), "s")
    np.testing.assert_array_equal(Samples.load(Store(str(tmp_path)), "s").x0, samples.x0[::-1])


@pytest.mark.parametrize("cut", [0, 5, 40, -1])
def test_damaged_file(tmp_path: Path, cut: int) -> None:
    store = Store(str(tmp_path))
    make().save(store, "s")
    store.write("s", store.read("s")[:cut])
    with pytest.raises(StorageError, match="make the report again"):
        Samples.load(store, "s")


def test_foreign_file(tmp_path: Path) -> None:
    import safetensors.numpy

    store = Store(str(tmp_path))
    for metadata in (None, {"row_ids": "3"}, {"row_ids": "[1, 2, 3]"}, {"row_ids": "{"}):
        arrays = {name: getattr(make(), name) for name in ARRAYS}
        store.write("s", safetensors.numpy.save(arrays, metadata=metadata))
        with pytest.raises(StorageError, match="holds no samples"):
            Samples.load(store, "s")


def test_wrong_shapes_and_types() -> None:
    good = make()
    arrays = {name: getattr(good, name) for name in ARRAYS}
    wrong = {
        "x1": good.x1[:2],
        "p_hat": good.p_hat.astype(np.float64),
        "labels": good.labels[:, None],
        "x0": good.x0[0],
    }
    for name, value in wrong.items():
        with pytest.raises(DataError, match=name):
            Samples(**(arrays | {name: value}), row_ids=good.row_ids)


def test_labels_that_are_no_class_of_the_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    make(3).save(store, "s")
    assert Samples.load(store, "s", 3).row_ids
    with pytest.raises(StorageError, match=r"labels are from 0 to 2.*make the report again"):
        Samples.load(store, "s", 2)
