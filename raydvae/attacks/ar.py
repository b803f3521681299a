"""AR: autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022).

Each class has its own autoregressive process: one 3x3 filter a channel, whose last entry is 0 and whose entries sum to
1. An image's noise begins as a field of Gaussian noise; in raster order, every pixel is replaced by the filtered 3x3
window that ends there. A pixel depends only on pixels above and to the left, so a whole anti-diagonal of a whole batch
is computed at once, with the same result.

The published filters are not copied; new ones are found with the published properties: none explodes, and the filters
of the processes found earlier respond to the noise of each later one. Thresholds are for images of 32 px and shrink
with smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raydvae.attacks.base import Array, Bound, Floats
from raydvae.attacks.configs import ARConfig
from raydvae.errors import ConfigError
from raydvae.seeds import derive

Doubles = npt.NDArray[np.float64]
WINDOW = 3
TRIALS = 3
CANDIDATES = 1024  # drawn at a time
MAX_ROUNDS = 200
PUBLISHED_SIZE = 32


class AR:
    """The processes of one data set; any row's noise can be drawn on its own, in any order, by any worker."""

    def __init__(self, config: ARConfig, image_size: int, num_classes: int) -> None:
        if num_classes < 2:
            raise ConfigError(f"AR has a process a class, and this data set has {num_classes}; it needs at least 2.")
        if image_size <= WINDOW:
            raise ConfigError(f"AR needs images of more than {WINDOW} px; these have {image_size}.")
        self.config = config
        self.bound = Bound("l2", config.norm)
        self.image_size = image_size
        self.coefficients = find_coefficients(config, image_size, num_classes)

    def noise(self, images: Array, labels: npt.NDArray[np.int64], row_ids: Sequence[str]) -> Floats:
        """See `Attack.noise`; the images themselves do not matter."""
        side = self.image_size + self.config.crop
        fields = np.empty((len(row_ids), 3, side, side))
        for place, row_id in enumerate(row_ids):
            rng = np.random.default_rng(derive(self.config.seed, "ar", row_id))
            fields[place] = rng.standard_normal((3, side, side))
        cut = scan(fields, self.coefficients[labels])[:, :, self.config.crop :, self.config.crop :]
        # Scaled by the largest value first: a square of a large field could overflow.
        cut = cut / np.maximum(np.abs(cut).max(axis=(1, 2, 3), keepdims=True, initial=0), np.finfo(np.float64).tiny)
        cut *= self.config.norm / np.maximum(_norms(cut), np.finfo(np.float64).tiny)[:, None, None, None]
        return np.ascontiguousarray(cut.transpose(0, 2, 3, 1), dtype=np.float32)


def scan(fields: Doubles, coefficients: Doubles) -> Doubles:
    """Return ``fields`` (B, 3, S, S) run through the processes (B, 3, 3, 3); two rows and columns stay as they are."""
    out = fields.copy()
    side = fields.shape[-1]
    for diagonal in range(2 * (WINDOW - 1), 2 * side - 1):
        first = max(WINDOW - 1, diagonal - side + 1)
        last = min(side - 1, diagonal - WINDOW + 1)
        rows = np.arange(first, last + 1)
        columns = diagonal - rows
        value = np.zeros((*fields.shape[:2], len(rows)))
        for a in range(WINDOW):
            for b in range(WINDOW):
                if (a, b) != (WINDOW - 1, WINDOW - 1):
                    taps = out[:, :, rows - WINDOW + 1 + a, columns - WINDOW + 1 + b]
                    value += coefficients[:, :, a, b, None] * taps
        out[:, :, rows, columns] = value
    return out


def response(coefficients: Doubles, noise: Doubles) -> Doubles:
    """Return how strongly the filters of processes (P, 3, 3, 3) respond to noises (N, 3, S, S), as (P, N).

    A filter is its process with -1 at the end: it gives 0 wherever the noise follows the process.
    """
    filters = coefficients.copy()
    filters[:, :, -1, -1] = -1
    windows = np.lib.stride_tricks.sliding_window_view(noise, (WINDOW, WINDOW), axis=(2, 3))
    flat = windows.transpose(1, 4, 5, 0, 2, 3).reshape(3 * WINDOW**2, -1)
    responses = (filters.reshape(len(filters), -1) @ flat).reshape(len(filters), len(noise), -1)
    return np.asarray(np.maximum(responses, 0).sum(axis=2))


def find_coefficients(config: ARConfig, image_size: int, num_classes: int) -> Doubles:
    """Return ``num_classes`` processes (C, 3, 3, 3) that stay bounded and that other processes' filters respond to."""
    rng = np.random.default_rng(derive(config.seed, "ar", "coefficients"))
    size = min(image_size, PUBLISHED_SIZE)
    need = config.response(num_classes) * size / PUBLISHED_SIZE
    pool, noises = np.empty((0, 3, WINDOW, WINDOW)), np.empty((0, 3, size, size))
    found: list[int] = []
    for _ in range(MAX_ROUNDS):
        drawn = rng.standard_normal((CANDIDATES, 3, WINDOW, WINDOW))
        drawn[:, :, -1, -1] = 0
        drawn /= drawn.sum(axis=(2, 3), keepdims=True)
        # Larger filters always explode; measured: none of 6000 between 4 and 8 stayed bounded.
        drawn = drawn[np.abs(drawn).sum(axis=(2, 3)).max(axis=1) < 4]
        samples = np.empty(0)
        for _ in range(TRIALS):
            samples, bounded = _trial(drawn, size, config, rng)
            drawn, samples = drawn[bounded], samples[bounded]
        if image_size > size:
            stays = np.array([_trial(process[None], image_size, config, rng)[1].all() for process in drawn], dtype=bool)
            drawn, samples = drawn[stays], samples[stays]
        pool, noises = np.concatenate([pool, drawn]), np.concatenate([noises, samples])
        if len(pool) >= num_classes:
            found = _distinct(response(pool, noises), need)
            if len(found) >= num_classes:
                return np.asarray(pool[found[:num_classes]])
    raise ConfigError(
        f"Only {len(found)} of {num_classes} autoregressive processes were found with responses of at least "
        f"{config.response(num_classes)} and norms of at most {config.max_norm}; lower min_response or raise max_norm."
    )


def _distinct(responses: Doubles, need: float) -> list[int]:
    """Return processes, in an order in which every earlier one's filter responds to every later one's noise."""
    answers = responses >= need
    np.fill_diagonal(answers, False)
    left = np.ones(len(answers), dtype=bool)
    chosen: list[int] = []
    while left.any():
        # The filter that leaves the most processes to choose from; the first comer's luck finds far fewer.
        room = np.where(left, (answers & left).sum(axis=1), -1)
        chosen.append(int(room.argmax()))
        left &= answers[chosen[-1]]
    return chosen


def _trial(
    processes: Doubles, size: int, config: ARConfig, rng: np.random.Generator
) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Return a field of norm 1 of each process, and whether it stayed bounded before it was scaled."""
    side = size + config.crop
    starts = rng.standard_normal((len(processes), 3, side, side))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        fields = scan(starts, processes)[:, :, config.crop :, config.crop :]
        norms = _norms(fields)
        bounded = np.isfinite(norms) & (norms > 0) & (norms <= config.max_norm * size / PUBLISHED_SIZE)
        return fields / norms[:, None, None, None], bounded


def _norms(fields: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.square(fields).sum(axis=(1, 2, 3))))
