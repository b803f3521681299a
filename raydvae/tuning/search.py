"""Which KLD target to try next, so that PSNR(x, x_hat) falls into a window; pure bookkeeping, nothing is trained here.

PSNR rises with the KLD target, and about evenly with its logarithm. `Bisect` brackets the window and cuts the bracket
into sections, several trials at a time. Measurements are noisy: what counts is the monotone curve that fits them best.

A search works in rounds: `Search.ask` gives the targets of a round until all of them are told, so the next round is a
function of finished rounds only, in whatever order trials end. That is what lets a killed search be replayed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from raydvae.errors import ConfigError
from raydvae.seeds import derive

Window = tuple[float, float]
Strategy = Literal["bisect", "grid", "random", "optuna"]
LIMITS = (0.02, 32.0)  # nats a latent position: below, x_hat is a blur; above, the rate no longer binds
MARGIN = 1 / 8  # of a window at either side, where a noisy measurement is not trusted to be inside
SPREAD = 4.0  # factor between the first targets
REACH = (1.5, 16.0)  # least and greatest factor by which a search goes on beyond what it has tried
RESOLUTION = math.log(1.02)  # a bracket narrower than this is a leap
KNEE = 0.25  # dB below the best that count as no worse
DIGITS = 4  # significant ones of a target: its name on storage


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a search stands: ``found`` with its ``target``, ``unreachable`` with why, or neither: still open or spent.

    ``reach`` is the range of PSNR that was measured, in dB; where the window lies beyond a limit, ``edges``
    are the targets to look closer at: the start, the first that is about as good as the one at the limit, and that one.
    """

    found: bool
    target: float | None
    unreachable: str
    reach: Window
    edges: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class Search:
    """A search for one window, in dB. ``start`` is the first guess, ``width`` the trials of a round.

    At most ``trials`` targets are asked for. Raises `ConfigError` for a window or counts that make no sense.
    """

    name: ClassVar[str] = ""
    window: Window
    start: float = 1.0
    width: int = 1
    trials: int = 8
    seed: int = 0
    limits: Window = LIMITS
    rounds: list[list[float]] = field(default_factory=list)
    told: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_window(self.window)
        if self.trials < 1 or self.width < 1:
            raise ConfigError(f"{self.trials} trials, {self.width} at a time: give at least one of each.")
        low, high = self.limits
        if not 0 < low < high < math.inf:
            raise ConfigError(f"KLD targets are searched in {low}:{high}; give two positive numbers, smaller first.")
        self.start = min(max(self.start, low), high)

    def ask(self) -> list[float]:
        """Return the targets of this round that are not told yet; none when the search is over."""
        if left := [kld for kld in self._last if kld not in self.told]:
            return left
        room = self.trials - len(self.told)
        if room < 1 or self.over():
            return []
        fresh: list[float] = []
        for kld in self.propose(min(self.width, room)):
            kld = significant(min(max(kld, self.limits[0]), self.limits[1]))
            if kld not in self.told and kld not in fresh:
                fresh.append(kld)
        if fresh:
            self.rounds.append(fresh)
        return fresh

    def tell(self, kld: float, psnr: float) -> None:
        """Take the PSNR in dB that target ``kld`` of this round led to."""
        if kld not in self._last:
            raise ConfigError(f"The KLD target {kld} was not asked for in this round: {self._last}.")
        if not math.isfinite(psnr):
            raise ConfigError(f"PSNR at the KLD target {kld} is {psnr}; it must be finite.")
        self.told[kld] = psnr

    def propose(self, count: int) -> list[float]:
        """Return up to ``count`` targets of a new round."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether nothing more needs to be tried."""
        verdict = self.verdict()
        return verdict.found or bool(verdict.unreachable)

    @property
    def aim(self) -> float:
        """The PSNR to end at: the middle of the window."""
        return sum(self.window) / 2

    @property
    def inner(self) -> Window:
        """The part of the window in which a measurement is trusted."""
        low, high = self.window
        return low + MARGIN * (high - low), high - MARGIN * (high - low)

    def verdict(self) -> Verdict:
        """Return how the search stands. When it is over, a measurement anywhere in the window counts."""
        if not self.told:
            return Verdict(False, None, "", (math.nan, math.nan))
        reach = (min(self.told.values()), max(self.told.values()))
        klds, psnrs = monotone(self.told)
        low, high = self.inner
        why = self._why_unreachable(klds, psnrs)
        waits = any(kld not in self.told for kld in self._last)
        ended = why or len(self.told) >= self.trials or any(low <= psnr <= high for psnr in psnrs)
        if waits or not ended:
            return Verdict(False, None, "", reach)
        edges = self._edges(klds, psnrs)
        target = None if edges else self._target(klds, psnrs)
        if target is not None:
            return Verdict(True, target, "", reach)
        return Verdict(False, None, why, reach, edges)

    def _target(self, klds: Sequence[float], psnrs: Sequence[float]) -> float | None:
        """Return where the curve is at the window's middle, or the best target measured to be inside.

        The best one is the nearest to the middle; where the curve ends below that, the smallest.
        """
        low, high = self.window
        inside = [(abs(psnr - self.aim), kld) for kld, psnr in zip(klds, psnrs, strict=True) if low <= psnr <= high]
        if not inside:
            return None
        at = bisect_left(psnrs, self.aim)
        if 0 < at < len(psnrs) and low <= psnrs[at - 1] and psnrs[at] <= high:
            return significant(solve(klds, psnrs, self.aim))
        if psnrs[-1] < self.aim:  # it levels off below the middle: what more nats bring is not worth them
            low = min(self.inner[0], psnrs[-1])
            return next(kld for kld, psnr in zip(klds, psnrs, strict=True) if psnr >= low)
        return min(inside)[1]

    def _why_unreachable(self, klds: Sequence[float], psnrs: Sequence[float]) -> str:
        if edges := self._edges(klds, psnrs):
            return f"even a trial with a KLD target of {edges[-1]:g} gives {self.told[edges[-1]]:.2f} dB"
        below = [n for n, psnr in enumerate(psnrs) if psnr < self.inner[0]]
        above = [n for n, psnr in enumerate(psnrs) if psnr > self.inner[1]]
        if below and above and below[-1] + 1 == above[0]:
            left, right = below[-1], above[0]
            if math.log(klds[right] / klds[left]) < RESOLUTION:
                from_to = f"from KLD target {klds[left]:g} to {klds[right]:g}"
                return f"{from_to} it leaps {psnrs[left]:.2f} to {psnrs[right]:.2f} dB"
        return ""

    def _edges(self, klds: Sequence[float], psnrs: Sequence[float]) -> tuple[float, ...]:
        low, high = self.inner
        if klds[-1] >= significant(self.limits[1]) and psnrs[-1] < low:
            knee = next(kld for kld, psnr in zip(klds, psnrs, strict=True) if psnr >= psnrs[-1] - KNEE)
            return tuple(dict.fromkeys((significant(self.start), knee, klds[-1])))
        if klds[0] <= significant(self.limits[0]) and psnrs[0] > high:
            return tuple(dict.fromkeys((significant(self.start), klds[0])))
        return ()

    @property
    def _last(self) -> list[float]:
        return self.rounds[-1] if self.rounds else []

    def state(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON; see `restore`."""
        return {
            "strategy": self.name,
            "window": list(self.window),
            "start": self.start,
            "width": self.width,
            "trials": self.trials,
            "seed": self.seed,
            "limits": list(self.limits),
            "rounds": self.rounds,
            "told": sorted(self.told.items()),
        }


class Bisect(Search):
    """Bracket, then k-section: K trials a round, one of them where a straight line through the bracket's ends aims."""

    name = "bisect"

    def propose(self, count: int) -> list[float]:
        """Return targets around the start, beyond what was tried, or inside of the bracket."""
        if not self.told:
            return [self.start * SPREAD ** (n - (count - 1) // 2) for n in range(count)]
        klds, psnrs = monotone(self.told)
        below = [(kld, psnr) for kld, psnr in zip(klds, psnrs, strict=True) if psnr < self.inner[0]]
        above = [(kld, psnr) for kld, psnr in zip(klds, psnrs, strict=True) if psnr > self.inner[1]]
        if not above:
            return self._beyond(klds, psnrs, count, up=True)
        if not below:
            return self._beyond(klds, psnrs, count, up=False)
        (left, low), (right, high) = below[-1], above[0]
        sections = [(n + 1) / (count + 1) for n in range(count)]
        straight = min(max((self.aim - low) / (high - low), 0.2), 0.8)
        nearest = min(range(count), key=lambda n: abs(sections[n] - straight))
        sections[nearest] = straight
        return [left * (right / left) ** part for part in sections]

    def _beyond(self, klds: Sequence[float], psnrs: Sequence[float], count: int, up: bool) -> list[float]:
        """Return targets past the greatest or smallest that was tried; each further than the one before."""
        edge, other = (-1, 0) if up else (0, -1)
        factor = SPREAD
        rise = abs(psnrs[edge] - psnrs[other])
        if rise > 0:
            missing = abs(self.aim - psnrs[edge])
            factor = math.exp(min(abs(math.log(klds[edge] / klds[other])) * missing / rise, math.log(REACH[1])))
        factor = min(max(factor, REACH[0]), REACH[1])
        return [klds[edge] * (factor ** (n + 1) if up else factor ** -(n + 1)) for n in range(count)]


class Grid(Search):
    """Targets at equal steps of the logarithm; all of them are tried."""

    name = "grid"

    def propose(self, count: int) -> list[float]:
        """Return the next targets of the grid."""
        low, high = self.limits
        if self.trials == 1:
            return [self.start]
        done = len(self.told)
        return [low * (high / low) ** (n / (self.trials - 1)) for n in range(done, min(done + count, self.trials))]

    def over(self) -> bool:
        """Whether all targets were tried."""
        return len(self.told) >= self.trials


class Random(Search):
    """Targets drawn evenly in the logarithm, by the seed, until one is inside of the window."""

    name = "random"

    def propose(self, count: int) -> list[float]:
        """Draw targets."""
        low, high = self.limits
        done = sum(map(len, self.rounds))
        draws = [derive(self.seed, "kld target", n) / 2**63 for n in range(done, done + count)]
        return [low * (high / low) ** draw for draw in draws]


def check_window(window: Window) -> None:
    """Raise `ConfigError` unless ``window`` is two positive dB values, the smaller one first."""
    low, high = window
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ConfigError(
            f"The PSNR window is {low:g}:{high:g}; give two positive dB values, the smaller one first, such as 20:22."
        )


def significant(value: float) -> float:
    """Return ``value`` with as many significant digits as a target has."""
    return float(f"{value:.{DIGITS}g}")


def monotone(points: dict[float, float]) -> tuple[list[float], list[float]]:
    """Return the targets in order, and the non-decreasing PSNRs that fit those measured best in least squares.

    Neighbors out of order are pooled to their mean. No fitted value is further from a monotone truth than the
    worst measurement is.
    """
    klds = sorted(points)
    blocks: list[tuple[float, int]] = []
    for kld in klds:
        total, count = points[kld], 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    return klds, [total / count for total, count in blocks for _ in range(count)]


def solve(klds: Sequence[float], psnrs: Sequence[float], psnr: float) -> float:
    """Return the target at which the curve through the points, straight in the logarithm, has ``psnr``."""
    at = min(max(bisect_left(psnrs, psnr), 1), len(psnrs) - 1)
    low, high = psnrs[at - 1], psnrs[at]
    part = 0.5 if high == low else (psnr - low) / (high - low)
    return klds[at - 1] * float((klds[at] / klds[at - 1]) ** min(max(part, 0.0), 1.0))


def predict(klds: Sequence[float], psnrs: Sequence[float], kld: float) -> float:
    """Return the curve's PSNR at a target; beyond its ends it is level."""
    return float(np.interp(math.log(kld), np.log(klds), psnrs))
