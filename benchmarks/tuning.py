"""Trials that bisection and grid search take for a KLD target inside of its PSNR window; prints JSON, a line a stage.

    python benchmarks/tuning.py                                        # digits at 32 px, poisoned by LSP
    python benchmarks/tuning.py --synthetic 1000
    python benchmarks/tuning.py --data FOLDER --preset cifar10 --width 16 --batch 32 --full-epochs 20

``grid_found`` is the first of the sizes 5, 9, 17 and 33 (up to --grid) whose trials lead to a target inside of the
window. It is told the measured correction from short to full training, which bisection had to estimate. A coarse grid
may hit by luck: ``grid_sure`` is the size whose steps are as narrow as the window is wide on the measured curve, which
cannot miss it. ``times`` are both sizes over the trials that bisection took. With --synthetic, ``grid`` is the
smallest size that happens to hit.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.cli.quickstart import NORM
from raydvae.cli.tune import Tune, trials_on
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.engine import Engine, InProcess, Silent
from raydvae.tuning.experiment import Here, Runner, TuneConfig, Tuned, stage_input, trials_of, tune
from raydvae.tuning.search import LIMITS, Search, monotone, solve
from raydvae.tuning.strategies import build

GRIDS = (5, 9, 17, 33)  # each holds the targets of the one before


def digits(home: Store) -> str:
    """Make poisoned digits, and return where."""
    clean, run = home.sub("clean"), Run(home.sub("poisoned"))
    if not clean.list():
        import_dataset("digits", clean, "digits", split="train", rows_per_shard=500)
    data = open_dataset(clean.uri)
    classes = find_classes(data)
    poison(Recipe(LSPConfig(norm=NORM), 32, classes.count, run.home), data, classes, run, InProcess())
    return run.store.uri


def sure(told: dict[float, float], window: tuple[float, float]) -> int | None:
    """Return the size of a grid whose step is as wide as what lies in the window on the measured curve.

    None where one measurement was enough: it shows no curve.
    """
    klds, psnrs = monotone(told)
    if len(klds) < 2:
        return None
    low = solve(klds, psnrs, window[0]) if psnrs[0] < window[0] else klds[0]
    high = solve(klds, psnrs, window[1]) if psnrs[-1] > window[1] else klds[-1]
    return 1 + math.ceil(math.log(LIMITS[1] / LIMITS[0]) / math.log(high / low))


def synthetic(count: int, window: tuple[float, float]) -> dict[str, object]:
    """Compare both on monotone responses with noise: trials until the curve through them is inside of the window."""
    taken: dict[str, list[int]] = {"bisect 1 at a time": [], "bisect 2 at a time": [], "grid": [], "grid_sure": []}
    for seed in range(count):
        draw = random.Random(seed)
        middle, steepness = draw.uniform(-0.5, 2), draw.uniform(0.5, 1.2)
        noise = [draw.uniform(-0.15, 0.15) for _ in range(1000)]

        def psnr(kld: float, middle: float = middle, steepness: float = steepness, noise: list[float] = noise) -> float:
            return 12 + 24 / (1 + math.exp(-steepness * (math.log(kld) - middle))) + noise[int(kld * 1e6) % len(noise)]

        def run(search: Search, psnr: Callable[[float], float] = psnr) -> bool:
            while asked := search.ask():
                for kld in asked:
                    search.tell(kld, psnr(kld))
            return search.verdict().found

        for width in (1, 2):
            search = build("bisect", window=window, width=width, trials=40)
            assert run(search)
            taken[f"bisect {width} at a time"].append(len(search.told))
        dense = [LIMITS[0] * (LIMITS[1] / LIMITS[0]) ** (n / 500) for n in range(501)]
        taken["grid_sure"].append(sure({kld: psnr(kld) for kld in dense}, window))
        taken["grid"].append(next(n for n in range(2, 200) if run(build("grid", window=window, width=n, trials=n))))
    return {
        "responses": count,
        "window": list(window),
        **{name: {"mean": round(sum(n) / count, 2), "most": max(n)} for name, n in taken.items()},
    }


def measure(
    tuned: Tuned, name: str, run: Run, data: Dataset, settings: TuneConfig, runner: Runner, engine: Engine, most: int
) -> dict[str, object]:
    stage = tuned.stages[name]
    source = stage_input(run, name, data, tuned.stages["stage1"].kld_target)
    trials = trials_of(run, name, source, find_classes(data), tuned.config, settings, engine)
    window = (stage.window[0] - stage.measured, stage.window[1] - stage.measured)
    told = {
        t["kld_target"]: t["psnr"] for t in stage.trials if t["epochs"] == trials.stage.train.epochs or t["plateau"]
    }
    grid, reached = None, 0
    for size in (size for size in GRIDS if size <= most):
        search = build("grid", window=window, trials=size, width=settings.concurrency)
        runner.search(search, trials, Silent())
        told, reached = told | search.told, size
        if search.verdict().found:
            grid = size
            break
    sizes = {"grid_found": grid, "grid_sure": sure(told, window)}
    return {
        "stage": name,
        "window": list(stage.window),
        "kld_target": stage.kld_target,
        "psnr": round(stage.psnr, 2),
        "bits_per_pixel": round(stage.bits_per_pixel, 3),
        "trials": len(stage.trials),
        "full_trainings": len(stage.verifications),
        "estimated_correction": round(stage.estimated, 2),
        "measured_correction": round(stage.measured, 2),
        **sizes,
        "grid_tried": reached,
        "times": {name: round(size / len(stage.trials), 2) for name, size in sizes.items() if size},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--out", help="folder to go on in; by default nothing is kept")
    parser.add_argument("--preset", default="digits")
    for flag in ("--width", "--batch", "--full-epochs"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--stage1-psnr")
    parser.add_argument("--stage2-psnr")
    parser.add_argument("--fraction", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--grid", type=int, default=GRIDS[-1], help="the largest grid to try")
    parser.add_argument("--synthetic", type=int, help="compare the searches on so many made-up responses, and end")
    options = parser.parse_args()
    if options.synthetic:
        for window in ((20.0, 22.0), (28.0, 30.0)):
            print(json.dumps(synthetic(options.synthetic, window)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Store(str(Path(options.out or folder).absolute()))
        source = options.data or digits(home)
        command = Tune(
            source=source,
            out=home.sub("tuned").uri,
            preset=options.preset,
            width=options.width,
            batch=options.batch,
            full_epochs=options.full_epochs,
            stage1_psnr=options.stage1_psnr,
            stage2_psnr=options.stage2_psnr,
        )
        settings = TuneConfig(
            trials=options.trials, fraction=options.fraction, epochs=options.epochs, concurrency=options.concurrency
        )
        config = command.settings()
        data = open_dataset(source, config.data, split="train")
        with RayEngine() as engine:
            runner = trials_on(engine, settings.concurrency) or Here()
            tuned = tune(data, find_classes(data), home.sub("tuned"), config, settings, engine, runner)
            for name in tuned.stages:
                run = Run(home.sub("tuned"))
                print(json.dumps(measure(tuned, name, run, data, settings, runner, engine, options.grid)), flush=True)


if __name__ == "__main__":
    main()
