"""What a purification is going to do and need, worked out before any of it is done."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from raydvae.config import PurifyConfig, StageConfig
from raydvae.data.classes import Classes
from raydvae.data.codecs import Array, encode
from raydvae.data.damage import examine
from raydvae.data.dataset import Dataset
from raydvae.data.flags import Flags
from raydvae.data.manifest import Run
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.engine import Engine, Resources, one_thread
from raydvae.errors import ConfigError, DataError, StorageError
from raydvae.models.dvae import DVAE
from raydvae.purify.algorithm import check_sample, trained
from raydvae.purify.whole import SPARE
from raydvae.training.feed import Cut, to_float
from raydvae.training.job import GIB
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import VAETask

PROBED = 8  # images in a step of the probe
PROBE_SECONDS = 1.0  # that one of its steps is repeated for
MEMORY_SHARE = 0.8  # of a machine's memory that decoded images may take
STATE_BYTES = 12  # of a parameter in a training state: the weight and Adam's two moments
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Seconds an image takes on one core, or on the GPU, and bytes it makes as PNG; measured on a few images."""

    stage1: float
    pass1: float
    stage2: float
    pass3: float
    decode: float
    encode: float
    png_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be done, what it asks for beside what there is, and about how long it takes.

    ``steps`` are epochs x steps or units by name, without those that are done; ``seconds`` are estimates by name.
    ``uncapped`` are the stages that end before the cap on p_hat's amplitude begins to act.
    """

    source: str
    out: str
    rows: int
    source_bytes: int
    files: int
    classes: int
    image_size: int
    units: int
    train_rows: int
    decoded_bytes: int
    streamed: bool
    steps: dict[str, str]
    workers: int
    device: str
    asked: Resources
    has: Resources
    storage_bytes: int
    free_bytes: int | None
    seconds: dict[str, float]
    uncapped: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise where the cluster or the disk has not what is asked for: waiting would not help."""
        if self.asked.gpus > self.has.gpus or self.asked.cpus > self.has.cpus:
            raise ConfigError(
                f"{self.workers} workers ask for {self.asked.cpus:g} CPUs and {self.asked.gpus:g} GPUs; "
                f"{self.has.where} has {self.has.cpus:g} and {self.has.gpus:g}. Give fewer --workers or a larger "
                "cluster; where it grows when asked, let it with --wait SECONDS."
            )
        if not self.streamed and self.asked.memory > MEMORY_SHARE * self.has.memory:
            raise ConfigError(
                f"{self.workers} workers keep {_bytes(self.decoded_bytes)} of decoded images each; "
                f"{self.has.where} has {_bytes(self.has.memory)} of memory. Stream them with --memory-gib of less "
                f"than {self.decoded_bytes / GIB:.2g}, or train on some with --train-rows."
            )
        if self.free_bytes is not None and self.storage_bytes > self.free_bytes:
            raise StorageError(
                f"{self.out} needs about {_bytes(self.storage_bytes)}, and {_bytes(self.free_bytes)} are free. "
                "Free some space, or give another folder."
            )

    def text(self) -> str:
        """Return one screen that says all of it."""
        kept = "streamed in each epoch" if self.streamed else "kept in each worker's memory"
        steps = [f"{name} {amount}" for name, amount in self.steps.items()]
        free = "" if self.free_bytes is None else f", {_bytes(self.free_bytes)} free"
        parts = [f"{name} {_time(seconds)}" for name, seconds in self.seconds.items()]
        lines = {
            "from": self.source,
            "to": self.out,
            "data": f"{self.rows:,} rows, {_bytes(self.source_bytes)} in {self.files} files; {self.classes} classes, "
            f"{self.image_size} px; {self.units} units",
            "training": f"{self.train_rows:,} rows, {_bytes(self.decoded_bytes)} decoded: {kept}",
            "steps": "; ".join(steps) or "none: all of it is done",
            "asks": f"{self.workers} workers on {self.device}: {_resources(self.asked)}",
            "has": f"{_resources(self.has)} ({self.has.where})",
            "storage": f"about {_bytes(self.storage_bytes)}{free}",
            "time": f"about {_time(sum(self.seconds.values()))} ({', '.join(parts)})" if parts else "none",
        }
        if self.uncapped:
            lines["warning"] = (
                f"{' and '.join(self.uncapped)} will end before the cap on the amplitude of p_hat acts, and then "
                "mostly subtract what the images show, too. Give more --epochs (20 will do), or a lower "
                "loss.amplitude_from_epoch in a --config"
            )
        return "\n".join(f"  {name:<9} {value}" for name, value in lines.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return dataclasses.asdict(self)


def preflight(
    data: Dataset,
    classes: Classes,
    out: Store,
    config: PurifyConfig,
    engine: Engine,
    trains: bool = True,
    flags: Flags | None = None,
) -> Plan:
    """Work out what purifying ``data`` into ``out`` takes; a short probe runs where the work will.

    ``trains`` is off where models of another run are taken. With ``flags`` only flagged rows are worked on.
    """
    check_sample(config, data, classes, flags)
    run, rows = Run(out), data.rows
    worked = flags.flagged if flags else rows
    chosen = config.train_rows or worked
    decoded = chosen * 3 * config.image_size**2
    streamed = decoded > config.data.memory_gib * GIB
    units = data.units()
    measured = engine.call(probe, data, classes, config)
    steps: dict[str, str] = {}
    seconds: dict[str, float] = {}
    cores = 1.0
    for stage, settings, step in (("stage1", config.stage1, "pass1"), ("stage2", config.stage2, "pass3")):
        if trains and not trained(run, stage):
            slices = resolve_slices(settings.train, engine.workers, engine.device)
            cores = engine.cores(slices)
            batches = len(Cut.of(chosen, settings.train.batch_size, slices).sizes)
            epochs = settings.train.epochs
            steps[stage] = f"{epochs} epochs x {batches} steps"
            at_once = 1 if engine.device.type == "cuda" else min(cores, math.ceil(slices / engine.workers))
            seconds[stage] = epochs * chosen * getattr(measured, stage) / (engine.workers * at_once)
        left = len(units) - len(examine(run, step, spare=SPARE).good)
        if left > 0:
            share = left / len(units)
            steps[step] = f"{left} units"
            coding = (measured.decode + measured.encode) / engine.io_cores
            at_once = engine.workers * (1 if engine.device.type == "cuda" else engine.pass_cores)
            seconds[step] = share * (worked * getattr(measured, step) / at_once + rows * coding)
    asked = engine.asks(cores, 0 if streamed or not seconds else decoded)
    parameters = sum(_parameters(stage) for stage in (config.stage1, config.stage2))
    return Plan(
        source=data.store.uri,
        out=out.uri,
        rows=rows,
        source_bytes=sum(file.size for file in data.files),
        files=len(data.files),
        classes=classes.count,
        image_size=config.image_size,
        units=len(units),
        train_rows=chosen,
        decoded_bytes=decoded,
        streamed=streamed,
        steps=steps,
        workers=engine.workers,
        device=engine.device.type,
        asked=asked,
        has=engine.resources(),
        storage_bytes=int(2 * rows * measured.png_bytes + STATE_BYTES * parameters) if steps else 0,
        free_bytes=_free(out),
        seconds=seconds,
        uncapped=tuple(
            name
            for name, stage in (("stage1", config.stage1), ("stage2", config.stage2))
            if name in steps and stage.train.epochs <= stage.loss.amplitude_from_epoch
        ),
    )


def probe(data: Dataset, classes: Classes, config: PurifyConfig, device: torch.device) -> Probe:
    """Run both models on a few images of the first unit, forward and backward."""
    unit = data.units()[0]
    table = data.read(unit)
    few = np.arange(unit.rows) < PROBED
    with one_thread(device):
        decoding, rows = _timed(lambda: decode_rows(data, unit, table, classes, config.image_size, few), device)
        if not len(rows.images):
            raise DataError(
                f"None of the first {few.sum()} images of {data.store.uri}/{unit.source} can be used: "
                f"{rows.reasons[0]}."
            )
        images = np.resize(rows.images, (PROBED, *rows.images.shape[1:]))
        labels = np.resize(rows.labels, PROBED)
        encoding, pngs = _timed(lambda: [encode(image) for image in images], device)
        training1, subtracting1, _ = _stage(config.stage1, images, labels, device)
        training2, subtracting2, reconstructing = _stage(config.stage2, images, labels, device)
    return Probe(
        stage1=training1 / PROBED,
        pass1=subtracting1 / PROBED,
        stage2=training2 / PROBED,
        pass3=(subtracting2 + reconstructing) / PROBED,
        decode=decoding / int(few.sum()),
        encode=encoding / PROBED,
        png_bytes=sum(map(len, pngs)) / PROBED,
    )


def _stage(stage: StageConfig, images: Array, labels: Any, device: torch.device) -> tuple[float, float, float]:
    """Return the seconds of a training step, of estimating p_hat and of reconstructing, on ``images``."""
    x = to_float(torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device))
    y = torch.from_numpy(labels).to(device)
    task = VAETask(stage.model, stage.loss)
    model = task.build().to(device).to(memory_format=torch.channels_last)
    assert isinstance(model, DVAE)
    generator = torch.Generator(device).manual_seed(0)

    def step() -> object:
        parts = task.measure(model, x, y, generator, 0)
        means = {name: value.detach() for name, value in parts.items()}
        return torch.autograd.grad(task.total(parts, means, 0), list(model.parameters()))

    training = _timed(step, device)[0]
    with torch.no_grad():
        subtracting = _timed(lambda: model.estimate_perturbation(x, y, None), device)[0]
        return training, subtracting, _timed(lambda: model.reconstruct(x, None), device)[0]


def _timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return the seconds of the fastest of a few calls, after one to warm up, and what they return."""
    result = work()
    best, until = math.inf, time.monotonic() + PROBE_SECONDS
    for _ in range(5):
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        if time.monotonic() > until:
            break
    return best, result


def _parameters(stage: StageConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DVAE(stage.model).parameters())


def _free(out: Store) -> int | None:
    """Return the free bytes where a local folder is or will be; None for other storage."""
    if not out.is_local:
        return None
    folder = out.root
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder or "/").free


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1024
    return f"{count:,.3g} TiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _resources(resources: Resources) -> str:
    parts = [f"{resources.cpus:g} CPUs", f"{resources.gpus:g} GPUs", f"{_bytes(resources.memory)} of memory"]
    return ", ".join(parts)
