"""Trials of a tuning on a Ray cluster, some at a time: a thin shell of Ray Tune around `raydvae.tuning`.

Our own records on storage are the truth that a killed tuning goes on from. Tune's experiment state is pickle and stays
in a folder of this machine that is deleted at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
import ray.tune
import torch
from ray.tune.search import Searcher

from raydvae.distributed.engine import RayEngine
from raydvae.distributed.environment import IO_CORES
from raydvae.distributed.train import train as train_on_workers
from raydvae.engine import Watch
from raydvae.errors import ConfigError, RaydvaeError
from raydvae.training.job import TrainJob, run_job
from raydvae.tuning.experiment import replay
from raydvae.tuning.search import Search
from raydvae.tuning.strategies import restore
from raydvae.tuning.trial import Trials

LEAST = 0.1  # cores of a trial that only waits for its own Train workers
METRIC = "psnr"


class RayTrials:
    """Searches as Ray Tune experiments of up to ``concurrency`` trials at once.

    A trial has its share of the cores and GPUs that are there, and computes with as many threads. With more than one
    worker a trial is a Ray Train run of its own, and its share is divided among those.
    """

    def __init__(self, engine: RayEngine, concurrency: int) -> None:
        self.engine, self.concurrency = engine, concurrency
        engine.connect()
        self.share(concurrency)  # says now if it cannot be had

    def share(self, trials: int) -> tuple[int, float]:
        """Return the cores and GPUs of one of so many trials at once; with several workers, of one of its workers.

        No more cores than a node has, since a worker lives on one. Raises `ConfigError` where that is none.
        """
        there = self.engine.resources()
        workers = self.engine.workers
        cores = there.cpus - (IO_CORES if self.engine.address is None else workers > 1)
        largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        mine = int(min(cores // (trials * workers), largest))
        if self.engine.device.type == "cuda":
            return max(1, mine), min(1.0, there.gpus / trials) if workers == 1 else 1.0
        if mine < 1:
            raise ConfigError(
                f"{trials} trials of {workers} workers at once need {trials * workers} cores, and {there.where} has "
                f"{cores:g} to compute on. Give a smaller --concurrency or fewer --workers."
            )
        return mine, 0.0

    def search(self, search: Search, trials: Trials, watch: Watch) -> None:
        """See `raydvae.tuning.experiment.Runner`."""
        if not replay(search, trials):
            return
        at_once = min(self.concurrency, search.width)
        cores, gpus = self.share(at_once)
        cores = min(cores, trials.stage.train.slices)  # a slice is computed by one thread
        workers = self.engine.workers
        asked = {"cpu": LEAST} if workers > 1 else {"cpu": cores, "gpu": gpus}
        on_gpu = self.engine.device.type == "cuda"

        def trial(config: dict[str, Any]) -> None:
            ray.tune.report(_run(trials, config["kld"], workers, cores, on_gpu))

        with (
            tempfile.TemporaryDirectory() as folder,
            watch.step(f"{trials.name} trials", search.trials, "trials") as advance,
        ):
            searcher = KLDSearcher(search, trials, advance)
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trial, asked),
                tune_config=ray.tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=at_once,
                    reuse_actors=True,  # a process takes seconds to start
                ),
                run_config=ray.tune.RunConfig(name=trials.name, storage_path=folder, verbose=0),
            )
            with _quiet():
                results = tuner.fit()
        for error in results.errors:
            raise _cause(error)
        if replay(search, trials):
            raise RaydvaeError(f"Ray Tune ended with trials of {trials.name} undone. Run the same command to go on.")


class KLDSearcher(Searcher):  # type: ignore[misc]
    """A `Search` as Ray Tune asks for it; its state on disk is the search's JSON, not pickle."""

    def __init__(self, search: Search, trials: Trials, advance: Any = None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.search, self.trials, self.advance = search, trials, advance
        self.running: dict[str, float] = {}
        self.failed = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"advance": None}  # Tune pickles its searchers; progress is of this process

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a target of this round that nobody works on, None while the round ends, or that it is over."""
        if self.failed:
            return str(Searcher.FINISHED)
        left = replay(self.search, self.trials)
        if not left:
            return str(Searcher.FINISHED)
        for kld in left:
            if kld not in self.running.values():
                self.running[trial_id] = kld
                return {"kld": kld}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that a trial ended; its PSNR is read from its record."""
        kld = self.running.pop(trial_id, None)
        self.failed = self.failed or error
        if kld is None or error or not result:
            return
        if self.advance is not None:
            self.advance({"epoch": len(self.search.told), "psnr": result[METRIC], "kld": result["kld"]})
        replay(self.search, self.trials)

    def save(self, checkpoint_path: str) -> None:
        """Write the search's state as JSON."""
        with open(checkpoint_path, "w", encoding="utf-8") as file:
            json.dump(self.search.state(), file)

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote; targets that were being tried are asked for again."""
        with open(checkpoint_path, encoding="utf-8") as file:
            self.search = restore(json.load(file))
        self.running = {}


def _run(trials: Trials, kld: float, workers: int, cores: int, on_gpu: bool) -> dict[str, Any]:
    """Run one trial in this process, or with several workers as a Ray Train run, which is not ended on a plateau."""

    def here(job: TrainJob, progress: Any) -> None:
        run_job(job, torch.device("cuda" if on_gpu else "cpu"), cores, progress=progress)

    def there(job: TrainJob, progress: Any) -> None:
        train_on_workers(job, (workers, workers), on_gpu, cores)

    return trials.run(kld, there if workers > 1 else here)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune from catching SIGINT, since nothing needs saving, and from writing to stdout, which is for results."""
    wanted = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cause(error: BaseException) -> Exception:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaydvaeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return RaydvaeError(f"A trial failed on the cluster: {error}. Run the same command again to go on.")
