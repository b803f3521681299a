"""The noise predictor of a variance-preserving diffusion (Song et al., 2021), a U-Net small enough to train on a CPU.

    x_t = sqrt(a_t) x + sqrt(1 - a_t) · noise,  a_t = (1 - beta_1) ··· (1 - beta_t),  t = 1 … 1000

From the noise that it finds in x_t follows the score, -noise / sqrt(1 - a_t). Images are (B, 3, H, W) in [-1, 1].

    stem ─ down ×2 ─ down ×2 ─ middle, with attention ─ up ×2 ─ up ×2 ─ head
             └──────────┴──────── skips ────────────────┴───────┘
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 1000
BETAS = (0.1, 20.0)  # of the continuous process; a step's is a thousandth of it


def betas() -> Tensor:
    """Return the variance that each of the 1,000 steps adds."""
    return torch.linspace(BETAS[0] / STEPS, BETAS[1] / STEPS, STEPS, dtype=torch.float64)


def kept() -> Tensor:
    """Return a_t, the share of an image's variance that is left after each step."""
    return (1 - betas()).cumprod(dim=0)


class TimedBlock(nn.Module):
    """Two 3x3 convolutions with group normalization around a shortcut, shifted by the time's embedding."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(in_channels), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.norm2, self.conv2 = _norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        out: Tensor = self.conv2(F.silu(self.norm2(h))) + self.shortcut(x)
        return out


class Attention(nn.Module):
    """Self-attention of one head over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.out(seen)
        return out


class UNet(nn.Module):
    """Predicts the noise in x_t; ``width`` channels at full size, twice as many at a half and a quarter of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, embedding = width, 4 * width
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        levels = [width, 2 * width, 2 * width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = width, [width]
        for level, out in enumerate(levels):
            for _ in range(2):
                self.down.append(TimedBlock(channels, out, embedding))
                channels = out
                skips.append(channels)
            if level < len(levels) - 1:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        self.middle1 = TimedBlock(channels, channels, embedding)
        self.attention = Attention(channels)
        self.middle2 = TimedBlock(channels, channels, embedding)
        for level, out in reversed(list(enumerate(levels))):
            for _ in range(3):
                self.up.append(TimedBlock(channels + skips.pop(), out, embedding))
                channels = out
            if level:
                self.up.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.head = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1))

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> UNet:
        """Return the net whose weights are ``tensors``; `KeyError` or `RuntimeError` where they are of no such net."""
        model = cls(len(tensors["stem.weight"]))
        model.load_state_dict(tensors)
        return model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``x`` (B, 3, H, W) after steps ``t`` (B,) of 1 … 1000; sides are multiples of 4."""
        time = self.time(_embedded(t, self.width))
        h = self.stem(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, time) if isinstance(layer, TimedBlock) else layer(h)
            skips.append(h)
        h = self.middle2(self.attention(self.middle1(h, time)), time)
        for layer in self.up:
            if isinstance(layer, TimedBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), time)
            else:
                h = layer(F.interpolate(h, scale_factor=2.0))
        out: Tensor = self.head(h)
        return out


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def _embedded(t: Tensor, size: int) -> Tensor:
    """Return sines and cosines of ``t`` (B,) at ``size`` / 2 frequencies."""
    frequencies = torch.exp(torch.arange(size // 2, device=t.device) * (-math.log(10_000) / (size // 2)))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
