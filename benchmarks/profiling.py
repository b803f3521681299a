"""The top operations of a D-VAE training step, of a pass, or of a classifier's step, by torch's profiler.

Prints one JSON object: seconds, calls and share of each operation's own time. One core, so that times add up.

    python benchmarks/profiling.py [train|pass1|pass3|classifier] [--width 64] [--batch 128] [--top 20]

(Not profile.py: a script's folder comes first on Python's path, and the standard library has a module of that name.)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

import step
import torch
from torch.profiler import ProfilerActivity, profile

from raydvae.config import RateLossConfig, TrainConfig, preset
from raydvae.data.store import Store
from raydvae.engine import one_thread
from raydvae.models.dvae import DVAE
from raydvae.purify.inference import Inference
from raydvae.training.checkpoint import save_model
from raydvae.training.job import pick_device
from raydvae.training.loop import Task, TrainState, resolve_slices, train
from raydvae.training.tasks import ClassifierTask, VAETask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="train", choices=("train", "pass1", "pass3", "classifier"))
    parser.add_argument("--preset", default="cifar10")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", default="resnet18", help="of the classifier")
    parser.add_argument("--top", type=int, default=20)
    args = parser.parse_args()
    config = step.shaped(preset(args.preset), args.width, args.size)
    device = pick_device()
    bench = step.Bench(config, device, 1, args.batch, args.steps)
    torch.set_num_threads(1)
    if args.what in ("pass1", "pass3"):
        with tempfile.TemporaryDirectory() as folder:
            save_model(Store(folder), TrainState(1, DVAE(bench.model).state_dict(), {}), {"task": "benchmark"})
            inference = Inference.load(Store(folder), bench.model, config, device)
        work = inference.subtracted if args.what == "pass1" else inference.purified
        with one_thread(device):
            work(bench.rows)
            found = profiled(lambda: work(bench.rows), device)
    else:
        task: Task = VAETask(bench.model, RateLossConfig())
        train_config = TrainConfig(epochs=2, batch_size=args.batch)
        if args.what == "classifier":
            task = ClassifierTask(args.model, config.num_classes)
            train_config = TrainConfig(epochs=2, batch_size=args.batch, optimizer="sgd", lr=0.1, weight_decay=5e-4)
        found = second_epoch(task, bench, train_config, device)
    events = sorted(found, key=lambda event: -own(event, device))
    whole = sum(own(event, device) for event in events)
    table = [
        {
            "operation": event.key,
            "milliseconds": round(own(event, device) / 1000, 1),
            "share": round(own(event, device) / whole, 3),
            "calls": event.count,
        }
        for event in events[: args.top]
    ]
    print(
        json.dumps(
            {"what": args.what, "images": len(bench.data), "seconds": whole / 1e6, "operations": table}, indent=1
        )
    )


def second_epoch(task: Task, bench: step.Bench, config: TrainConfig, device: torch.device) -> list[Any]:
    """Train two epochs, and profile the one that does not start up."""
    import dataclasses

    config = dataclasses.replace(config, slices=resolve_slices(config, 1, device))
    profiler = profile(activities=activities(device))

    def begin(state: TrainState, _: dict[str, float]) -> None:
        if state.epoch == 1:
            profiler.start()

    train(task, bench.data, config, seed=0, device=device, threads=1, on_epoch=begin)
    profiler.stop()
    return list(profiler.key_averages())


def profiled(work: Callable[[], Any], device: torch.device) -> list[Any]:
    with profile(activities=activities(device)) as profiler:
        work()
    return list(profiler.key_averages())


def activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])


def own(event: Any, device: torch.device) -> float:
    """Return microseconds."""
    return float(event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total)


if __name__ == "__main__":
    main()
