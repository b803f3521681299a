"""What each attack does at small scale, through the same code as `raydvae poison`: one line of JSON an attack.

1,000 of scikit-learn's digits at 16 px, with the contrast lowered to 64 levels so that noise is not clipped away; a
small net learns from them clean, poisoned, and with the same noise shuffled over images of other classes (if the
drop comes from the shortcut and not from the noise, the last one costs little), and is tested on 500 others.

    python benchmarks/attacks.py [--pictures FOLDER] [lsp ar ops em em-class rem tap sep sep-fa-vr ntga ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from raydvae.attacks.configs import (
    ARConfig,
    EMConfig,
    LSPConfig,
    NTGAConfig,
    OPSConfig,
    REMConfig,
    SEPConfig,
    SurrogateConfig,
    TAPConfig,
)
from raydvae.attacks.poisoning import poison
from raydvae.attacks.recipes import Recipe
from raydvae.attacks.registry import AttackConfig
from raydvae.config import DataConfig, TrainConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array, encode
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run, parquet_bytes
from raydvae.data.readers.digits import levels
from raydvae.data.rows import decode_rows
from raydvae.data.schema import huggingface_metadata
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.evaluation.protocol import hits
from raydvae.models.classifiers import TinyNet
from raydvae.reports.poison import describe_poison
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train
from raydvae.training.tasks import ClassifierTask

SIDE, ROWS, TEST, EPOCHS = 16, 1000, 500, 12
LARGE = 16 / 255  # the larger of the paper's linf bounds: at 8/255 digits are hardly affected
Labels = npt.NDArray[np.int64]


def surrogate(steps: int) -> SurrogateConfig:
    return SurrogateConfig(model="small", width=8, steps=steps, batch_size=50, crop_padding=2, flip=False)


def joint(steps: int, batch_size: int) -> SurrogateConfig:
    """A surrogate for noise of each sample's own: it takes slow learning, and statistics of more than 12 images."""
    return dataclasses.replace(surrogate(steps), model="tiny", batch_size=batch_size, lr=0.02, slices=1)


CONFIGS: dict[str, AttackConfig] = {
    "lsp": LSPConfig(patch=4),
    "ar": ARConfig(norm=2.0),
    "ops": OPSConfig(),
    "em": EMConfig(norm=LARGE, step=0.4 * LARGE, surrogate=joint(120, 100)),
    "em-class": EMConfig(norm=LARGE, wise="class", surrogate=surrogate(200)),
    "rem": REMConfig(norm=LARGE, steps=5, step=0.4 * LARGE, draws=1, inner_steps=2, surrogate=joint(150, 50)),
    "tap": TAPConfig(norm=LARGE, steps=100, step=0.02 * LARGE, surrogate=surrogate(400)),
    "sep": SEPConfig(norm=LARGE, variant="fa", checkpoints=4, steps=16, surrogate=surrogate(400)),
    "sep-fa-vr": SEPConfig(norm=LARGE, checkpoints=4, steps=10, inner_steps=4, surrogate=surrogate(400)),
    "ntga": NTGAConfig(norm=LARGE, t=64.0, block_rows=250, validation_rows=200),
}


@dataclasses.dataclass(frozen=True)
class Victim(ClassifierTask):
    """Trains a narrow `TinyNet`. One pixel is no shortcut where crops move it, so OPS is tried without crops."""

    def build(self) -> nn.Module:
        return TinyNet(self.num_classes, width=8)


def digits() -> tuple[Array, Labels]:
    data = load_digits()
    grey = levels(data.images, "faint-digits")
    images = grey.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)[..., None].repeat(3, axis=3)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], data.target[order].astype(np.int64)


def write(store: Store, images: Array, labels: Labels) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": encode(image), "path": None} for image in images], kind)
    table = pa.table({"image": rows, "label": labels})
    names = huggingface_metadata([str(digit) for digit in range(10)])
    store.write("train-00000-of-00001.parquet", parquet_bytes(table.replace_schema_metadata(names), "image"))


def image_set(images: Array, labels: Labels) -> ImageSet:
    return ImageSet(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels))


def learned(images: Array, labels: Labels, test: ImageSet, crop: int, seed: int = 0) -> float:
    task = Victim("small", 10, crop_padding=crop, flip=False)
    config = TrainConfig(epochs=EPOCHS, batch_size=50, optimizer="sgd", lr=0.1, weight_decay=5e-4, slices=2)
    model = task.build()
    model.load_state_dict(train(task, image_set(images, labels), config, seed=seed, threads=2).model)
    return round(100 * hits(model.eval(), test, torch.device("cpu")) / len(test), 1)


def shuffled(clean: Array, poisoned: Array, labels: Labels) -> Array:
    """Give each image the noise of a random image of another class, every noise once."""
    rng = np.random.default_rng(1)
    donors = rng.permutation(len(labels))
    while (own := np.flatnonzero(labels[donors] == labels)).size:
        for row in own:
            other = rng.integers(len(labels))
            donors[row], donors[other] = donors[other], donors[row]
    noise = poisoned.astype(np.int16) - clean
    return np.clip(clean + noise[donors], 0, 255).astype(np.uint8)


def poisoned_by(config: AttackConfig, data: Dataset, store: Store) -> Array:
    classes = find_classes(data)
    poison(Recipe(config, SIDE, 10, Run(store).home), data, classes, Run(store), InProcess())
    made = open_dataset(store.uri)
    return np.concatenate([decode_rows(made, u, made.read(u), classes, SIDE).images for u in made.units()])


def save_picture(folder: Path, name: str, poisoned: Store, clean: str) -> None:
    describe_poison(poisoned.uri, clean)
    with Image.open(io.BytesIO(poisoned.read("_raydvae/poison.png"))) as picture:
        half = picture.crop((0, 0, picture.width // 2, picture.height))
    folder.mkdir(parents=True, exist_ok=True)
    half.save(folder / f"{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Show what each attack does at small scale.")
    parser.add_argument("names", nargs="*", metavar="ATTACK", help=" ".join(CONFIGS))
    parser.add_argument("--pictures", type=Path, help="write the noise of the first five classes here, a PNG an attack")
    asked = parser.parse_args()
    if strange := set(asked.names) - set(CONFIGS):
        parser.error(f"there is no attack {min(strange)!r} here; choose of {' '.join(CONFIGS)}")
    images, labels = digits()
    test = image_set(images[ROWS : ROWS + TEST], labels[ROWS : ROWS + TEST])
    images, labels = images[:ROWS], labels[:ROWS]
    for name in asked.names or CONFIGS:
        config = CONFIGS[name]
        crop = 0 if name == "ops" else 2
        with tempfile.TemporaryDirectory() as folder:
            write(Store(f"{folder}/clean"), images, labels)
            data = open_dataset(f"{folder}/clean", DataConfig(unit_rows=getattr(config, "block_rows", 1024)))
            started = time.monotonic()
            store = Store(f"{folder}/poisoned")
            poisoned = poisoned_by(config, data, store)
            seconds = time.monotonic() - started
            if asked.pictures:
                save_picture(asked.pictures, name, store, f"{folder}/clean")
        result = {
            "attack": name,
            "norm": getattr(config, "norm", None),
            "clean": learned(images, labels, test, crop),
            "poisoned": learned(poisoned, labels, test, crop),
            "shuffled": learned(shuffled(images, poisoned, labels), labels, test, crop),
            "seconds": round(seconds, 1),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
