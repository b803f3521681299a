from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.config import DataConfig, TrainConfig
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.selection import sample
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import InProcess, scan
from raydvae.errors import DataError
from raydvae.training.feed import Cut, ImageSet
from raydvae.training.job import GIB, TrainJob, load_images
from raydvae.training.stream import Source, StreamFeed
from raydvae.training.tasks import ClassifierTask
from tests.data.helpers import as_bytes, random_images, struct_table, write

SIZE = 32


def feed_of(data: Dataset, memory: int) -> StreamFeed:
    source = Source(data, find_classes(data), SIZE)
    return StreamFeed(source, tuple(unit.rows for unit in data.units()), memory)


def rows_of(batches: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> Counter[tuple[bytes, int]]:
    return Counter(
        (image.numpy().tobytes(), int(label))
        for slices in batches
        for images, labels in slices
        for image, label in zip(images, labels, strict=True)
    )


@given(rows=st.integers(16, 400), batch=st.integers(8, 130), slices=st.sampled_from([1, 2, 3, 4]))
def test_a_cut_drops_no_row_and_makes_no_tiny_batch(rows: int, batch: int, slices: int) -> None:
    cut = Cut.of(rows, batch, slices)
    assert sum(cut.sizes) == rows == sum(cut.totals())
    assert set(cut.sizes[:-1]) <= {cut.batch}
    assert cut.batch / 2 <= cut.sizes[-1] < 2 * cut.batch
    for size in cut.sizes:
        share = cut.share(size)
        assert sum(share) == size and max(share) - min(share) <= 1 and min(share) >= 2


@settings(max_examples=15, deadline=None)
@given(
    unit_rows=st.integers(5, 60),
    batch=st.integers(8, 64),
    slices=st.sampled_from([1, 2, 4]),
    windows=st.integers(1, 40),
    epoch=st.integers(0, 3),
)
def test_each_row_comes_once_an_epoch_and_the_order_is_the_epoch_s(
    digits_folder: Path, unit_rows: int, batch: int, slices: int, windows: int, epoch: int
) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=unit_rows))
    feed = feed_of(data, memory=windows * 3 * SIZE**2 * 2 * slices)
    cut = Cut.of(len(feed), batch, slices)
    batches = list(feed.epoch(cut, 7, epoch, range(slices)))
    assert [sum(len(x) for x, _ in parts) for parts in batches] == cut.sizes
    kept = load_images(feed.source)
    whole = list(kept.epoch(cut, 7, epoch, range(slices)))
    assert rows_of(batches) == rows_of(whole)
    for part in range(slices):  # a worker with some of the slices reads the same rows for them
        alone = list(feed.epoch(cut, 7, epoch, range(part, part + 1)))
        assert all(torch.equal(one[0][0], all_[part][0]) for one, all_ in zip(alone, batches, strict=True))
    other = list(feed.epoch(cut, 7, epoch + 1, range(slices)))
    assert not torch.equal(other[0][0][0], batches[0][0][0])


def test_windows_are_bounded(digits_folder: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=10))
    memory = 100 * 3 * SIZE**2
    feed = feed_of(data, memory)
    for plans in feed.windows(Cut.of(180, 32, 2), 0, 0):
        assert max(window.rows for window in plans) <= 25
        assert sum(window.rows for window in plans) == 90


def job_of(data: Dataset, folder: Path, **changes: object) -> TrainJob:
    job = TrainJob(
        name="stage1",
        task=ClassifierTask("tiny", 10, 0, False),
        data=data,
        classes=find_classes(data),
        image_size=SIZE,
        config=TrainConfig(epochs=1, batch_size=32, slices=2, optimizer="sgd", lr=0.01),
        seed=0,
        store=Store(str(folder)),
    )
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


def test_size_decides_whether_a_training_streams(digits_folder: Path, tmp_path: Path) -> None:
    decoded = 180 * 3 * SIZE**2 / GIB
    for share, streamed in ((1.0, False), (0.9, True)):
        data = open_dataset(str(digits_folder), DataConfig(unit_rows=40, memory_gib=decoded * share))
        assert job_of(data, tmp_path).streamed is streamed
    selection = sample(data, find_classes(data), 90, seed=0)
    assert not job_of(data, tmp_path, selection=selection, selected=90).streamed


def test_a_streamed_training_on_a_sample_sees_that_sample_only(digits_folder: Path, tmp_path: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=40, memory_gib=1e-4))
    selection = sample(data, find_classes(data), 100, seed=0)
    job = job_of(data, tmp_path, selection=selection, selected=100)
    assert job.streamed
    scan(InProcess(), job)
    work = job.scan
    assert work is not None
    feed = StreamFeed(job.source, work.counts(), 10**6)
    assert len(feed) == 100
    cut = Cut.of(100, 32, 2)
    assert rows_of(list(feed.epoch(cut, 0, 0, range(2)))) == rows_of(
        list(load_images(job.source).epoch(cut, 0, 0, range(2)))
    )


def test_bad_rows_are_found_before_a_streamed_training(tmp_path: Path) -> None:
    values: list[bytes | None] = [as_bytes(image) for image in random_images(60, SIZE)]
    values[7] = values[33] = b"no image"
    write(tmp_path / "data", struct_table(values, [i % 10 for i in range(60)]))
    for limit in (0.01, 0.1):
        data = open_dataset(str(tmp_path / "data"), DataConfig(unit_rows=25, memory_gib=1e-4, reject_limit=limit))
        job = job_of(data, tmp_path / f"job-{limit}")
        if limit < 2 / 60:
            with pytest.raises(DataError, match="2 of 60 rows cannot be used"):
                InProcess().train(job)
            assert not job.finished
        else:
            InProcess().train(job)
            assert len(job.history()) == 1
            work = dataclasses.replace(job, store=Store(str(tmp_path / "other"))).scan
            assert work is not None and len(work.left()) == 3


def test_a_source_that_changed_after_the_scan_is_refused(digits_folder: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=60))
    source = Source(data, Classes(5, None, text=False), SIZE)  # half of the labels are outside of the classes
    feed = StreamFeed(source, tuple(unit.rows for unit in data.units()), 10**6)
    with pytest.raises(DataError, match="fewer usable rows than when it was scanned"):
        list(feed.epoch(Cut.of(180, 32, 2), 0, 0, range(2)))


def test_memory_and_stream_are_feeds(digits_folder: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=60))
    assert isinstance(data.units()[0], Unit)
    assert len(feed_of(data, 10**6)) == len(load_images(Source(data, find_classes(data), SIZE))) == 180
    assert isinstance(load_images(Source(data, find_classes(data), SIZE)), ImageSet)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"unit": 1}', b"\xff", None])
def test_a_damaged_record_of_a_scan_is_made_again(text: bytes | None, digits_folder: Path, tmp_path: Path) -> None:
    data = open_dataset(str(digits_folder), DataConfig(unit_rows=40, memory_gib=1e-6))
    job = job_of(data, tmp_path)
    scan(InProcess(), job)
    assert job.scan is not None and job.scan.left() == []
    path = sorted((tmp_path / "scan").iterdir())[2]
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"rows_usable": 40', b'"rows_usable": 38') if text is None else text)
    assert [f"{unit.id}.json" for unit in job.scan.left()] == [path.name]
    scan(InProcess(), job)
    assert path.read_bytes() == kept and sum(job.scan.counts()) == 180
