"""From evidence on each row to a decision: the paper's rule, and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydvae.detection.mixture import Mixture, fit
from raydvae.detection.trial import Trial

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Attempt = Callable[[str, Mask], Trial]
SEPARATION = 2.0  # Ashman's D from which two components have a valley between them
GAIN = 0.02  # nats a row that two components must explain better than one
COLUMNS = ("residual", "peak", "margin", "early", "without")
LEAST = 0.005  # share of the rows that either component must have
MOST_TRIALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A number for each row that is larger where it is poisoned, if the data set is; and what was found in it."""

    name: str
    axis: str
    values: Floats
    mixture: Mixture
    trial: Trial | None = None

    @property
    def lacking(self) -> str:
        """What its two components lack of being two kinds of rows, in words; nothing where they are."""
        mixture = self.mixture
        if not mixture.separation > SEPARATION:
            return f"a separation above {SEPARATION:g}"
        if mixture.gain <= GAIN:
            return f"to explain a row by {GAIN:g} nats better than one component, not by {max(0.0, mixture.gain):.3f}"
        if not LEAST < mixture.share < 1 - LEAST:
            return f"more than {100 * LEAST:g} % of the rows each"
        return ""

    @property
    def stands_out(self) -> bool:
        """Whether there are two kinds of rows in it."""
        return not self.lacking


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The decision on each row, and on all: ``share`` of the rows that are unlearnable, with its standard error.

    ``score`` is the probability that a row is unlearnable; ``evidence`` is what the decision rests on, best first.
    """

    score: Floats
    flagged: Mask
    share: float
    share_error: float
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence on the data set."""
        if not self.flagged.any():
            return "clean"
        error = max(1, round(100 * self.share_error))
        return f"about {100 * self.share:.0f} % ± {error} of these rows are unlearnable"


def paper(table: pa.Table) -> Judged:
    """The paper's rule: a row is unlearnable if the classifier that was trained on P_hat predicts its label from it."""
    flagged = table["margin"].to_numpy() > 0
    share = float(flagged.mean()) if len(flagged) else 0.0
    return Judged(
        score=np.exp(table["log_p"].to_numpy().astype(np.float64)),
        flagged=flagged,
        share=share,
        share_error=float(np.sqrt(share * (1 - share) / max(1, len(flagged)))),
    )


def shortcut(table: pa.Table, attempt: Attempt) -> Judged:
    """Our rule: rows that stand out by some evidence, if what they teach a classifier does not carry over to others.

    The score is the row's probability of being of the upper component; without such rows the data set is clean.
    """
    found = [Evidence(name=n, axis=axis, values=v, mixture=fit(v)) for n, axis, v in evidence_of(table)]
    found.sort(key=lambda evidence: (evidence.stands_out, evidence.mixture.separation), reverse=True)
    for place, evidence in enumerate(found[:MOST_TRIALS]):
        if not evidence.stands_out:
            break
        score = evidence.mixture.posterior(evidence.values)
        trial = attempt(evidence.name, score > 0.5)
        found[place] = Evidence(
            name=evidence.name, axis=evidence.axis, values=evidence.values, mixture=evidence.mixture, trial=trial
        )
        if trial.unlearnable:
            found.insert(0, found.pop(place))
            mixture = evidence.mixture
            return Judged(
                score=score,
                flagged=score > 0.5,
                share=mixture.share,
                share_error=max(mixture.error, 1 / len(score)),
                evidence=found,
            )
    none = np.zeros(table.num_rows)
    return Judged(score=none, flagged=none > 0, share=0.0, share_error=0.0, evidence=found)


def evidence_of(table: pa.Table) -> list[tuple[str, str, Floats]]:
    """Return name, meaning and values of each kind of evidence."""
    column = {name: table[name].to_numpy().astype(np.float64) for name in COLUMNS}
    return [
        ("residual", "log of the mean square of x − x̂", np.log(column["residual"] + 1e-8)),
        ("peak", "log of the largest value of |x − x̂|", np.log(column["peak"] + 1e-4)),
        ("margin", "lead of the label in nats, by the classifier trained on x + p̂", column["margin"]),
        ("early", "the same lead after a tenth of that training", column["early"]),
        ("change", "how much of that lead is lost when p̂ is taken off", column["margin"] - column["without"]),
    ]
