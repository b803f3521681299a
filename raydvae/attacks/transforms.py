"""Random draws for a batch, and random views (shift and mirror) that gradients pass through.

A row's draws come either from one generator for the whole slice (training) or from a generator of its own (noise
passes), so that in a noise pass a row does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydvae.seeds import derive


class Draws(Protocol):
    """A source of uniform numbers for the rows of one batch."""

    def uniform(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32 in [0, 1), on the batch's device."""
        ...


@dataclass(frozen=True, slots=True)
class SliceDraws:
    """All rows draw from one generator."""

    generator: torch.Generator
    rows: int

    def uniform(self, *shape: int) -> Tensor:
        """See `Draws.uniform`."""
        return torch.rand(self.rows, *shape, generator=self.generator, device=self.generator.device)


class RowDraws:
    """Every row draws from its own generator, seeded by its id."""

    def __init__(self, seed: int, name: str, row_ids: Sequence[str], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(derive(seed, name, row_id)) for row_id in row_ids]
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """See `Draws.uniform`."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


def start_noise(draws: Draws, x: Tensor, norm: float) -> Tensor:
    """Return noise of the shape of ``x`` (B, C, H, W), uniform in [-norm, norm]."""
    return ((2 * draws.uniform(*x.shape[1:]) - 1) * norm).to(x.dtype)


@dataclass(frozen=True, slots=True)
class View:
    """One shift and maybe a mirroring a row, as matrices of zeros and ones: exact, and deterministic backward."""

    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the views of images (B, C, H, W); what comes in at the borders is black."""
        return self.rows[:, None].to(x.dtype) @ x @ self.columns[:, None].to(x.dtype)


def draw_view(draws: Draws, height: int, width: int, padding: int, flip: bool) -> View:
    """Draw shifts of up to ``padding`` pixels each way, and with ``flip`` a mirroring with probability one half."""
    values = draws.uniform(3)
    shifts = (values[:, :2] * (2 * padding + 1)).long() - padding
    down = torch.arange(height, device=values.device)
    across = torch.arange(width, device=values.device).expand(len(values), -1)
    if flip:
        across = torch.where(values[:, 2:] < 0.5, across.flip(1), across)
    rows = (down[:, None] + shifts[:, 0, None, None]) == down
    columns = torch.arange(width, device=values.device)[:, None] == (across + shifts[:, 1, None])[:, None, :]
    return View(rows.float(), columns.float())
