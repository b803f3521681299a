"""Two normal components in a column of numbers: how many rows are of the upper one, and which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 400  # that the numbers are counted in first: a fit costs the same for a thousand rows and a billion
TAIL = 0.001  # share of the numbers on either side that count as the last one before them
ROUNDS = 500
TOLERANCE = 1e-6  # of the mean log likelihood, at which a fit has settled
FLOOR = 1e-3  # least standard deviation of a component, as a share of the range
RESAMPLED = 20
OVERLAPPING, UNKNOWN = 1.5, 0.5  # separation up to which no error is worked out, and what it is then
SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the upper component that fits begin from


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """``share`` of the numbers are of the upper component, within ``error`` (one standard deviation, resampled).

    ``separation`` is Ashman's D: above 2 the components have a valley between them. ``gain`` is how much better in
    nats a number is explained by two components than by one.
    """

    share: float
    error: float
    means: tuple[float, float]
    deviations: tuple[float, float]
    separation: float
    gain: float

    def posterior(self, values: npt.NDArray[np.floating]) -> Floats:
        """Return the probability that each of ``values`` is of the upper component; it never falls as they rise."""
        # Where the lower component is the wider one, plain probabilities would fall again beyond the upper one.
        x = np.asarray(values, np.float64).clip(*self.means)
        lower, upper = _log_densities(x, self.share, self.means, self.deviations)
        between: Floats = 1 / (1 + np.exp((lower - upper).clip(-700, 700)))
        return between


def fit(values: npt.NDArray[np.floating], seed: int = 0) -> Mixture:
    """Fit two components to ``values``; numbers that are all the same have a share of 0 and no separation."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if len(x):
        low, high = np.quantile(x, (TAIL, 1 - TAIL))
        x = x.clip(low, high)  # a few far ones would leave no bins for the others
    if not len(x) or x.min() == x.max():
        middle = float(x[0]) if len(x) else 0.0
        return Mixture(share=0.0, error=0.0, means=(middle, middle), deviations=(0.0, 0.0), separation=0.0, gain=0.0)
    counts, edges = np.histogram(x, BINS)
    centers, floor = (edges[1:] + edges[:-1]) / 2, FLOOR * (edges[-1] - edges[0])
    best = max((_settle(centers, counts, floor, _start(centers, counts, split, floor)) for split in SPLITS), key=_last)
    share, means, deviations, likelihood = best
    separation = math.sqrt(2) * (means[1] - means[0]) / math.hypot(*deviations)
    error = UNKNOWN
    if separation > OVERLAPPING:
        rng, rows = np.random.default_rng(seed), counts.sum()
        drawn = [rng.multinomial(rows, counts / rows) for _ in range(RESAMPLED)]
        error = float(np.std([_settle(centers, again, floor, best)[0] for again in drawn]))
    mean = float(np.average(centers, weights=counts))
    whole = max(floor, math.sqrt(np.average((centers - mean) ** 2, weights=counts)))
    alone = float(np.average(_log_normal(centers, mean, whole), weights=counts))
    return Mixture(
        share=share,
        error=error,
        means=means,
        deviations=deviations,
        separation=separation,
        gain=likelihood - alone,
    )


Fit = tuple[float, tuple[float, float], tuple[float, float], float]


def _last(fitted: Fit) -> float:
    return fitted[3]


def _start(x: Floats, counts: npt.NDArray[Any], split: float, floor: float) -> Fit:
    below = np.cumsum(counts) <= (1 - split) * counts.sum()
    below[0], below[-1] = True, False
    parts = [_moments(x, counts * part, floor) for part in (below, ~below)]
    return split, (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1]), -math.inf


def _moments(x: Floats, weights: npt.NDArray[Any], floor: float) -> tuple[float, float]:
    total = max(1e-12, float(weights.sum()))
    mean = float((weights * x).sum()) / total
    return mean, max(floor, math.sqrt(float((weights * (x - mean) ** 2).sum()) / total))


def _settle(x: Floats, counts: npt.NDArray[Any], floor: float, begin: Fit) -> Fit:
    """Run expectation maximization to its end."""
    share, means, deviations, _ = begin
    weights = counts.astype(np.float64)
    before = -math.inf
    for _ in range(ROUNDS):
        lower, upper = _log_densities(x, share, means, deviations)
        both = np.logaddexp(lower, upper)
        likelihood = float(np.average(both, weights=counts))
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
        of_upper = np.exp(upper - both) * weights
        share = min(1 - 1e-6, max(1e-6, float(of_upper.sum() / counts.sum())))
        first, second = _moments(x, weights - of_upper, floor), _moments(x, of_upper, floor)
        means, deviations = (first[0], second[0]), (first[1], second[1])
    if means[0] > means[1]:
        share, means, deviations = 1 - share, (means[1], means[0]), (deviations[1], deviations[0])
    return share, means, deviations, likelihood


def _log_densities(
    x: Floats, share: float, means: tuple[float, float], deviations: tuple[float, float]
) -> tuple[Floats, Floats]:
    lower = math.log(max(1e-300, 1 - share)) + _log_normal(x, means[0], deviations[0])
    upper = math.log(max(1e-300, share)) + _log_normal(x, means[1], deviations[1])
    return lower, upper


def _log_normal(x: Floats, mean: float, deviation: float) -> Floats:
    deviation = max(deviation, 1e-12)
    out: Floats = -0.5 * ((x - mean) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))
    return out
