"""Training state and weights on storage, as safetensors: nothing that is loaded can run code.

Each training has a folder: ``state.safetensors`` while it runs (replaced whole after each epoch), then
``model.safetensors`` with the final weights; ``metrics.jsonl`` and TensorBoard events all along.

State and weights hold the SHA-256 of all that is in them, and equal trainings give equal files: how fast they were
stands in the metrics only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raydvae.data.shapes import COUNT, NUMBER, mismatch, parse_json
from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError
from raydvae.training.loop import TrainState

log = logging.getLogger(__name__)

FORMAT = "2"
OLD = "1"  # without a sum
STATE, MODEL, METRICS = "state.safetensors", "model.safetensors", "metrics.jsonl"
SPEED = "images_per_second"  # the only metric that is not a function of data, settings and seed
History = list[dict[str, float]]


def save_state(store: Store, state: TrainState, about: dict[str, Any], tag: str | None = None) -> str | None:
    """Publish ``state``; ``about`` is what it must be resumed with.

    ``tag`` is that of the state before, as this function or `load_state` returned it: a driver that was taken over
    from replaces no state of its successor, however late its request arrives.
    """
    tensors = {f"model/{k}": v for k, v in state.model.items()}
    tensors |= {f"optimizer/{k}": v for k, v in state.optimizer.items()}
    data = _pack(tensors, {"epoch": str(state.epoch), "history": _lasting(state.history), "about": _stable(about)})
    if store.is_local or store.fence is None:
        store.write(STATE, data)
        return None
    store.fence.check()
    while (new := store.swap(STATE, data, tag)) is None:
        found = store.read_tagged(STATE)
        if found is not None and found[0] == data:  # our own, its answer was lost; or our successor's at this epoch
            return found[1]
        store.fence.check(fresh=True)
        tag = None if found is None else found[1]
    return new


def load_state(store: Store, about: dict[str, Any]) -> tuple[TrainState | None, str | None]:
    """Return the state to go on from, or None, and its tag; `ConfigError` if it belongs to other settings.

    A damaged state is none: the training begins anew, to the same weights, and the log says so.
    """
    found = store.read_tagged(STATE)
    if found is None:
        return None, None
    try:
        tensors, meta = _unpack(found[0], store, STATE)
        if not meta.get("epoch", "").isdecimal():  # a model's file
            raise DataError("it is of no epoch")
    except DataError:
        log.warning("%s/%s is damaged: the training begins anew, and ends with the same weights.", store.uri, STATE)
        return None, found[1]
    _check_about(meta, about, store)
    state = TrainState(
        epoch=int(meta["epoch"]),
        model={k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")},
        optimizer={k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")},
        history=_with_speeds(parse_json(meta["history"]), read_metrics(store)),
    )
    return state, found[1]


def save_model(store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """Publish the final weights and drop the training state."""
    store.write(MODEL, _pack(state.model, {"about": _stable(about), "history": _lasting(state.history)}))
    store.delete(STATE)


def keep_model(store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """Publish the weights after an epoch in the middle, beside the final ones."""
    data = _pack(state.model, {"about": _stable(about), "history": _lasting(state.history)})
    store.write(f"kept/epoch-{state.epoch:06d}.safetensors", data)


def load_model(store: Store, about: dict[str, Any] | None = None, name: str = MODEL) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a finished training and their checksum; with ``about`` they must be of those settings.

    Raises `DataError` for a file that is not what was written.
    """
    data = store.read(name)
    tensors, meta = _unpack(data, store, name)
    if about is not None:
        _check_about(meta, about, store)
    header, body = _cut(data)
    return tensors, _sum({key: value for key, value in header.items() if key != "__metadata__"}, body)


def save_tensors(store: Store, name: str, tensors: dict[str, Tensor]) -> None:
    """Publish what was fitted or counted as a file that is checked when it is read."""
    store.write(name, _pack(tensors, {}))


