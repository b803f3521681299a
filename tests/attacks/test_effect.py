"""Attacks do their job at small scale: digits of low contrast, a small net, the same recipe for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from raydvae.attacks.ar import AR
from raydvae.attacks.base import Attack, apply
from raydvae.attacks.configs import ARConfig, EMConfig, LSPConfig, NTGAConfig, OPSConfig, SurrogateConfig, TAPConfig
from raydvae.attacks.em import EM, ClassNoise, EMTask, craft_class_noise
from raydvae.attacks.lsp import LSP
from raydvae.attacks.ntga import NTGA
from raydvae.attacks.ops import OPS, OPSStatistics
from raydvae.attacks.surrogate import SurrogateTask, build_surrogate
from raydvae.attacks.tap import TAP
from raydvae.config import TrainConfig
from raydvae.models.classifiers import SmallNet
from raydvae.training.feed import ImageSet
from raydvae.training.loop import train
from raydvae.training.tasks import ClassifierTask

SIZE, ROWS = 16, 1000
RECIPE = TrainConfig(epochs=10, batch_size=50, optimizer="sgd", lr=0.1, weight_decay=5e-4, slices=1)


@dataclass(frozen=True)
class Narrow(ClassifierTask):
    def build(self) -> SmallNet:
        return SmallNet(10, width=8)


@cache
def low_contrast_digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits from 96 to 160 levels: bright strokes are a feature that no small perturbation can hide."""
    data = load_digits()
    images = np.rint(96 + 4 * data.images).astype(np.uint8)
    images = np.repeat(np.repeat(images, SIZE // 8, axis=1), SIZE // 8, axis=2)
    order = np.random.default_rng(0).permutation(len(images))
    return np.repeat(images[order][..., None], 3, axis=3), data.target[order].astype(np.int64)


def accuracy_on_clean(images: np.ndarray, padding: int) -> float:
    clean, labels = low_contrast_digits()
    data = ImageSet(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels[:ROWS]))
    state = train(Narrow("small", 10, crop_padding=padding, flip=False), data, RECIPE, seed=0)
    model = SmallNet(10, width=8)
    model.load_state_dict(state.model)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(clean[ROWS:]).permute(0, 3, 1, 2).float() / 255)
    return float((logits.argmax(dim=1).numpy() == labels[ROWS:]).mean())


clean_accuracy = cache(lambda padding: accuracy_on_clean(low_contrast_digits()[0][:ROWS], padding))


def make_ops() -> OPS:
    images, labels = low_contrast_digits()
    statistics = OPSStatistics.empty(SIZE, 10)
    statistics.update(images[:ROWS], labels[:ROWS])
    return OPS(OPSConfig(), statistics)


def surrogate(steps: int) -> SurrogateConfig:
    return SurrogateConfig(model="small", width=8, steps=steps, batch_size=50, crop_padding=2, flip=False, slices=1)


def trained(task: SurrogateTask | EMTask, config: SurrogateConfig) -> nn.Module:
    images, labels = (values[:ROWS] for values in low_contrast_digits())
    data = ImageSet(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels))
    model = build_surrogate(config, 10)
    model.load_state_dict(train(task, data, config.train_config(ROWS), seed=3).model)
    return model


def make_tap() -> TAP:
    config = TAPConfig(norm=16 / 255, steps=60, step=0.5 / 255, surrogate=surrogate(300))
    return TAP(config, trained(SurrogateTask(config.surrogate, 10), config.surrogate), 10)


def make_em() -> EM:
    config = EMConfig(norm=16 / 255, surrogate=surrogate(300))
    return EM(config, trained(EMTask(config, 10), config.surrogate))


def make_class_em() -> ClassNoise:
    config = EMConfig(norm=16 / 255, wise="class", surrogate=surrogate(200))
    images, labels = low_contrast_digits()
    model = trained(EMTask(config, 10), config.surrogate)
    return ClassNoise(config, craft_class_noise(config, model, images[:300], labels[:300], 10))


def make_ntga() -> NTGA:
    images, labels = low_contrast_digits()
    return NTGA(NTGAConfig(norm=16 / 255, t=64, block_rows=250), images[1500:], labels[1500:], 10)


# One pixel near the border does not survive random crops of images as small as these.
CASES: dict[str, tuple[Callable[[], Attack], int]] = {
    "lsp": (lambda: LSP(LSPConfig(patch=4), SIZE, 10), 1),
    "ar": (lambda: AR(ARConfig(norm=2.0), SIZE, 10), 1),
    "ops": (make_ops, 0),
    "tap": (make_tap, 1),
    "em": (make_em, 2),
    "em-class": (make_class_em, 1),
    "ntga": (make_ntga, 1),
}


@pytest.mark.slow  # ten seconds and more, each
@pytest.mark.parametrize("name", CASES)
def test_trained_on_poison_a_net_fails_and_on_shuffled_noise_it_does_not(name: str) -> None:
    make, padding = CASES[name]
    attack = make()
    images, labels = (values[:ROWS] for values in low_contrast_digits())
    noise = attack.noise(images, labels, [f"digits#{row}" for row in range(ROWS)])
    shuffled = noise[np.random.default_rng(1).permutation(ROWS)]
    before = clean_accuracy(padding)
    assert before - accuracy_on_clean(apply(images, noise, attack.bound), padding) >= 0.25
    assert before - accuracy_on_clean(apply(images, shuffled, attack.bound), padding) < 0.05
