"""Images/s of D-VAE training and of each pass, against a plain reference of the published layers and loop.

Prints one JSON object. Both take turns on the same cores, each in a process of its own, so that no setting of ours
reaches the reference: what counts is the ratios, of which the median over all turns is given. `matrix_share` is our
part of the rate at which this machine multiplies large float32 matrices, measured in the same run; an image's
operations are counted of our layers, so what the reference computes for nothing does not count.

    python benchmarks/step.py [--preset cifar10] [--width 64] [--size 32] [--seconds 60] [--only train] [--out FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.multiprocessing as mp
from reference import Loop
from torch.utils.flop_counter import FlopCounterMode

from raydvae.config import DVAEConfig, PurifyConfig, RateLossConfig, TrainConfig, preset
from raydvae.data.rows import Rows
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import one_thread
from raydvae.machine import available_cores
from raydvae.models.dvae import DVAE
from raydvae.models.losses import measure, total
from raydvae.purify.inference import Inference
from raydvae.training.checkpoint import save_model
from raydvae.training.feed import ImageSet
from raydvae.training.job import pick_device
from raydvae.training.loop import TrainState, resolve_slices, train
from raydvae.training.tasks import VAETask

SGEMM = 2048
PASSES = ("pass1", "pass3")
Speeds = dict[str, list[float]]


class Done(Exception):
    """There is no time for another turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar10")
    parser.add_argument("--width", type=int, default=0, help="channels of the first convolution; default the preset's")
    parser.add_argument("--size", type=int, default=0, help="height and width of the images; default the preset's")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=0, help="of a turn in training; default 2, on a GPU 40")
    parser.add_argument("--seconds", type=float, default=60, help="about as long turns are taken")
    parser.add_argument("--only", choices=("train", "passes"), default="")
    parser.add_argument("--out", default="", help="write the JSON here too")
    args = parser.parse_args()
    config = shaped(preset(args.preset), args.width, args.size)
    device, cores = pick_device(), available_cores()
    steps = args.steps or (40 if device.type == "cuda" else 2)
    bench = Bench(config, device, cores, args.batch, steps)
    share = {"train": 0.6, "passes": 0.4} if not args.only else {args.only: 1.0}
    speeds: Speeds = {}
    with bench:
        if "train" in share:
            bench.training(speeds, share["train"] * args.seconds)
        if "passes" in share:
            bench.passes(speeds, share["passes"] * args.seconds)
    torch.set_num_threads(cores)
    result = summary(speeds, bench.operations(), matrix_rate(device)) | {
        "preset": args.preset,
        "width": config.stage1.model.width,
        "size": config.image_size,
        "batch": args.batch,
        "cores": cores,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


def shaped(config: PurifyConfig, width: int, size: int) -> PurifyConfig:
    def stage(part: Any) -> Any:
        model = part.model
        model = dataclasses.replace(
            model, width=width or model.width, image_size=size or model.image_size, downsampling=0.5
        )
        return dataclasses.replace(part, model=model)

    return dataclasses.replace(config, stage1=stage(config.stage1), stage2=stage(config.stage2))


class Bench:
    """Both sides, on the same random images."""

    def __init__(self, config: PurifyConfig, device: torch.device, cores: int, batch: int, steps: int) -> None:
        self.config, self.device, self.cores, self.batch, self.steps = config, device, cores, batch, steps
        self.model: DVAEConfig = config.stage1.model
        self.data = some_images(self.model, steps * batch)
        self.rows = rows_of(self.data.images.permute(0, 2, 3, 1).contiguous().numpy(), self.data.labels.numpy())

    def training(self, speeds: Speeds, seconds: float) -> None:
        """Train ours an epoch a turn, and the reference between two epochs; both warm up first."""
        until = time.monotonic() + seconds
        config = TrainConfig(epochs=1_000_000, batch_size=self.batch)
        config = dataclasses.replace(config, slices=resolve_slices(config, 1, self.device))

        def turn(_: TrainState, metrics: dict[str, float]) -> None:
            if metrics["epoch"]:
                note(speeds, "train", metrics["images_per_second"])
            if metrics["epoch"] > 2 and time.monotonic() > until:
                raise Done
            note(speeds, "train_reference", self.reference("train"))

        self.reference("train")
        try:
            task = VAETask(self.model, RateLossConfig())
            train(task, self.data, config, seed=0, device=self.device, threads=self.cores, on_epoch=turn)
        except Done:
            pass

    def passes(self, speeds: Speeds, seconds: float) -> None:
        """Do the rows as a unit by ours, and in batches by the reference."""
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            save_model(store, TrainState(1, DVAE(self.model).state_dict(), {}), {"task": "benchmark"})
            inference = Inference.load(store, self.model, self.config, self.device)
        ours: dict[str, Callable[[], Any]] = {
            "pass1": lambda: inference.subtracted(self.rows),
            "pass3": lambda: inference.purified(self.rows),
        }
        until = time.monotonic() + seconds
        turns = 0
        while turns < 3 or time.monotonic() < until:
            for name in PASSES:
                with one_thread(self.device, self.cores):
                    speed = timed(ours[name], len(self.data), self.device)
                plain = self.reference(name)
                if turns:  # the first warms up
                    note(speeds, name, speed)
                    note(speeds, f"{name}_reference", plain)
            turns += 1

    def __enter__(self) -> Bench:
        """Start the reference."""
        self.pipe, theirs = mp.Pipe()
        args = (theirs, self.model, self.device, self.cores, self.batch, len(self.data))
        self.process = mp.get_context("spawn").Process(target=serve, args=args, daemon=True)
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.send("")
        self.process.join()

    def reference(self, name: str) -> float:
        """Let the reference take its turn and return its images/s."""
        self.pipe.send(name)
        speed: float = self.pipe.recv()
        return speed

    def operations(self) -> dict[str, float]:
        """Return the floating-point operations of an image in each kind of work, of our layers."""
        model = DVAE(self.model)
        x, y = torch.rand(2, 3, self.config.image_size, self.config.image_size), torch.zeros(2, dtype=torch.int64)
        noise = torch.zeros(model.latent_shape(2))
        loss = RateLossConfig()

        def step() -> None:
            parts = measure(x, model(x, y, noise))
            total(parts, parts, loss, 0).backward()

        def second() -> None:
            model.estimate_perturbation(x, y, noise)
            model.reconstruct(x, noise)

        return {
            "train": counted(step) / 2,
            "pass1": counted(lambda: model.estimate_perturbation(x, y, noise)) / 2,
            "pass3": counted(second) / 2,
        }


def serve(pipe: Connection, model: DVAEConfig, device: torch.device, cores: int, batch: int, rows: int) -> None:
    """Be the reference: take turns as they are asked for, with torch's own settings."""
    torch.set_num_threads(cores)
    loop = Loop(model, device, batch)
    data = some_images(model, rows)
    images = data.images.contiguous()
    work = {"train": loop.epoch, "pass1": loop.pass1, "pass3": loop.pass3}
    while name := pipe.recv():
        pipe.send(timed(lambda name=name: work[name](images, data.labels), rows, device))


def some_images(model: DVAEConfig, rows: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, model.image_size, model.image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images.permute(0, 3, 1, 2), torch.randint(0, model.num_classes, (rows,), generator=generator))


def timed(work: Callable[[], Any], rows: int, device: torch.device) -> float:
    """Return the images/s of ``work`` on ``rows`` images."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return rows / (time.perf_counter() - started)


def counted(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def rows_of(images: np.ndarray, labels: np.ndarray) -> Rows:
    unit = Unit("benchmark", "benchmark", 0, len(images), 0, 0, ())
    return Rows(unit, images, labels, np.arange(len(images)), pa.table({}), pa.table({}))


def matrix_rate(device: torch.device) -> float:
    """Return the operations a second of a large float32 matrix product, the best of some."""
    a, b = torch.rand(SGEMM, SGEMM, device=device), torch.rand(SGEMM, SGEMM, device=device)
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * SGEMM**3 / best


def note(speeds: Speeds, name: str, value: float) -> None:
    speeds.setdefault(name, []).append(value)


def summary(speeds: Speeds, operations: dict[str, float], rate: float) -> dict[str, Any]:
    """Return ratios, images/s and shares. A pass ratio of both is that of the time a whole data set takes."""
    result: dict[str, Any] = {}
    names = [name for name in ("train", *PASSES) if name in speeds]
    for name in names:
        pairs = zip(speeds[name], speeds[f"{name}_reference"], strict=False)
        result[f"{name}_ratio"] = round(statistics.median(a / b for a, b in pairs), 2)
    if "pass1" in names:
        took = {kind: sum(1 / statistics.median(speeds[n + kind]) for n in PASSES) for kind in ("", "_reference")}
        result["pass_ratio"] = round(took["_reference"] / took[""], 2)
    result["images_per_second"] = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    result["ratios"] = {
        name: [round(a / b, 2) for a, b in zip(speeds[name], speeds[f"{name}_reference"], strict=False)]
        for name in names
    }
    result["gflop_an_image"] = {name: round(operations[name] / 1e9, 3) for name in names}
    result["matrix_gflops"] = round(rate / 1e9, 1)
    result["matrix_share"] = {
        name: round(statistics.median(speeds[name]) * operations[name] / rate, 3) for name in names
    }
    return result


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
