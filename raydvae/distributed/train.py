"""A training on several workers: Ray Train places them, restarts them, and joins them in a process group."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from raydvae.distributed.feed import read_windows
from raydvae.errors import RaydvaeError
from raydvae.training.group import Alone, Distributed
from raydvae.training.job import Progress, TrainJob, run_job

FOLLOW_INTERVAL = 2.0
MAX_FAILURES = 3
CONTROLLER_FAILURES = 3  # Ray's default retries resources that can never be had for ever


def train(job: TrainJob, workers: tuple[int, int], use_gpu: bool, cores: int, progress: Progress | None = None) -> None:
    """Run ``job`` on at least and at most so many Ray Train workers of ``cores`` cores each.

    It goes on after worker failures; with fewer workers if there may be fewer, growing back when it can.

    The state lies with the job, saved by rank 0 after each epoch, and not in Ray's checkpoints: a report there is not
    durable until the controller has polled it, and one format serves in-process runs too.
    """
    folder = job.store.sub("ray")
    scaling = ScalingConfig(
        num_workers=workers if workers[0] < workers[1] else workers[1],
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cores} | ({"GPU": 1} if use_gpu else {}),
    )
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job, "cores": cores},
        scaling_config=scaling,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            name=f"{job.name}-{uuid.uuid4().hex[:8]}",
            storage_path=folder.path(),
            storage_filesystem=_filesystem(folder),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=CONTROLLER_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with _following(job, progress):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from None
    finally:
        folder.delete("")


def train_alone(job: TrainJob, use_gpu: bool, cores: int, progress: Progress | None = None) -> None:
    """Run ``job`` as one task of ``cores`` cores: the same as one Ray Train worker, which takes a minute to start."""
    task = ray.remote(num_cpus=cores, num_gpus=1 if use_gpu else 0, max_retries=MAX_FAILURES)(_alone)
    try:
        with _following(job, progress):
            ray.get(task.remote(job, use_gpu, cores))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, RaydvaeError) else RaydvaeError(f"Training failed: {error}.") from None
    except ray.exceptions.RayError as error:
        raise RaydvaeError(
            f"Training failed on the cluster after {MAX_FAILURES} retries: {error}. Run it again to go on."
        ) from None


def _alone(job: TrainJob, use_gpu: bool, cores: int) -> None:
    run_job(job, torch.device("cuda" if use_gpu else "cpu"), cores, reader=read_windows)


def _loop(config: dict[str, Any]) -> None:
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    group = Distributed() if context.get_world_size() > 1 else Alone()
    device = ray.train.torch.get_device()
    assert isinstance(device, torch.device)
    # Nothing is reported to Ray Train: metrics are followed on storage, and a report would be a barrier and a log line.
    run_job(job, device, int(config["cores"]), group, reader=read_windows)


@contextmanager
def _following(job: TrainJob, progress: Progress | None) -> Iterator[None]:
    """Pass each epoch's metrics to ``progress`` as they appear on storage, from a thread."""
    stop = threading.Event()

    def follow() -> None:
        seen, last = len(job.metrics()), False
        while not last:
            last = stop.wait(FOLLOW_INTERVAL)  # after the end, one more look
            with suppress(RaydvaeError):
                lines = job.metrics()
                for line in lines[seen:]:
                    assert progress is not None
                    progress(line)
                seen = max(seen, len(lines))

    thread = threading.Thread(target=follow, daemon=True)
    if progress is not None:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if progress is not None:
            thread.join()


def _filesystem(store: Any) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.LocalFileSystem() if store.is_local else PyFileSystem(FSSpecHandler(store.fs))


def _cause(error: BaseException) -> Exception:
    """Return our own error if a worker raised one, else one that names what Ray saw."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        seen: BaseException | None = failure
        while seen is not None:
            if isinstance(seen, RaydvaeError):
                return seen
            seen = getattr(seen, "cause", None) or seen.__cause__
    return RaydvaeError(f"Training failed on the cluster after {MAX_FAILURES} retries: {error}. Run it again to go on.")
