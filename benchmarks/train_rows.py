"""Accuracy after a purification whose D-VAEs were trained on a share of the rows; prints JSON, a line a share.

    python benchmarks/train_rows.py [--shares 0.05 0.2 1] [--seeds 1] [--equal-steps]

Digits are made unlearnable as in the quickstart and purified with `train_rows`; then a classifier learns from all
purified rows. Epochs are those of the quickstart, so a small share also means few steps; with --equal-steps the epochs
grow as the share shrinks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time

from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.cli.quickstart import CLASSIFIER, NORM, PATCH, shortened
from raydvae.config import PurifyConfig, StageConfig, digits
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.evaluation.protocol import classify
from raydvae.purify.algorithm import purify


def lengthened(config: PurifyConfig, factor: float) -> PurifyConfig:
    def longer(stage: StageConfig) -> StageConfig:
        return dataclasses.replace(
            stage, train=dataclasses.replace(stage.train, epochs=round(stage.train.epochs * factor))
        )

    return dataclasses.replace(config, stage1=longer(config.stage1), stage2=longer(config.stage2))


def measure(share: float, seed: int, equal_steps: bool, home: Store, engine: InProcess) -> dict[str, object]:
    config = dataclasses.replace(shortened(digits()), seed=seed)
    for split in ("train", "test"):
        if not home.sub(split).list():
            import_dataset("digits", home.sub(split), "digits", split=split, rows_per_shard=500)
    clean, test = (open_dataset(home.sub(split).uri, config.data) for split in ("train", "test"))
    classes = find_classes(clean)
    run = Run(home.sub(f"poisoned-{seed}"))
    poison(
        Recipe(LSPConfig(norm=NORM, patch=PATCH, seed=seed), config.image_size, classes.count, run.home),
        clean,
        classes,
        run,
        engine,
    )
    poisoned = open_dataset(run.store.uri, config.data)
    rows = round(share * clean.rows)
    config = dataclasses.replace(config, train_rows=0 if share == 1 else rows)
    if equal_steps:
        config = lengthened(config, 1 / share)
    out = home.sub(f"purified-{share}-{seed}")
    started = time.monotonic()
    summary = purify(poisoned, classes, out, config, engine)
    seconds = time.monotonic() - started
    settings = dataclasses.replace(CLASSIFIER, seed=seed)

    def accuracy(name: str, uri: str) -> float:
        store = home.sub(f"classifiers/{name}")
        return classify(
            open_dataset(uri, config.data), test, classes, config.image_size, settings, store, engine
        ).test_acc

    return {
        "share": share,
        "train_rows": rows,
        "seed": seed,
        "epochs": config.stage1.train.epochs,
        "clean_acc": round(accuracy(f"clean-{seed}", clean.store.uri), 2),
        "poisoned_acc": round(accuracy(f"poisoned-{seed}", run.store.uri), 2),
        "purified_acc": round(accuracy(f"purified-{share}-{seed}", out.uri), 2),
        "stage2_psnr": round(summary.history["stage2"][-1]["psnr"], 2),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--equal-steps", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for share in options.shares:
                print(json.dumps(measure(share, seed, options.equal_steps, Store(folder), InProcess())), flush=True)


if __name__ == "__main__":
    main()
