"""The passes of detection and growth as work on units: adding p_hat to images, and asking a classifier about them.

Like those of a purification they are read and committed in processes that have no use for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.config import Quantize
from raydvae.data.classes import Classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import HOME, Run, described, parquet_bytes
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.units import Unit
from raydvae.detection.configs import DetectConfig
from raydvae.purify.passes import Pass
from raydvae.seeds import derive

if TYPE_CHECKING:
    import torch

    from raydvae.detection.judging import Judge

ADDED = "work/added"
STAGE, JUDGE, SCORE = "stage1", "judge", "score"
SIDES = ("suspects", "others")
EARLY = 0.1  # share of the judge's training by which shortcuts are learned and little else


class AddPass(Pass):
    """P_hat = clamp(x + p_hat), with the D-VAE of stage 1: the data set that the paper's detection trains on."""

    def compute(self, rows: Rows) -> Array:
        """Return x + p_hat (N, H, W, 3) uint8."""
        assert self.inference is not None
        return added(rows.images, self.inference.subtracted(rows)[1], self.config.quantize)

    def commit(self, rows: Rows, result: Array) -> dict[str, Any]:
        """Publish the unit's part of P_hat, which is no part of the output."""
        return self.run.commit(self.name, self.data, rows, result, folder=f"_raydvae/{ADDED}")


def added(images: Array, p_hat: npt.NDArray[np.float32], quantize: Quantize) -> Array:
    """Return ``images`` (N, H, W, 3) uint8 with ``p_hat``, of the same shape and on the scale of [0, 1], added."""
    x = (images.astype(np.float32) / 255 + p_hat).clip(0, 1) * 255
    return (np.rint(x) if quantize == "round" else x).astype(np.uint8)


@dataclass(slots=True)
class AskPass:
    """Ask models about each row; what they answer lies in a folder of the run, a table a unit."""

    run: Run
    data: Dataset
    classes: Classes
    config: DetectConfig
    name: str = SCORE
    models: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in AskPass.__slots__} | {"models": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        size = self.config.purify.image_size
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, size)

    def judge(self, folder: str, device: torch.device, *weights: str) -> Judge:
        """Return the classifier whose finished training lies in ``folder``, or ``weights`` that were kept of it."""
        from raydvae.detection.judging import Judge

        chosen, batch = self.config.classifier.model, self.config.purify.pass_batch
        return Judge.load(self.run.home.sub(folder), chosen, self.classes.count, device, batch, *weights)

    def commit(self, rows: Rows, result: dict[str, Any]) -> dict[str, Any]:
        """Write the unit's answers and its rejected rows, then the record that makes them count."""
        table = pa.table({"row_id": pa.array(rows.row_ids, pa.string()), "label": rows.labels, **result})
        files = {f"{HOME}/answers/{self.name}/{rows.unit.file}": parquet_bytes(table)}
        self.run.write(files)
        files |= self.run.reject(rows)
        record = {
            "unit": rows.unit.id,
            "rows_in": rows.unit.rows,
            "rows_out": table.num_rows,
            "rows_rejected": rows.rejected.num_rows,
            "files": described(files),
        }
        return self.run.record(self.name, record)

    def answers(self) -> pa.Table:
        """Return the answers on all rows, in order."""
        home, units = self.run.home, sorted(self.run.done(self.name))
        parts = home.read_many([f"answers/{self.name}/{unit}.parquet" for unit in units]).values()
        return pa.concat_tables(pq.read_table(pa.BufferReader(part)) for part in parts)


class ScorePass(AskPass):
    """What the D-VAE cannot explain of each row, and what the classifier that was trained on P_hat says of it."""

    def load(self, device: torch.device) -> None:
        """Load both models."""
        from raydvae.purify.inference import Inference

        purify = self.config.purify
        inference = Inference.load(self.run.home.sub(STAGE), purify.stage1.model, purify, device)
        early = f"kept/epoch-{early_epoch(self.config) + 1:06d}.safetensors"
        self.models = inference, self.judge(JUDGE, device), self.judge(JUDGE, device, early)

    def compute(self, rows: Rows) -> dict[str, Any]:
        """Return columns of the rows.

        ``residual`` and ``peak`` are the mean square and the largest value of x - x_hat, on the scale of [0, 1];
        ``log_p`` the log probability of the label, ``margin`` its lead over the best other class in nats, ``early`` the
        lead after a tenth of the training, and ``without`` the lead once p_hat is taken off.
        """
        from raydvae.detection.judging import margins

        inference, judge, early = self.models
        x_hat, p_hat = inference.disentangled(rows)
        left = rows.images.astype(np.float32) / 255 - x_hat
        log_p = judge.log_p(rows.images)
        without = judge.log_p(added(rows.images, -p_hat, "round"))
        return {
            "residual": np.square(left).mean(axis=(1, 2, 3)),
            "peak": np.abs(left).max(axis=(1, 2, 3), initial=0),
            "log_p": log_p[np.arange(len(log_p)), rows.labels],
            "margin": margins(log_p, rows.labels),
            "early": margins(early.log_p(rows.images), rows.labels),
            "without": margins(without, rows.labels),
        }


class TrialPass(AskPass):
    """Ask the two classifiers of a trial about the half of the rows that they were not trained on."""

    def load(self, device: torch.device) -> None:
        """Load the classifiers of both halves: trained on suspects, and on as many others."""
        self.models = {
            (half, side): self.judge(f"trials/{self.name}/{side}-{half}", device) for half in (0, 1) for side in SIDES
        }

    def compute(self, rows: Rows) -> dict[str, Any]:
        """Return the margins in nats by classifiers that were trained on rows of the other half."""
        from raydvae.detection.judging import margins

        half = halves(rows.row_ids, self.config.purify.seed)
        out = {side: np.zeros(len(half), np.float32) for side in SIDES}
        for (trained, side), judge in self.models.items():
            asked = half != trained
            out[side][asked] = margins(judge.log_p(rows.images[asked]), rows.labels[asked])
        return out


def early_epoch(config: DetectConfig) -> int:
    """Return the epoch, counted from 0, after which a tenth of the judge's training is done."""
    return max(0, round(EARLY * config.classifier.train.epochs) - 1)


def halves(row_ids: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Return the half, 0 or 1, that each row belongs to."""
    return np.array([derive(seed, "half", row_id) % 2 for row_id in row_ids], np.int64)
