"""Training state and weights on storage, as safetensors: nothing that is loaded can run code.

Each training has a folder: ``state.safetensors`` while it runs (replaced whole after each epoch), then
``model.safetensors`` with the final weights; ``metrics.jsonl`` and TensorBoard events all along.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError
from raydvae.training.loop import TrainState

FORMAT = "1"
STATE, MODEL, METRICS = "state.safetensors", "model.safetensors", "metrics.jsonl"


def save_state(store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """Publish ``state``; ``about`` is what it must be resumed with."""
    tensors = {f"model/{k}": v.contiguous() for k, v in state.model.items()}
    tensors |= {f"optimizer/{k}": v.contiguous() for k, v in state.optimizer.items()}
    meta = {"format": FORMAT, "epoch": str(state.epoch), "history": json.dumps(state.history), "about": _stable(about)}
    store.write(STATE, save(tensors, metadata=meta))


def load_state(store: Store, about: dict[str, Any]) -> TrainState | None:
    """Return the state to go on from, or None; `ConfigError` if it belongs to other settings."""
    if not store.exists(STATE):
        return None
    tensors, meta = _read(store, STATE)
    _check_about(meta, about, store)
    return TrainState(
        epoch=int(meta["epoch"]),
        model={k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")},
        optimizer={k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")},
        history=json.loads(meta["history"]),
    )


def save_model(store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """Publish the final weights and drop the training state."""
    tensors = {k: v.contiguous() for k, v in state.model.items()}
    meta = {"format": FORMAT, "about": _stable(about), "history": json.dumps(state.history)}
    store.write(MODEL, save(tensors, metadata=meta))
    store.delete(STATE)


def keep_model(store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """Publish the weights after an epoch in the middle, beside the final ones."""
    tensors = {k: v.contiguous() for k, v in state.model.items()}
    meta = {"format": FORMAT, "about": _stable(about), "history": json.dumps(state.history)}
    store.write(f"kept/epoch-{state.epoch:06d}.safetensors", save(tensors, metadata=meta))


def load_model(
    store: Store, about: dict[str, Any] | None = None, name: str = MODEL
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Return final weights and metrics of a finished training; with ``about`` they must belong to those settings."""
    tensors, meta = _read(store, name)
    if about is not None:
        _check_about(meta, about, store)
    return tensors, json.loads(meta["history"])


def write_metrics(store: Store, history: list[dict[str, float]]) -> None:
    """Publish the metrics so far, as JSON lines and as TensorBoard events."""
    store.write(METRICS, "".join(json.dumps(line) + "\n" for line in history).encode())
    store.write("tensorboard/events.out.tfevents.raydvae", _events(history))


def _events(history: list[dict[str, float]]) -> bytes:
    # Object stores cannot append, and TensorBoard reads whole files: a few KB written anew each epoch serve both.
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        for line in history:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(line["epoch"]))
        writer.close()
        (name,) = os.listdir(folder)
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()


def _read(store: Store, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = store.read(name)
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        meta: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
        if meta["format"] != FORMAT:
            raise ConfigError(f"{store.uri}/{name} has format {meta['format']}, this version reads {FORMAT}.")
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{store.uri}/{name} is damaged or not ours: {error}. Delete it to train anew.") from None
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}, meta


def _check_about(meta: dict[str, str], about: dict[str, Any], store: Store) -> None:
    if meta["about"] != _stable(about):
        raise ConfigError(
            f"{store.uri} holds a training with other settings. Run it with the same settings, or give another folder."
        )


def _stable(about: dict[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)
