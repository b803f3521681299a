"""One Ray session: the cluster that is named, or one of our own on loopback for as long as the command runs.

`raydvae.distributed.environment.prepare` must have been called before this module is imported.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data

from raydvae.engine import available_cores
from raydvae.errors import ConfigError, RaydvaeError

IO_CORES = 2  # logical cores of our own cluster for reading and committing beside the workers


@contextmanager
def session(workers: int, address: str | None = None) -> Iterator[None]:
    """Be connected to Ray: to ``address``, to the job's own cluster, or to a new one on this machine.

    Raises `ConfigError` when the cluster cannot be reached and `RaydvaeError` when a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
    _start(address or os.environ.get("RAY_ADDRESS"), workers)
    _quiet()
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str | None, workers: int) -> None:
    if address:
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        except Exception as error:
            raise ConfigError(
                f"No Ray cluster answers at {address}: {error}. Check the address and that the cluster runs."
            ) from None
        return
    # Raylet and agents start slowly on small machines and sometimes miss Ray's fixed deadline; a second try helps.
    for attempt in (1, 2):
        try:
            ray.init(
                address="local",  # without it Ray joins the cluster last started on this machine, even a dead one
                num_cpus=max(available_cores(), workers) + IO_CORES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == 2:
                raise RaydvaeError(
                    f"Ray did not start on this machine: {error}. "
                    f"Is there memory left, and room in {tempfile.gettempdir()}?"
                ) from None


def _quiet() -> None:
    context = ray.data.DataContext.get_current()
    # After that import, which sets the levels itself. Failures reach the user as exceptions.
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
