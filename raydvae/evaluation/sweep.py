"""What a classifier learns at different KLD targets: the paper's Figure 2, Figure 6 and Table 18, on any data.

"pairs" purifies with each pair of targets (Table 18). "dvae" and "vae" train one model at each target and take its
reconstruction x_hat of the data as it came (Figure 6, and Figure 2 with the plain VAE). A point leaves a record; a
killed sweep goes on, and points that share the first target share the model of stage 1.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from raydvae.config import ClassifyConfig, PurifyConfig, RateLossConfig, to_dict
from raydvae.data.codecs import Array
from raydvae.data.dataset import Classes, Dataset, Rows, open_dataset
from raydvae.data.manifest import Run, check_rejected
from raydvae.data.store import Store
from raydvae.engine import Engine, Silent, Watch, apply_to_units, held
from raydvae.errors import ConfigError
from raydvae.evaluation.protocol import classify
from raydvae.purify.algorithm import purify, training
from raydvae.purify.inference import Inference, load_vae
from raydvae.purify.passes import Pass
from raydvae.training.checkpoint import METRICS, MODEL
from raydvae.training.loop import resolve_slices
from raydvae.training.tasks import VAETask
from raydvae.tuning.experiment import with_targets

Kind = Literal["pairs", "dvae", "vae"]
TABLE_18 = ((1.5, 2.5), (1.5, 3.0), (0.5, 3.0), (1.0, 3.5), (1.0, 3.0))
FIGURES = ((0.25, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0))
RECORD, TABLE = "point.json", "accuracy.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Targets and what came of them: PSNR in dB of the last reconstruction and its input, accuracy in percent.

    ``kld2`` is 0 where one model is used. ``front`` says that no other point has both a higher PSNR and accuracy.
    """

    kld1: float
    kld2: float
    psnr: float
    test_acc: float
    seconds: float
    front: bool = False


class ReconstructInput(Pass):
    """x_hat of the data as it came, by one D-VAE."""

    def compute(self, rows: Rows) -> tuple[Array, dict[str, Any]]:
        """Return x_hat (N, H, W, 3) uint8, and the sum of PSNR(x, x_hat) in dB."""
        assert self.inference is not None
        out = self.inference.reconstructed(rows)
        mse = np.square((rows.images.astype(np.float64) - out) / 255).mean(axis=(1, 2, 3))
        return out, {"psnr_sum": float((-10 * np.log10(np.maximum(mse, 1e-10))).sum())}

    def commit(self, rows: Rows, result: tuple[Array, dict[str, Any]]) -> dict[str, Any]:
        """Publish the unit's reconstructions."""
        return self.run.commit(self.name, self.data, rows, result[0], notes=result[1])


class ReconstructByVAE(ReconstructInput):
    """The same by a plain VAE."""

    def load(self, device: torch.device) -> None:
        """Load the model."""
        self.inference = Inference(load_vae(self.store, self.architecture).to(device), self.config, device)


