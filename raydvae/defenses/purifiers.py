"""Defenses that are a trained model: how it is trained or taken, and what it makes of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import DVAEConfig, RateLossConfig, TrainConfig
from raydvae.data.classes import Classes, find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.store import Options, Store
from raydvae.defenses.avatar import ScoreTask, purified
from raydvae.defenses.configs import AvatarConfig, ModelConfig, VAEConfig
from raydvae.engine import Engine, Watch
from raydvae.errors import ConfigError, DataError
from raydvae.models.dvae import Autoencoder, RateConstrainedVAE
from raydvae.models.losses import Parts, psnr
from raydvae.models.score import UNet
from raydvae.seeds import derive
from raydvae.training.checkpoint import MODEL, load_model
from raydvae.training.job import TrainJob
from raydvae.training.loop import Task, resolve_slices
from raydvae.training.tasks import VAETask

FOLDER = "model"
Change = Callable[[Tensor, torch.Generator], Tensor]  # images (B, 3, H, W) in [0, 1] to images, with random draws


@dataclass(frozen=True, slots=True)
class AETask:
    """Train an autoencoder to give back what it is given."""

    kind: ClassVar[str] = "ae"

    model: DVAEConfig

    def build(self) -> Autoencoder:
        """Return a new model."""
        return Autoencoder(self.model)

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run forward; nothing is random, and labels play no part."""
        x_hat = model(x)
        return {"distortion": F.mse_loss(x_hat, x), "psnr": psnr(x, x_hat.detach()).mean()}

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the mean squared error."""
        return parts["distortion"]


def task_of(config: ModelConfig, image_size: int) -> Task:
    """Return the training of a purifier; `ConfigError` for what it cannot be."""
    if isinstance(config, AvatarConfig):
        if image_size % 4:
            raise ConfigError(
                f"The diffusion model needs sides that are a multiple of 4 pixels, and images have {image_size}; "
                f"give --image-size {image_size + -image_size % 4}."
            )
        return ScoreTask(config.width)
    architecture = DVAEConfig(image_size=image_size, width=config.width)
    if isinstance(config, VAEConfig):
        return VAETask(architecture, RateLossConfig(kld_target=config.kld), disentangle=False)
    return AETask(architecture)


def training_of(config: ModelConfig) -> TrainConfig:
    """Return how a purifier is trained: autoencoders as D-VAE, the diffusion model at a rate that suits it."""
    if isinstance(config, AvatarConfig):
        return TrainConfig(epochs=config.epochs, batch_size=config.batch, lr=5e-4, clip_norm=1.0)
    return TrainConfig(epochs=config.epochs, batch_size=config.batch)


def check_model(config: ModelConfig, image_size: int) -> None:
    """Raise `ConfigError` for settings that no model can have, or without a model to be had."""
    training_of(config)
    task_of(config, image_size)
    if isinstance(config, AvatarConfig) and bool(config.model) == bool(config.train_on):
        raise ConfigError(
            "AVATAR needs a diffusion model of clean images: give --train-on with clean data to train one, or --model "
            "with the folder of an earlier run or a safetensors file of one; one of them."
        )


def check_source(config: ModelConfig, data: Dataset) -> None:
    """Raise what is wrong with the model or the clean data that AVATAR is to take, before anything is written."""
    if isinstance(config, AvatarConfig):
        if config.model:
            _score_model(*_found(config.model, data.store.options))
        else:
            open_dataset(config.train_on, data.data, data.store.options, split="train")


def get_model(
    config: ModelConfig, data: Dataset, classes: Classes, image_size: int, home: Store, engine: Engine, watch: Watch
) -> None:
    """Train the purifier's model in ``home``, or go on with that; or copy the one that is to be taken."""
    store = home.sub(FOLDER)
    if store.exists(MODEL):
        return
    if isinstance(config, AvatarConfig):
        if config.model:
            place, name = _found(config.model, data.store.options)
            store.write(MODEL, place.read(name))
            return
        data = open_dataset(config.train_on, data.data, data.store.options, split="train")
        classes = find_classes(data)
    train = training_of(config)
    job = TrainJob(
        name=FOLDER,
        task=task_of(config, image_size),
        data=data,
        classes=classes,
        image_size=image_size,
        config=replace(train, slices=resolve_slices(train, engine.workers, engine.device)),
        seed=derive(config.seed, FOLDER),
        store=store,
    )
    with watch.step(job.name, train.epochs, "epochs") as advance:
        engine.train(job, progress=advance)


def load_change(config: ModelConfig, image_size: int, home: Store, device: torch.device) -> Change:
    """Return what the model in ``home`` makes of images; a VAE samples its latents, as in the paper's code."""
    if isinstance(config, AvatarConfig):
        net = _ready(_score_model(home.sub(FOLDER), MODEL), device)
        return lambda x, generator: purified(x, net, config.steps, generator)
    model = task_of(config, image_size).build()
    model.load_state_dict(load_model(home.sub(FOLDER))[0])
    model = _ready(model, device)

    @torch.no_grad()
    def reconstructed(x: Tensor, generator: torch.Generator) -> Tensor:
        if isinstance(model, RateConstrainedVAE):
            noise = torch.randn(model.latent_shape(len(x)), generator=generator, device=device)
            return model.reconstruct(x, noise)
        x_hat: Tensor = model(x)
        return x_hat

    return reconstructed


def _ready(model: nn.Module, device: torch.device) -> nn.Module:
    return model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def _found(place: str, options: Options) -> tuple[Store, str]:
    """Return where the weights of a safetensors file, a training, or a run of `raydvae defend avatar` lie."""
    if place.endswith(".safetensors"):
        folder, _, name = place.rpartition("/")
        return Store(folder or ".", options), name
    store = Store(place, options)
    for name in (MODEL, f"{FOLDER}/{MODEL}", f"_raydvae/{FOLDER}/{MODEL}"):
        if store.exists(name):
            return store, name
    raise DataError(
        f"{place} holds no trained diffusion model; give the folder of a run of defend avatar, or a safetensors file."
    )


def _score_model(store: Store, name: str) -> UNet:
    try:
        return UNet.of(load_model(store, name=name)[0])
    except (KeyError, RuntimeError):
        raise DataError(f"{store.uri}/{name} is no diffusion model of raydvae, but a model of another kind.") from None
