"""Windows of a streamed training as a Ray Data stream: read, decoded and shuffled wherever the cluster has CPUs.

Each slice of each epoch is a stream of its own, run from within the Train worker that computes the slice.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import TaskPoolStrategy

from raydvae.training.stream import Array, Labels, Source, Window, read_window

READERS = 2  # windows of one slice that are decoded at once: what bounds the stream's memory


def read_windows(source: Source, windows: Sequence[Window]) -> Iterator[tuple[Array, Labels]]:
    """Read windows on the cluster, in order; a `raydvae.training.stream.Reader`."""
    if not windows:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    stream = ray.data.range(len(windows), override_num_blocks=len(windows)).map_batches(
        _Read(pickle.dumps((source, list(windows)))),
        batch_size=1,
        num_cpus=0.5,
        compute=TaskPoolStrategy(size=min(READERS, len(windows))),
    )
    size = source.image_size
    for batch in stream.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
        images = np.frombuffer(batch.column("images")[0].as_buffer(), np.uint8)
        labels = np.frombuffer(batch.column("labels")[0].as_buffer(), np.int64)
        yield images.reshape(-1, size, size, 3), labels


class _Read:
    """A stage: window numbers in, decoded and shuffled rows out."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        source, windows = pickle.loads(self.blob)
        read = [read_window(source, windows[int(number)]) for number in batch["id"]]
        return pa.table(
            {
                "images": pa.array([images.tobytes() for images, _ in read], pa.large_binary()),
                "labels": pa.array([labels.tobytes() for _, labels in read], pa.large_binary()),
            }
        )