def load_tensors(store: Store, name: str) -> dict[str, Tensor]:
    """Return what `save_tensors` published; `DataError` for a file that is not what was written."""
    return _unpack(store.read(name), store, name, bare=True)[0]


def load_history(store: Store, about: dict[str, Any] | None = None) -> History:
    """Return each epoch's metrics of a finished training; raises as `load_model`."""
    _, meta = _unpack(store.read(MODEL), store, MODEL)
    if about is not None:
        _check_about(meta, about, store)
    return _with_speeds(parse_json(meta["history"]), read_metrics(store))


def write_metrics(store: Store, history: History) -> None:
    """Publish the metrics so far, as JSON lines and as TensorBoard events."""
    store.write(METRICS, "".join(json.dumps(line) + "\n" for line in history).encode())
    store.write("tensorboard/events.out.tfevents.raydvae", _events(history))


def read_metrics(store: Store) -> History:
    """Return the metrics of the epochs done so far; of a damaged file what comes before the damage."""
    out: History = []
    for line in store.read(METRICS).splitlines() if store.exists(METRICS) else ():
        try:
            metrics = parse_json(line)
        except ValueError:
            break
        if not isinstance(metrics, dict) or metrics.get("epoch") != len(out):
            break
        out.append(metrics)
    return out


def _lasting(history: History) -> str:
    return json.dumps([{name: value for name, value in line.items() if name != SPEED} for line in history])


def _with_speeds(history: History, metrics: Sequence[dict[str, float]]) -> History:
    speeds = {line["epoch"]: {SPEED: line[SPEED]} for line in metrics if SPEED in line}
    return [line | speeds.get(line["epoch"], {}) for line in history]


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


def _pack(tensors: dict[str, Tensor], meta: dict[str, str]) -> bytes:
    """Return a safetensors file that says of itself, in ``sha256``, what is in it; the same content, the same bytes."""
    # The library puts what is in the header in another order each time.
    header, body = _cut(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    header["__metadata__"] = meta | {"format": FORMAT}
    header["__metadata__"] |= {"sha256": _sum(header, body)}
    text = _stable(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, body])


def _unpack(data: bytes, store: Store, name: str, bare: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata; ``bare`` files of old versions have none."""
    try:
        header, body = _cut(data)
        meta: dict[str, str] = header.get("__metadata__", {"format": OLD}) if bare else header["__metadata__"]
        told = meta.pop("sha256", None)
        if told is None and meta["format"] != OLD:
            raise ValueError("it has no checksum")
        if told is not None and told != _sum(header, body):
            raise ValueError("its content is not what its checksum says")
        if meta["format"] not in (OLD, FORMAT):
            raise ConfigError(f"{store.uri}/{name} has format {meta['format']}, this version reads {FORMAT}.")
        if not bare and mismatch(meta, {"about": str, "history": str}):
            raise ValueError("it does not say of what training it is")
        if "history" in meta and mismatch(parse_json(meta["history"]), [{"epoch": COUNT, "": NUMBER}]):
            raise ValueError("its history is none")
        tensors = load(data)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        again = f"the folder {store.uri}" if name in (MODEL, STATE) or name.startswith("kept/") else "it"
        raise DataError(
            f"{store.uri}/{name} is damaged or not ours: {error}. Put it back from a copy, or delete {again}: the same "
            "command then makes it anew, with the same result on the same kind of machine."
        ) from None
    return {k: v.clone() for k, v in tensors.items()}, meta


def _cut(data: bytes) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(data[:8], "little")
    header = parse_json(data[8 : 8 + size])
    return header, memoryview(data)[8 + size :]


def _sum(header: dict[str, Any], body: memoryview) -> str:
    found = hashlib.sha256(_stable(header).encode())
    found.update(body)
    return found.hexdigest()


def _check_about(meta: dict[str, str], about: dict[str, Any], store: Store) -> None:
    if meta["about"] != _stable(about):
        raise ConfigError(
            f"{store.uri} holds a training with other settings. Run it with the same settings, or give another folder."
        )


def _stable(about: dict[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)
