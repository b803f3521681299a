"""How well rules find the poisoned rows of partly poisoned data, at small scale: one line of JSON a cell.

1,000 of scikit-learn's digits at 16 px (see attacks.py) are poisoned by each attack, and clean and poisoned rows are
mixed at each ratio. Both rules judge the same models' answers, through the same code as `raydvae detect`.

    python benchmarks/detection.py [--ratios 0.2 0.4 0.6 0.8] [--seed 0] [clean lsp ops em ar ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from attacks import CONFIGS, ROWS, SIDE, digits, poisoned_by, write

from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.registry import AttackConfig
from raydvae.config import ClassifyConfig, PurifyConfig, TrainConfig
from raydvae.config import digits as preset
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import open_dataset
from raydvae.data.manifest import Run
from raydvae.data.selection import select
from raydvae.data.store import Store
from raydvae.detection.configs import DetectConfig, Rule
from raydvae.detection.detecting import Detection, detect
from raydvae.engine import InProcess

ATTACKS: dict[str, AttackConfig] = CONFIGS | {"lsp": LSPConfig(patch=4, norm=4.0)}
DEFAULT = ("clean", "lsp", "ops", "em", "ar")
EPOCHS = 12  # of the D-VAE, and of the classifier
RULES: tuple[Rule, ...] = ("paper", "shortcut")


def config(rule: Rule, seed: int) -> DetectConfig:
    base: PurifyConfig = preset()
    model = dataclasses.replace(base.stage1.model, image_size=SIDE)
    stage = dataclasses.replace(
        base.stage1, model=model, train=dataclasses.replace(base.stage1.train, epochs=EPOCHS, slices=2)
    )
    second = dataclasses.replace(base.stage2, model=model)
    train = TrainConfig(epochs=EPOCHS, batch_size=50, optimizer="sgd", lr=0.1, weight_decay=5e-4, slices=2)
    classifier = ClassifyConfig(model="tiny", train=train, crop_padding=0, flip=False)
    purify = dataclasses.replace(base, seed=seed, stage1=stage, stage2=second)
    return DetectConfig(rule=rule, purify=purify, classifier=classifier)


def poisoned(name: str, images: Array, labels: npt.NDArray[np.int64]) -> Array:
    attack = ATTACKS[name]
    with tempfile.TemporaryDirectory() as folder:
        write(Store(f"{folder}/clean"), images, labels)
        return poisoned_by(attack, open_dataset(f"{folder}/clean"), Store(f"{folder}/poisoned"))


def mixed(clean: Array, poison: Array, ratio: float, seed: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    ids = [f"row#{number}" for number in range(len(clean))]
    labels = np.zeros(len(clean), np.int64)
    mask = select(zip(ids, labels.tolist(), strict=True), ratio, seed).mask(ids, labels)
    return np.where(mask[:, None, None, None], poison, clean), mask


def measured(found: Detection, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    flagged = found.judged.flagged
    hits = int((flagged & mask).sum())
    precision = hits / max(1, int(flagged.sum()))
    recall = hits / max(1, int(mask.sum()))
    return {
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2 * precision * recall / max(1e-9, precision + recall), 3),
        "accuracy": round(float((flagged == mask).mean()), 3),
        "flagged": round(float(flagged.mean()), 4),
        "share": round(found.judged.share, 3),
        "share_error": round(found.judged.share_error, 3),
        "verdict": found.judged.verdict,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare rules of detection at small scale.")
    parser.add_argument("names", nargs="*", metavar="ATTACK", help=" ".join(["clean", *ATTACKS]))
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.4, 0.6, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if strange := set(asked.names) - {"clean", *ATTACKS}:
        parser.error(f"there is no attack {min(strange)!r} here; choose of {' '.join(['clean', *ATTACKS])}")
    images, labels = digits()
    images, labels = images[:ROWS], labels[:ROWS]
    for name in asked.names or DEFAULT:
        poison = images if name == "clean" else poisoned(name, images, labels)
        for ratio in [0.0] if name == "clean" else asked.ratios:
            x, mask = mixed(images, poison, ratio, asked.seed)
            with tempfile.TemporaryDirectory() as folder:
                write(Store(f"{folder}/data"), x, labels)
                data = open_dataset(f"{folder}/data")
                for rule in RULES:
                    started = time.monotonic()
                    found = detect(
                        data, find_classes(data), Run(Store(f"{folder}/work")), config(rule, asked.seed), InProcess()
                    )
                    cell = {"attack": name, "ratio": ratio, "rule": rule, **measured(found, mask)}
                    print(json.dumps(cell | {"seconds": round(time.monotonic() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