def sweep(
    data: Dataset,
    test: Dataset,
    classes: Classes,
    out: Store,
    config: PurifyConfig,
    classifier: ClassifyConfig,
    kind: Kind,
    targets: Sequence[tuple[float, float]],
    engine: Engine,
    watch: Watch | None = None,
) -> list[Point]:
    """Measure PSNR and test accuracy at each of ``targets``, or go on with that; table and points are kept in ``out``.

    Raises `ConfigError` for targets below 0 or none at all.
    """
    if not targets:
        raise ConfigError("There is no KLD target to sweep; give --kld1, and --kld2 for pairs.")
    for pair in targets:
        for kld in pair:
            RateLossConfig(kld_target=kld)
    run = Run(out)
    with held(run, watch or Silent()) as watch:
        known = {"classes": {"count": classes.count, "names": classes.names}, "classifier": to_dict(classifier)}
        run.open("sweep", to_dict(config) | {"sweep": kind}, data, known)
        work = _Sweep(run, data, test, classes, config, classifier, kind, engine, watch)
        points = front([work.point(*pair) for pair in targets])
        _write(run, points)
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points with those marked that no other one surpasses in PSNR and accuracy."""

    def surpassed(point: Point) -> bool:
        return any(
            other.psnr >= point.psnr
            and other.test_acc >= point.test_acc
            and (other.psnr, other.test_acc) != (point.psnr, point.test_acc)
            for other in points
        )

    return [dataclasses.replace(point, front=not surpassed(point)) for point in points]


@dataclass(frozen=True, slots=True)
class _Sweep:
    run: Run
    data: Dataset
    test: Dataset
    classes: Classes
    config: PurifyConfig
    classifier: ClassifyConfig
    kind: Kind
    engine: Engine
    watch: Watch

    def point(self, kld1: float, kld2: float) -> Point:
        home = self.run.home.sub(f"points/{kld1:g}-{kld2:g}")
        if not home.exists(RECORD):
            started = time.monotonic()
            psnr = self._purified(home, kld1, kld2) if self.kind == "pairs" else self._reconstructed(home, kld1)
            made = open_dataset(home.sub("data").uri, self.config.data, self.run.store.options)
            accuracy = classify(
                made,
                self.test,
                self.classes,
                self.config.image_size,
                self.classifier,
                home.sub("classifier"),
                self.engine,
                self.watch,
            )
            seconds = round(time.monotonic() - started, 2)
            point = Point(kld1=kld1, kld2=kld2, psnr=psnr, test_acc=accuracy.test_acc, seconds=seconds)
            home.write_json(RECORD, dataclasses.asdict(point))
        return Point(**home.read_json(RECORD))

    def _purified(self, home: Store, kld1: float, kld2: float) -> float:
        made = Run(home.sub("data"))
        shared = self.run.home.sub(f"stage1/{kld1:g}")
        if shared.exists(MODEL):
            _copy(shared, made.home.sub("stage1"))
        config = with_targets(self.config, kld1, kld2)
        purify(self.data, self.classes, made.store, config, self.engine, self.watch)
        _copy(made.home.sub("stage1"), shared)
        return _mean_psnr(made, "pass3")

    def _reconstructed(self, home: Store, kld: float) -> float:
        config = with_targets(self.config, kld, kld)
        slices = resolve_slices(config.stage1.train, self.engine.workers, self.engine.device)
        stage = dataclasses.replace(config.stage1, train=dataclasses.replace(config.stage1.train, slices=slices))
        job = training(home.sub("model"), "model", stage, self.data, self.classes, config)
        job = dataclasses.replace(job, task=VAETask(stage.model, stage.loss, disentangle=self.kind == "dvae"))
        with self.watch.step(f"kld {kld:g}", stage.train.epochs, "epochs") as advance:
            self.engine.train(job, progress=advance)
        made = Run(home.sub("data"))
        kind = ReconstructInput if self.kind == "dvae" else ReconstructByVAE
        work = kind("reconstruct", made, self.data, self.classes, config, stage.model, job.store)
        apply_to_units(self.engine, made, work, self.data, self.watch)
        rejected = sum(record["rows_rejected"] for record in made.records("reconstruct"))
        check_rejected(rejected, self.data.rows, self.config.data.reject_limit, f"see {made.home.uri}/rejected")
        return _mean_psnr(made, "reconstruct")


def _copy(source: Store, target: Store) -> None:
    if not target.exists(MODEL):
        for name in (METRICS, MODEL):  # the model last: it is what tells that the training is finished
            target.write(name, source.read(name))


def _mean_psnr(run: Run, step: str) -> float:
    records = run.records(step)
    return float(sum(record["psnr_sum"] for record in records) / sum(record["rows_out"] for record in records))


def _write(run: Run, points: Sequence[Point]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Point)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(point) for point in points)
    run.store.write(TABLE, text.getvalue().encode())
