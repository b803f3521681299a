"""Applying a data transform to a data set, unit by unit: the same committed, resumable work as a purification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydvae.data.classes import Classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.units import Unit
from raydvae.defenses.configs import (
    BDRConfig,
    DefenseConfig,
    GaussianConfig,
    GrayConfig,
    JPEGConfig,
    LFUConfig,
    MedianConfig,
    ModelConfig,
)
from raydvae.defenses.lfu import Batch, basis_of, fit, project, to_bytes
from raydvae.defenses.purifiers import Change, check_model, check_source, get_model, load_change
from raydvae.defenses.transforms import gaussian, grayscale, jpeg, median, reduce_depth
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held, one_thread, units_left
from raydvae.errors import ConfigError
from raydvae.seeds import derive
from raydvae.training.checkpoint import load_tensors, save_tensors
from raydvae.training.feed import to_float

STEP = "defend"
LINEAR = "lfu.safetensors"
BATCH = 128
CPU = torch.device("cpu")


@dataclass(slots=True)
class DefendWork:
    """Transform the images of each unit."""

    run: Run
    data: Dataset
    classes: Classes
    config: DefenseConfig
    image_size: int
    name: str = STEP
    transform: Callable[[Rows], Array] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"transform": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, self.image_size)

    def load(self, device: torch.device) -> None:
        """Load what was fitted or trained, if the transform needs that."""
        config, home = self.config, self.run.home
        if isinstance(config, LFUConfig):
            basis = load_tensors(home, LINEAR)["basis"].to(device)
            self.transform = lambda rows: projected(rows.images, basis)
        elif isinstance(config, ModelConfig):
            change, seed = load_change(config, self.image_size, home, device), config.seed

            def changed_rows(rows: Rows) -> Array:
                generator = torch.Generator(device).manual_seed(derive(seed, self.name, rows.unit.id))
                return changed(rows.images, change, generator)

            self.transform = changed_rows
        else:
            self.transform = lambda rows: transformed(rows.images, config)

    def compute(self, rows: Rows) -> Array:
        """Return the transformed images (N, H, W, 3) uint8."""
        assert self.transform is not None
        return self.transform(rows)

    def commit(self, rows: Rows, result: Array) -> dict[str, Any]:
        """Publish the unit."""
        return self.run.commit(self.name, self.data, rows, result)


def transformed(images: Array, config: DefenseConfig) -> Array:
    """Return ``images`` (N, H, W, 3) uint8 under a transform that needs nothing fitted or trained."""
    if isinstance(config, BDRConfig):
        return reduce_depth(images, config.depth)
    if isinstance(config, JPEGConfig):
        return jpeg(images, config.quality)
    if isinstance(config, GaussianConfig):
        return gaussian(images, config.kernel, config.sigma)
    if isinstance(config, MedianConfig):
        return median(images, config.kernel)
    assert isinstance(config, GrayConfig)
    return grayscale(images)


def projected(images: Array, basis: Tensor) -> Array:
    """Return ``images`` (N, H, W, 3) uint8 without their component in the space of ``basis`` (3HW, C)."""
    out = np.empty_like(images)
    # Batches of fixed size from the unit's first row: a product of matrices may depend on its size in the last bit.
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        pixels = torch.from_numpy(images[part]).to(basis.device).flatten(1).float() / 255
        out[part] = to_bytes(project(pixels, basis)).reshape(-1, *images.shape[1:]).cpu().numpy()
    return out


def changed(images: Array, change: Change, generator: torch.Generator) -> Array:
    """Return what ``change`` makes of ``images`` (N, H, W, 3) uint8."""
    out = np.empty_like(images)
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        x = to_float(torch.from_numpy(images[part]).permute(0, 3, 1, 2).to(generator.device))
        out[part] = to_bytes(change(x, generator)).permute(0, 2, 3, 1).cpu().numpy()
    return out


def prepare(work: DefendWork, engine: Engine, watch: Watch) -> None:
    """Fit or train what the transform needs and has not got yet."""
    if isinstance(work.config, LFUConfig):
        _fit_linear(work, work.config, watch)
    elif isinstance(work.config, ModelConfig):
        get_model(work.config, work.data, work.classes, work.image_size, work.run.home, engine, watch)


def _fit_linear(work: DefendWork, config: LFUConfig, watch: Watch) -> None:
    """Fit LFU's linear classifier; a stopped fit begins anew.

    Here and on the CPU: decoding takes the time, and the driver of a cluster may have no GPU.
    """
    home = work.run.home
    if home.exists(LINEAR):
        return

    def epoch() -> Iterator[Batch]:
        for unit in work.data.units():
            rows = work.read(unit)
            yield torch.from_numpy(rows.images), torch.from_numpy(rows.labels)

    with watch.step("linear", config.epochs, "epochs") as advance, one_thread(CPU):

        def progress(number: int, loss: float) -> None:
            advance({"epoch": number, "cross_entropy": loss})

        dimensions = 3 * work.image_size**2
        weights = fit(epoch, dimensions, work.classes.count, config, CPU, progress)
        tensors = {"weights": weights, "basis": basis_of(weights).contiguous()}
    save_tensors(home, LINEAR, tensors)


def check(config: DefenseConfig, image_size: int, num_classes: int) -> None:
    """Raise `ConfigError` for what this data set's classes and image size rule out, before any work."""
    kernel = getattr(config, "kernel", 0)
    if kernel > image_size:
        raise ConfigError(f"kernel is {kernel}, and images have {image_size} pixels; give a smaller odd number.")
    if isinstance(config, ModelConfig):
        check_model(config, image_size)
    if isinstance(config, LFUConfig) and not 2 <= num_classes < 3 * image_size**2:
        raise ConfigError(
            f"LFU removes as many dimensions as there are classes, and there are {num_classes} classes for "
            f"{3 * image_size**2} values an image; it needs at least 2, and fewer than values."
        )


def defend(
    config: DefenseConfig,
    data: Dataset,
    classes: Classes,
    image_size: int,
    run: Run,
    engine: Engine,
    watch: Watch | None = None,
    verify: bool = False,
) -> dict[str, int]:
    """Transform a data set into ``run``'s folder, or go on with it; return the counts of rows.

    Units whose files are damaged are done again; with ``verify`` all sums are compared.

    All rows are transformed, poisoned or not: nobody who defends knows which are. Labels play no part but in LFU's fit.
    Models are trained on the same data set, but for AVATAR's, which needs clean images.
    """
    check(config, image_size, classes.count)
    if isinstance(config, ModelConfig) and not run.exists():
        check_source(config, data)
    about = {"defense": config.kind, "image_size": image_size, **asdict(config)}
    with held(run, watch or Silent(), "defend", data) as (run, watch):
        run.open("defend", about, data, {"classes": classes.to_dict()})
        work = DefendWork(run, data, classes, config, image_size)
        if left := units_left(run, work.name, data, verify):
            prepare(work, engine, watch)
            apply_to_units(engine, run, work, data, watch, left)
        records = run.records(STEP)
    counts = {name: sum(record[name] for record in records) for name in ("rows_in", "rows_out", "rows_rejected")}
    check_rejected(counts["rows_rejected"], data.rows, data.data.reject_limit, f"see {run.home.uri}/rejected")
    return counts
