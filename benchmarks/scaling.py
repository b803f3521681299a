"""Weak scaling of passes and training from one to two workers, and a cost model that reaches further.

Prints one JSON object. Each worker has one core, one thread and the same number of rows: efficiency is images/s with
two workers over twice that of one. The machine's own ceiling is measured the same way, with two processes that know
nothing of each other; what they lose (memory bandwidth, turbo) no framework gets back.

    python benchmarks/scaling.py [--width 64] [--rows 4096] [--rounds 1] [--data FOLDER]

FOLDER holds photographs: the model's costs at 224 px are measured on them (default: digits, enlarged; they compress far
better, so bytes and encoding are then too small).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streaming
import torch
import torch.distributed as dist

from raydvae.config import DVAEConfig, RateLossConfig, TrainConfig, imagenet100
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import InProcess, one_thread
from raydvae.models.dvae import DVAE
from raydvae.training.group import Distributed
from raydvae.training.job import TrainJob
from raydvae.training.tasks import VAETask

UNIT_ROWS = 256
BATCH = 64  # a worker, in training
SLICES = 2  # a worker
EPOCHS = 2  # the first warms up
STEPS = 8  # an epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16 * UNIT_ROWS, help="of the passes, for each worker")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", default="")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # what the fresh processes do
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        work = {
            "pass": ray_pass,
            "pass-alone": pass_alone,
            "train": training,
            "driver": driver,
            "exchange": exchange,
            "large": large,
        }
        print(json.dumps(work[args.one](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        streaming.write_shards(Path(folder, "pass-1"), args.rows, UNIT_ROWS, "")
        streaming.write_shards(Path(folder, "pass-2"), 2 * args.rows, UNIT_ROWS, "")
        streaming.write_shards(Path(folder, "train-1"), STEPS * BATCH, UNIT_ROWS, "")
        streaming.write_shards(Path(folder, "train-2"), 2 * STEPS * BATCH, UNIT_ROWS, "")
        streaming.write_shards(Path(folder, "large"), 32, 16, args.data)
        result = weak_scaling(folder, args.width, args.rounds)
        result["driver"] = run("driver", folder, {0, 1}, 1, args.width)
        result["at_224_px"] = run("large", folder, {0}, 1, args.width)
    result["reach"] = reach(Costs.measured(result))
    result["load"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))


def weak_scaling(folder: str, width: int, rounds: int) -> dict[str, Any]:
    """Measure both kinds of work at one and two workers, in turns, and predict the second from the first."""

    def median(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        made = [measure() for _ in range(rounds)]
        return sorted(made, key=lambda one: one["images_per_second"])[len(made) // 2]

    out: dict[str, Any] = {"width": width}
    alone = median(lambda: run("pass-alone", folder, {0}, 1, width))
    pair = median(lambda: two_at_once("pass-alone", folder, width))
    one = median(lambda: run("pass", folder, {0}, 1, width))
    two = median(lambda: run("pass", folder, {0, 1}, 2, width))
    ceiling = pair["images_per_second"] / (2 * alone["images_per_second"])
    predicted = 2 * one["images_per_second"] * ceiling
    out["passes"] = told(one, two, ceiling, predicted) | {"alone": alone}
    alone = one = median(lambda: run("train", folder, {0}, 1, width))  # one worker trains in its own process
    pair = median(lambda: two_at_once("train", folder, width))
    two = median(lambda: run("train", folder, {0, 1}, 2, width))
    traffic = two_at_once("exchange", folder, width)
    ceiling = pair["images_per_second"] / (2 * alone["images_per_second"])
    step = BATCH / (one["images_per_second"] * ceiling) + traffic["exchange_seconds"]
    out["training"] = told(one, two, ceiling, 2 * BATCH / step) | {"exchange": traffic}
    return out


def told(one: dict[str, Any], two: dict[str, Any], ceiling: float, predicted: float) -> dict[str, Any]:
    measured = two["images_per_second"]
    efficiency = measured / (2 * one["images_per_second"])
    return {
        "one": one,
        "two": two,
        "efficiency": round(efficiency, 3),
        "machine_ceiling": round(ceiling, 3),
        "efficiency_of_ceiling": round(efficiency / ceiling, 3),
        "predicted_images_per_second": round(predicted, 1),
        "prediction_error": round(predicted / measured - 1, 3),
    }


def run(what: str, folder: str, cores: set[int], workers: int, width: int) -> dict[str, Any]:
    return finished(start(what, folder, cores, workers, width))


def start(what: str, folder: str, cores: set[int], workers: int, width: int, **more: str) -> subprocess.Popen[str]:
    options = ["--one", what, "--folder", folder, "--workers", str(workers), "--width", str(width)]
    return subprocess.Popen(
        [sys.executable, __file__, *options],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        env=os.environ | {"OMP_NUM_THREADS": "1"} | more,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"A measurement failed with exit code {process.returncode}.")
    value: dict[str, Any] = json.loads(text)
    return value


def two_at_once(what: str, folder: str, width: int) -> dict[str, Any]:
    """Run two processes of one core each, which begin their timed part together."""
    meeting = tempfile.mkdtemp(dir=folder)
    processes = [start(what, folder, {rank}, 1, width, MEETING=meeting, RANK=str(rank)) for rank in (0, 1)]
    made = [finished(process) for process in processes]
    return made[0] | {"images_per_second": round(sum(one.get("images_per_second", 0.0) for one in made), 2)}


def meet() -> None:
    """Wait for the other process, if there is one."""
    folder = os.environ.get("MEETING")
    if folder:
        Path(folder, os.environ["RANK"]).touch()
        while len(list(Path(folder).glob("[01]"))) < 2:
            time.sleep(0.01)


def ray_pass(args: argparse.Namespace) -> dict[str, Any]:
    """Pass 1 as a Ray stream."""
    with tempfile.TemporaryDirectory() as folder, RayEngine(args.workers) as engine:
        work = streaming.make_pass(folder, 32, UNIT_ROWS, args.width, f"{args.folder}/pass-{args.workers}")
        engine.connect()
        turn = streaming.ray_turn(work, engine)
    return {"images_per_second": round(turn.images_per_second, 2), "start_up_seconds": round(turn.start_up, 1)}


def driver(args: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of this process a unit, when units are so small that handling them is all there is to do."""
    with tempfile.TemporaryDirectory() as folder, RayEngine(args.workers) as engine:
        work = streaming.make_pass(folder, 32, UNIT_ROWS // 16, 2, f"{args.folder}/pass-1")
        units = work.data.units()
        used = [driver_seconds() for _ in engine.map(work, units)]
        warm = len(used) // 4
    seconds = (used[-1] - used[warm]) / (len(used) - warm - 1)
    return {"driver_seconds_a_unit": round(seconds, 4), "units": len(units)}


def driver_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pass_alone(args: argparse.Namespace, size: int = 32) -> dict[str, Any]:
    """The same pass in this process, one part after the other: seconds and bytes an image of each part."""
    shards = f"{args.folder}/pass-1" if size == 32 else f"{args.folder}/large"
    with tempfile.TemporaryDirectory() as folder:
        work = streaming.make_pass(folder, size, UNIT_ROWS if size == 32 else 16, args.width, shards)
        seconds = dict.fromkeys(("read", "compute", "commit"), 0.0)
        written = rows = 0
        engine = InProcess()
        work.load(engine.device)
        units = work.data.units()
        with one_thread(engine.device):
            work.compute(work.read(units[0]))  # warms up
            meet()
            started = time.perf_counter()
            for unit in units:
                times = [time.perf_counter()]
                decoded = work.read(unit)
                times.append(time.perf_counter())
                result = work.compute(decoded)
                times.append(time.perf_counter())
                record = work.commit(decoded, result)
                times.append(time.perf_counter())
                for name, (a, b) in zip(seconds, itertools.pairwise(times), strict=True):
                    seconds[name] += b - a
                rows, written = rows + record["rows_out"], written + record["bytes"]
            elapsed = time.perf_counter() - started
        read = sum(file.size for file in work.data.files)
    return {
        "images_per_second": round(rows / elapsed, 2),
        "seconds_an_image": {name: round(value / rows, 6) for name, value in seconds.items()},
        "bytes_an_image": {"read": read // rows, "written": written // rows},
    }


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Train the D-VAE of the preset's shape; images/s of the last epoch, which tells nothing of the start."""
    with tempfile.TemporaryDirectory() as folder, RayEngine(args.workers) as engine:
        config = streaming.shaped(streaming.preset("cifar10"), UNIT_ROWS, args.width)
        data = open_dataset(f"{args.folder}/train-{args.workers}", config.data)
        train = TrainConfig(epochs=EPOCHS, batch_size=BATCH * args.workers, slices=SLICES * args.workers)
        job = TrainJob(
            name="benchmark",
            task=VAETask(config.stage1.model, RateLossConfig()),
            data=data,
            classes=find_classes(data),
            image_size=32,
            config=train,
            seed=0,
            store=Store(folder),
        )
        started = time.monotonic()
        meet()
        engine.train(job)
        took = time.monotonic() - started
        speed = job.history()[-1]["images_per_second"]
        steps = EPOCHS * STEPS * BATCH * args.workers
    return {"images_per_second": round(speed, 2), "start_up_seconds": round(took - steps / speed, 1)}


def exchange(args: argparse.Namespace) -> dict[str, Any]:
    """Time what two workers exchange in a step, without the computing: gradients and batch statistics."""
    model = DVAE(DVAEConfig(width=args.width))
    numbers = sum(p.numel() for p in model.parameters()) + sum(
        b.numel() for b in model.buffers() if b.is_floating_point()
    )
    meeting, rank = os.environ["MEETING"], int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{meeting}/group", rank=rank, world_size=2)
    group, rows, times = Distributed(), torch.ones(SLICES, numbers), []
    group.mine(2 * SLICES)  # says how many slices each worker has
    for _ in range(8):
        dist.barrier()
        started = time.perf_counter()
        group.mean(rows)
        times.append(time.perf_counter() - started)
    dist.destroy_process_group()
    seconds = statistics.median(times)
    moved = 4 * numbers * (SLICES + 1) // 2  # a worker sends half of each slice's row, then half of the mean
    return {
        "exchange_seconds": round(seconds, 4),
        "numbers": numbers,
        "bytes_sent": moved,
        "mib_per_second": round(moved / seconds / 2**20, 1),
    }


def large(args: argparse.Namespace) -> dict[str, Any]:
    """Costs at 224 px: reading and committing as above, computing as operations that a GPU would do."""
    from torch.utils.flop_counter import FlopCounterMode

    args.width = 8  # of the pass that is timed: only its reading and committing count
    measured = pass_alone(args, 224)
    config = imagenet100()
    flops = {}
    x, y = torch.zeros(1, 3, 224, 224), torch.zeros(1, dtype=torch.int64)
    for name, stage in (("pass1", config.stage1), ("pass3", config.stage2)):
        model = DVAE(stage.model).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if name == "pass3":  # passes 2 and 3
                model.reconstruct(x, None)
            model.estimate_perturbation(x, y, None)
        flops[name] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x, y, None)
        flops[f"train_{name}"] = 3 * counter.get_total_flops()  # backward is twice forward
    numbers = max(sum(p.numel() for p in DVAE(s.model).parameters()) for s in (config.stage1, config.stage2))
    del measured["images_per_second"], measured["seconds_an_image"]["compute"]
    return measured | {"flops_an_image": flops, "numbers": numbers}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What an image and a unit cost. The upper part is measured here, the lower is assumed, and said to be.

    The machines: 8 GPUs, 192 cores and 400 Gbit/s each. A GPU does 30 % of 989 TFLOP/s (bf16, dense). An object store
    gives 5500 reads and 3500 writes a second a prefix, which it splits as load grows; 4 prefixes here.
    """

    read_seconds: float
    commit_seconds: float
    read_bytes: float
    written_bytes: float
    flops: dict[str, float]
    numbers: int
    driver_seconds_a_unit: float

    unit_rows: int = 256
    gpu_flops: float = 0.3 * 989e12
    cores_a_gpu: float = 24.0
    gpus_a_node: int = 8
    node_bytes: float = 400e9 / 8
    reads: float = 4 * 5500.0
    writes: float = 4 * 3500.0
    read_request_bytes: float = 5 * 2**20  # what one request of the file system reads at once
    list_seconds: float = 0.1  # of a request for 1000 names
    start_seconds: float = 120.0
    batch: int = 128  # a GPU
    epochs: int = 20

    @classmethod
    def measured(cls, result: dict[str, Any]) -> Costs:
        """Take the upper part from the measurements."""
        at = result["at_224_px"]
        return cls(
            read_seconds=at["seconds_an_image"]["read"],
            commit_seconds=at["seconds_an_image"]["commit"],
            read_bytes=at["bytes_an_image"]["read"],
            written_bytes=at["bytes_an_image"]["written"],
            flops=at["flops_an_image"],
            numbers=at["numbers"],
            driver_seconds_a_unit=result["driver"]["driver_seconds_a_unit"],
        )

    def passes(self, gpus: int) -> dict[str, float]:
        """Images a second that each resource allows in pass 1; the least is what the stream does."""
        moved = self.read_bytes + self.written_bytes
        requests = -(-self.unit_rows * self.read_bytes // self.read_request_bytes) + 2  # footer, and the file's size
        return {
            "gpu": gpus * self.gpu_flops / self.flops["pass1"],
            "cpu (decode, PNG)": gpus * self.cores_a_gpu / (self.read_seconds + self.commit_seconds),
            "network": gpus / self.gpus_a_node * self.node_bytes / moved,
            "store reads": self.reads * self.unit_rows / requests,
            "store writes": self.writes * self.unit_rows / 2,  # the file and its commit record
            "driver": self.unit_rows / self.driver_seconds_a_unit,
        }

    def step_seconds(self, gpus: int) -> tuple[float, float]:
        """Return the computing and the exchange of one training step, which do not overlap."""
        compute = self.batch * max(self.flops["train_pass1"], self.flops["train_pass3"]) / self.gpu_flops
        sent = 4 * self.numbers * 2 * (gpus - 1) / gpus  # one slice a worker: a ring all-reduce's traffic
        share = self.node_bytes / self.gpus_a_node
        return compute, sent / share

    def listing_seconds(self, images: float) -> float:
        """Seconds of listing the commit records when a run is gone on with."""
        return images / self.unit_rows / 1000 * self.list_seconds


def reach(costs: Costs) -> list[dict[str, Any]]:
    """Say for three clusters and two data sets how long it takes, and what saturates first."""
    rows = []
    for images in (1_281_167, 10**9):
        for gpus in (8, 64, 512):
            speeds = costs.passes(gpus)
            order = sorted(speeds, key=lambda name: speeds[name])
            speed = speeds[order[0]]
            compute, traffic = costs.step_seconds(gpus)
            epoch = images / (gpus * costs.batch) * (compute + traffic)
            rows.append(
                {
                    "images": images,
                    "gpus": gpus,
                    "pass_images_per_second": round(speed),
                    "saturates_first": order[0],
                    "then": {name: round(speeds[name]) for name in order[1:3]},
                    "pass_hours": round((images / speed + costs.start_seconds) / 3600, 2),
                    "training_efficiency": round(compute / (compute + traffic), 3),
                    "stage_hours": round((costs.epochs * epoch + costs.start_seconds) / 3600, 1),
                    # Rows a unit from which the driver would no longer be the limit:
                    "unit_rows_for_driver": math.ceil(
                        min(v for k, v in speeds.items() if k != "driver") * costs.driver_seconds_a_unit
                    ),
                    "listing_seconds": round(costs.listing_seconds(images), 1),
                }
            )
    return rows


if __name__ == "__main__":
    main()
