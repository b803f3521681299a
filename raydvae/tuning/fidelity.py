"""How much more PSNR a full training reaches than a short one at the same KLD target.

PSNR rises with the steps S about as a - b / sqrt(S). A trial and one with half its epochs give b, and so an estimate of
what full training adds. The verifying run measures it, and where the estimate was wrong its measurement is taken.
"""

from __future__ import annotations

import math


def correction(short: float, half: float, short_steps: int, half_steps: int, full_steps: int) -> float:
    """Return the dB that a training of ``full_steps`` is expected to reach above one of ``short_steps``.

    ``short`` and ``half`` are the PSNRs in dB after ``short_steps`` and ``half_steps``. 0 where the steps are as many,
    or where more of them did not bring more.
    """
    if full_steps <= short_steps or half_steps >= short_steps:
        return 0.0
    scale = max(0.0, short - half) / (1 / math.sqrt(half_steps) - 1 / math.sqrt(short_steps))
    return scale * (1 / math.sqrt(short_steps) - 1 / math.sqrt(full_steps))


def bits_per_pixel(kld: float, halvings: int) -> float:
    """Return the rate of ``kld`` nats a latent position, in bits a pixel: a position stands for 4^halvings pixels."""
    return kld / math.log(2) / float(4**halvings)
