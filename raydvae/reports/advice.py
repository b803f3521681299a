"""What the metrics of a stage say about its KLD target (section 3.5), in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["good", "low", "high", "unknown"]
FREE, FORCED = 0.9, 1.1  # a KLD below or above these multiples of its target was not decided by the target


@dataclass(frozen=True, slots=True)
class Advice:
    """Where a stage's PSNR lies relative to its window, and what to do next."""

    status: Status
    text: str


def judge(stage: str, settings: Mapping[str, Any], last: Mapping[str, float] | None) -> Advice:
    """Judge a stage called ``stage`` (a table of the configuration) by the metrics of its ``last`` epoch.

    A larger KLD target lets more information through and raises the PSNR. Where the KLD ended far from its target,
    the target was not what decided, and moving it would not help.
    """
    low, high = settings["psnr_window"]
    target = settings["loss"]["kld_target"]
    psnr = last.get("psnr", math.nan) if last else math.nan
    kld = last.get("kld", math.nan) if last else math.nan
    window = f"{low:g}–{high:g} dB"
    if not math.isfinite(psnr):
        return Advice("unknown", f"There is no final PSNR to compare with the window of {window}.")
    found = f"The final PSNR of {psnr:.1f} dB is"
    if low <= psnr <= high:
        return Advice("good", f"{found} inside the window of {window}. Nothing to change.")
    settled = not (kld < FREE * target or kld > FORCED * target)
    if psnr < low:
        fix = f"Raise {stage}.loss.kld_target (now {target:g}) and run again."
        if not settled:
            fix = (
                f"The KLD ended at {kld:.2f}, away from its target of {target:g}: train longer ({stage}.train.epochs) "
                "before changing the target."
            )
        return Advice("low", f"{found} below the window of {window}. {fix}")
    fix = f"Lower {stage}.loss.kld_target (now {target:g}) and run again."
    if not settled and kld < target:
        fix = f"Lower {stage}.loss.kld_target (now {target:g}) below {kld:.2f}, where the KLD ended, and run again."
    elif not settled:
        fix = (
            f"The KLD ended at {kld:.2f}, above its target of {target:g}: train longer ({stage}.train.epochs) or raise "
            f"{stage}.loss.rate_weight before changing the target."
        )
    return Advice("high", f"{found} above the window of {window}. {fix}")
