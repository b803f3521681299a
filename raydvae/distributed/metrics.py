"""What the stages tell Ray's metrics, which its agents export for Prometheus (there each name begins with ``ray_``).

    raydvae_rows             counter    rows written                                    step
    raydvae_bytes            counter    bytes of the files written                      step
    raydvae_rejected_rows    counter    rows put aside with a reason                    step
    raydvae_retries          counter    requests to storage that were made again        step
    raydvae_unit_seconds     histogram  seconds of one stage on one unit                step, stage

``step`` is the name of the work (pass1, pass3, poison ...), ``stage`` read, compute or commit. Counters count work
done: a unit that is redone after a failure counts twice. Exact counts are in the commit records.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from ray.util.metrics import Counter, Histogram

from raydvae.data import retry

Stage = Literal["read", "compute", "commit"]
BOUNDARIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]  # seconds


@contextmanager
def timed(step: str, stage: Stage) -> Iterator[None]:
    """Tell how long a stage took on one unit; a failure is not told."""
    started = time.perf_counter()
    yield
    _seconds().observe(time.perf_counter() - started, tags={"step": step, "stage": stage})


def committed(step: str, record: Mapping[str, Any]) -> None:
    """Tell what a commit record says was written and rejected."""
    # A scan writes no rows; only passes do.
    _count("raydvae_rows", "Rows written", step, record.get("rows_out", 0))
    _count("raydvae_bytes", "Bytes of the files written", step, record.get("bytes", 0))
    _count("raydvae_rejected_rows", "Rows put aside with a reason", step, record["rows_rejected"])


class Retries:
    """Tells how many requests to storage this process had to make again."""

    def __init__(self) -> None:
        self.told = 0

    def tell(self, step: str) -> None:
        """Count those that are new since the last call."""
        so_far = retry.count()
        _count("raydvae_retries", "Requests to storage that were made again", step, so_far - self.told)
        self.told = so_far


retries = Retries()


def _count(name: str, description: str, step: str, value: int) -> None:
    if value:  # Ray refuses a step of 0
        _counter(name, description).inc(value, tags={"step": step})


@functools.cache
def _counter(name: str, description: str) -> Counter:
    return Counter(name, description, tag_keys=("step",))


@functools.cache
def _seconds() -> Histogram:
    return Histogram(
        "raydvae_unit_seconds", "Seconds of one stage on one unit", boundaries=BOUNDARIES, tag_keys=("step", "stage")
    )
