"""From an attack's name and settings to an `Attack` that can poison rows: what has to be made first, and where it lies.

A recipe is small and picklable. `prepare` makes what the attack needs (a trained surrogate, statistics of the data set,
held-out rows) in the run's folder, once, and `Recipe.build` loads it wherever rows are poisoned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raydvae.attacks.ar import AR
from raydvae.attacks.base import Array, Attack
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
from raydvae.attacks.em import EM, ClassNoise, EMTask, craft_class_noise
from raydvae.attacks.lsp import LSP
from raydvae.attacks.ntga import NTGA
from raydvae.attacks.ops import OPS, OPSStatistics
from raydvae.attacks.registry import AttackConfig
from raydvae.attacks.rem import REM, REMTask
from raydvae.attacks.sep import SEP, ClassFeatures
from raydvae.attacks.surrogate import SurrogateTask, build_surrogate
from raydvae.attacks.tap import TAP
from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.selection import select
from raydvae.data.store import Store
from raydvae.engine import Engine, Silent, Watch
from raydvae.errors import ConfigError
from raydvae.seeds import derive
from raydvae.training.checkpoint import load_model, load_tensors, save_tensors
from raydvae.training.job import TrainJob
from raydvae.training.loop import Task, resolve_slices

STATISTICS, MEANS, CLASS_NOISE, HELD_OUT = (
    f"{name}.safetensors" for name in ("ops", "class_means", "class_noise", "held_out")
)
CLASS_SAMPLE = 0.2  # share of each class that class-wise noise is crafted on, as published
HELD_OUT_SHARE = 0.2  # most of the data set that NTGA holds out: 10,000 of CIFAR's 50,000 rows


@dataclass(frozen=True, slots=True)
class Recipe:
    """An attack on one data set. ``store`` is where `prepare` leaves what the attack needs."""

    config: AttackConfig
    image_size: int
    num_classes: int
    store: Store

    def check(self) -> None:
        """Raise `ConfigError` for what this data set's classes and image size rule out, before any work."""
        if self.num_classes < 2:
            raise ConfigError(f"Attacks tell classes apart, and this data set has {self.num_classes}; 2 are needed.")
        if isinstance(self.config, LSPConfig):
            self.build(torch.device("cpu"))

    def build(self, device: torch.device) -> Attack:
        """Return the attack, ready to poison rows on ``device``."""
        config, classes = self.config, self.num_classes
        if isinstance(config, LSPConfig):
            return LSP(config, self.image_size, classes)
        if isinstance(config, ARConfig):
            return AR(config, self.image_size, classes)
        if isinstance(config, OPSConfig):
            return OPS(config, OPSStatistics(**self._arrays(STATISTICS)))
        if isinstance(config, NTGAConfig):
            held_out = self._arrays(HELD_OUT)
            return NTGA(config, held_out["images"], held_out["labels"], classes, device)
        if isinstance(config, TAPConfig):
            return TAP(config, self.surrogate().to(device), classes)
        if isinstance(config, REMConfig):
            return REM(config, self.surrogate().to(device))
        if isinstance(config, EMConfig):
            if config.wise == "class":
                return ClassNoise(config, self._arrays(CLASS_NOISE)["noise"])
            return EM(config, self.surrogate().to(device))
        kept = sorted(self.store.sub("surrogate").list("kept"))
        surrogates = [self.surrogate(name).to(device) for name in kept]
        means = [] if config.variant == "plain" else torch.from_numpy(self._arrays(MEANS)["means"]).unbind()
        return SEP(config, surrogates, classes, list(means))

    def surrogate(self, name: str | None = None) -> nn.Module:
        """Return the trained surrogate, or the checkpoint of it called ``name``."""
        assert not isinstance(self.config, LSPConfig | ARConfig | OPSConfig | NTGAConfig)
        model = build_surrogate(self.config.surrogate, self.num_classes)
        store = self.store.sub("surrogate")
        model.load_state_dict((load_model(store, name=name) if name else load_model(store))[0])
        return model.to(memory_format=torch.channels_last)

    def _arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        return {key: tensor.numpy() for key, tensor in load_tensors(self.store, name).items()}


def prepare(recipe: Recipe, data: Dataset, classes: Classes, engine: Engine, watch: Watch | None = None) -> None:
    """Make what the attack needs, if it is not there yet; a stopped training goes on where it was."""
    config, watch = recipe.config, watch or Silent()
    if isinstance(config, OPSConfig):
        _once(recipe, STATISTICS, lambda: _statistics(recipe, data, classes, watch))
    elif isinstance(config, NTGAConfig):
        _once(recipe, HELD_OUT, lambda: _held_out(config, recipe, data, classes))
    elif not isinstance(config, LSPConfig | ARConfig):
        _train(recipe, config.surrogate, data, classes, engine, watch)
        if isinstance(config, EMConfig) and config.wise == "class":
            _once(recipe, CLASS_NOISE, lambda: _class_noise(config, recipe, data, classes, engine.device))
        if isinstance(config, SEPConfig) and config.variant != "plain":
            _once(recipe, MEANS, lambda: _class_means(recipe, data, classes, engine.device, watch))


