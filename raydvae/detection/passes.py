"""The passes of detection and growth as work on units: adding p_hat to images, and asking a classifier about them.

Like those of a purification they are read and committed in processes that have no use for torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.config import Quantize
from raydvae.data.codecs import Array
from raydvae.data.dataset import Classes, Dataset, Rows, Unit, decode_rows
from raydvae.data.manifest import Run, parquet_bytes
from raydvae.detection.configs import DetectConfig
from raydvae.purify.passes import Pass

if TYPE_CHECKING:
    import torch

    from raydvae.detection.judging import Judge

ADDED = "work/added"
JUDGE, SCORE, SCORES = "judge", "score", "scores"


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
class ScorePass:
    """Ask the classifier that was trained on P_hat about each row as it came; its answers lie in ``scores/``."""

    run: Run
    data: Dataset
    classes: Classes
    config: DetectConfig
    name: str = SCORE
    judge: Judge | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"judge": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def read(self, unit: Unit) -> Rows:
        """Read and decode one unit."""
        size = self.config.purify.image_size
        return decode_rows(self.data, unit, self.data.read(unit), self.classes, size)

    def load(self, device: torch.device) -> None:
        """Load the classifier."""
        from raydvae.detection.judging import Judge

        chosen, batch = self.config.classifier.model, self.config.purify.pass_batch
        self.judge = Judge.load(self.run.home.sub(JUDGE), chosen, self.classes.count, device, batch)

    def compute(self, rows: Rows) -> pa.Table:
        """Return the unit's row_id, label, margin in nats, and log_p, the log probability of the label."""
        from raydvae.detection.judging import margins

        assert self.judge is not None
        log_p = self.judge.log_p(rows.images)
        return pa.table(
            {
                "row_id": pa.array(rows.row_ids, pa.string()),
                "label": rows.labels,
                "margin": margins(log_p, rows.labels),
                "log_p": log_p[np.arange(len(log_p)), rows.labels],
            }
        )

    def commit(self, rows: Rows, result: pa.Table) -> dict[str, Any]:
        """Write the unit's scores and its rejected rows, then the record that makes them count."""
        home = self.run.home
        home.write(f"{SCORES}/{rows.unit.file}", parquet_bytes(result))
        if rows.rejected.num_rows:
            home.write(f"rejected/{rows.unit.file}", parquet_bytes(rows.rejected))
        record = {
            "unit": rows.unit.id,
            "rows_in": rows.unit.rows,
            "rows_out": result.num_rows,
            "rows_rejected": rows.rejected.num_rows,
        }
        home.write_json(f"commits/{self.name}/{rows.unit.id}.json", record)
        return record
