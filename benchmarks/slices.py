"""Training speed on a CPU: a slice of the batch a thread, against threads inside of each operator.

Prints one JSON object: images/s of both ways, measured in turns in one run, and their ratio.

    python benchmarks/slices.py [--width 64] [--batch 128] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch

from raydvae.config import DVAEConfig, RateLossConfig, TrainConfig
from raydvae.machine import available_cores
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train
from raydvae.training.tasks import VAETask

STEPS = 6


def speed(task: VAETask, data: ImageSet, config: TrainConfig, cores: int) -> float:
    history = train(task, data, config, seed=0, threads=cores).history
    return history[-1]["images_per_second"]  # the first epoch warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = available_cores()
    generator = torch.Generator().manual_seed(0)
    rows = STEPS * args.batch
    images = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator)
    data = ImageSet(images, torch.randint(0, 10, (rows,), generator=generator))
    task = VAETask(DVAEConfig(width=args.width), RateLossConfig())
    ways = {
        "slices": TrainConfig(epochs=2, batch_size=args.batch, slices=4),
        "operators": TrainConfig(epochs=2, batch_size=args.batch, batch_stats="global"),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, config in ways.items():
            measured[name].append(speed(task, data, config, cores))
    result = {name: round(statistics.median(values), 1) for name, values in measured.items()}
    ratio = result["slices"] / result["operators"]
    print(json.dumps({**result, "ratio": round(ratio, 2), "cores": cores, "width": args.width, "batch": args.batch}))


if __name__ == "__main__":
    main()