def _once(recipe: Recipe, name: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> None:
    if not recipe.store.exists(name):
        arrays = {key: np.ascontiguousarray(array) for key, array in make().items()}
        save_tensors(recipe.store, name, {key: torch.from_numpy(array) for key, array in arrays.items()})


def _task(recipe: Recipe) -> Task:
    if isinstance(recipe.config, EMConfig):
        return EMTask(recipe.config, recipe.num_classes)
    if isinstance(recipe.config, REMConfig):
        return REMTask(recipe.config, recipe.num_classes)
    assert isinstance(recipe.config, TAPConfig | SEPConfig)
    return SurrogateTask(recipe.config, recipe.num_classes)


def _train(
    recipe: Recipe, surrogate: SurrogateConfig, data: Dataset, classes: Classes, engine: Engine, watch: Watch
) -> None:
    train = surrogate.train_config(data.rows)
    keep = recipe.config.checkpoint_epochs(train.epochs) if isinstance(recipe.config, SEPConfig) else []
    job = TrainJob(
        name="surrogate",
        task=_task(recipe),
        data=data,
        classes=classes,
        image_size=recipe.image_size,
        config=dataclasses.replace(train, slices=resolve_slices(train, engine.workers, engine.device)),
        seed=derive(recipe.config.seed, "surrogate"),
        store=recipe.store.sub("surrogate"),
        keep=tuple(keep),
    )
    with watch.step(job.name, train.epochs, "epochs") as advance:
        engine.train(job, progress=advance)


def _all_rows(recipe: Recipe, data: Dataset, classes: Classes) -> Iterator[Rows]:
    for unit in data.units():
        yield decode_rows(data, unit, data.read(unit), classes, recipe.image_size)


def _statistics(recipe: Recipe, data: Dataset, classes: Classes, watch: Watch) -> dict[str, npt.NDArray[np.int64]]:
    statistics = OPSStatistics.empty(recipe.image_size, recipe.num_classes)
    with watch.step("statistics", data.rows, "rows") as advance:
        for rows in _all_rows(recipe, data, classes):
            statistics.update(rows.images, rows.labels)
            advance({"rows_in": rows.unit.rows})
    return {"count": statistics.count, "sums": statistics.sums, "squares": statistics.squares}


def _class_means(
    recipe: Recipe, data: Dataset, classes: Classes, device: torch.device, watch: Watch
) -> dict[str, npt.NDArray[np.float64]]:
    kept = sorted(recipe.store.sub("surrogate").list("kept"))
    models = [recipe.surrogate(name).to(device) for name in kept]
    dimensions = cast(nn.Linear, models[0].head).in_features
    sums = [ClassFeatures.empty(recipe.num_classes, dimensions) for _ in models]
    with watch.step("class means", data.rows, "rows") as advance:
        for rows in _all_rows(recipe, data, classes):
            for model, features in zip(models, sums, strict=True):
                features.update(model, rows.images, rows.labels)
            advance({"rows_in": rows.unit.rows})
    return {"means": np.stack([features.means().numpy() for features in sums])}


def _class_noise(
    config: EMConfig, recipe: Recipe, data: Dataset, classes: Classes, device: torch.device
) -> dict[str, npt.NDArray[np.float32]]:
    images, labels = _sample(recipe, data, classes, CLASS_SAMPLE, "class sample")
    noise = craft_class_noise(config, recipe.surrogate().to(device), images, labels, recipe.num_classes)
    return {"noise": noise}


def _held_out(
    config: NTGAConfig, recipe: Recipe, data: Dataset, classes: Classes
) -> dict[str, npt.NDArray[np.generic]]:
    share = min(HELD_OUT_SHARE, config.validation_rows / data.rows)
    images, labels = _sample(recipe, data, classes, share, "held out")
    return {"images": images, "labels": labels}


def _sample(
    recipe: Recipe, data: Dataset, classes: Classes, share: float, stream: str
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return a seeded share of every class, at least one row of each."""
    pairs = [
        (row_id, int(label))
        for rows in _all_rows(recipe, data, classes)
        for row_id, label in zip(rows.row_ids, rows.labels, strict=True)
    ]
    smallest = min(np.bincount([label for _, label in pairs], minlength=1)[list({label for _, label in pairs})])
    selection = select(pairs, max(share, 0.5 / smallest), derive(recipe.config.seed, stream), stratified=True)
    images, labels = [], []
    for rows in _all_rows(recipe, data, classes):
        mask = selection.mask(rows.row_ids, rows.labels)
        images.append(rows.images[mask])
        labels.append(rows.labels[mask])
    return np.concatenate(images), np.concatenate(labels)
