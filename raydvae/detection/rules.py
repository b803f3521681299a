"""From what classifiers say of each row to a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The decision on each row, and on all: ``share`` of the rows that are unlearnable, with its standard error.

    ``score`` is in [0, 1]; ``evidence`` is what the decision rests on, for the report.
    """

    score: Floats
    flagged: npt.NDArray[np.bool_]
    share: float
    share_error: float
    evidence: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence on the data set."""
        if not self.flagged.any():
            return "clean"
        return f"about {self.share:.0%} ± {max(1, round(100 * self.share_error))} of these rows are unlearnable"


def paper(table: pa.Table, num_classes: int) -> Judged:
    """The paper's rule: a row is unlearnable if the classifier trained on P_hat predicts its label from it."""
    margin = table["margin"].to_numpy()
    flagged = margin > 0
    share = float(flagged.mean()) if len(flagged) else 0.0
    return Judged(
        score=np.exp(table["log_p"].to_numpy().astype(np.float64)),
        flagged=flagged,
        share=share,
        share_error=float(np.sqrt(share * (1 - share) / max(1, len(flagged)))),
        evidence={},
    )


RULES: dict[str, Callable[[pa.Table, int], Judged]] = {"paper": paper}
