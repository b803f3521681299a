"""One Ray session: the cluster that is named, or one of our own on loopback for as long as the command runs.

`raydvae.distributed.environment.prepare` must have been called before this module is imported.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
import torch

from raydvae import stopping
from raydvae.distributed.environment import IO_CORES
from raydvae.engine import Resources
from raydvae.errors import ConfigError, Interrupted, RaydvaeError
from raydvae.machine import available_cores

POLL = 2.0  # seconds between looks at a cluster that is to grow
LONGEST_FOLDER = 24  # characters: a socket's whole path has at most 107, of which Ray and we take 83
CALL_SECONDS = 300.0  # that a small task may take, a worker's start included


@contextmanager
def session(workers: int, address: str | None = None) -> Iterator[None]:
    """Be connected to Ray: to ``address``, to the job's own cluster, or to a new one on this machine.

    Raises `ConfigError` when the cluster cannot be reached and `RaydvaeError` when a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
    with private_folder() as folder:
        _start(address or os.environ.get("RAY_ADDRESS"), workers, folder)
        _quiet()
        try:
            yield
        finally:
            ray.shutdown()


def init(**options: Any) -> None:
    """Call ``ray.init``, which takes SIGTERM for itself, and take it back."""
    try:
        ray.init(**options)
    except SystemExit:  # Ray's own handler, until ours is back
        raise Interrupted from None
    finally:
        stopping.listen_again()


@contextmanager
def private_folder() -> Iterator[str]:
    """Make a folder for the files and sockets of our own cluster, and delete it at the end.

    Ray lets everybody write to its folder (0777): it lies in one that only this user may enter. Raises `ConfigError`
    where no folder can be made.
    """
    where = os.path.abspath(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(where) > LONGEST_FOLDER:
        where = "/tmp"
    try:
        made = tempfile.TemporaryDirectory(prefix="rdv-", dir=where, ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"There can be no folder for Ray's files in {where}: {error.strerror}. Set RAY_TMPDIR to a folder that is "
            f"there and may be written to, of at most {LONGEST_FOLDER} characters."
        ) from None
    with made as folder:
        yield os.path.join(folder, "ray")


def cluster_resources(workers: int = 0, wait: float = 0) -> Resources:
    """Return what the cluster has; let it grow for up to ``wait`` seconds until it has room for ``workers``.

    With GPUs anywhere a worker takes one; without, a core.
    """
    deadline = time.monotonic() + wait
    if wait and workers:
        from ray.autoscaler.sdk import request_resources

        request_resources(num_cpus=workers + 1)
    while True:
        total = ray.cluster_resources()
        found = Resources(
            total.get("CPU", 0),
            total.get("GPU", 0),
            int(total.get("memory", 0)),
            f"the cluster of {len(ray.nodes())} nodes",
        )
        enough = found.gpus >= workers if found.gpus else found.cpus > workers
        if enough or time.monotonic() > deadline:
            return found
        time.sleep(POLL)


def call(work: Callable[..., Any], *args: Any, use_gpu: bool) -> Any:
    """Return ``work(*args, device)`` from a task that has what a worker has."""

    def there(blob: bytes) -> Any:
        work, args = pickle.loads(blob)
        return work(*args, torch.device("cuda" if use_gpu else "cpu"))

    task = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(there)
    try:
        return ray.get(task.remote(pickle.dumps((work, args))), timeout=CALL_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, RaydvaeError) else RaydvaeError(str(error))) from None
    except ray.exceptions.GetTimeoutError:
        raise RaydvaeError(
            f"The cluster has not run one small task within {CALL_SECONDS:.0f} s: all of it is taken, or its nodes do "
            "not answer. Look at `ray status`."
        ) from None


def _start(address: str | None, workers: int, folder: str) -> None:
    if address:
        try:
            init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        except Exception as error:
            raise ConfigError(
                f"No Ray cluster answers at {address}: {error}. Check the address and that the cluster runs."
            ) from None
        return
    # Raylet and agents start slowly on small machines and sometimes miss Ray's fixed deadline; a second try helps.
    for attempt in (1, 2):
        try:
            init(
                address="local",  # without it Ray joins the cluster last started on this machine, even a dead one
                num_cpus=max(available_cores(), workers) + IO_CORES,
                include_dashboard=False,
                _temp_dir=folder,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == 2:
                raise RaydvaeError(
                    f"Ray did not start on this machine: {error}. "
                    f"Is there memory left, and room in {os.path.dirname(os.path.dirname(folder))}?"
                ) from None


def _quiet() -> None:
    context = ray.data.DataContext.get_current()
    # After that import, which sets the levels itself. Failures reach the user as exceptions.
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
