"""The rate-constrained losses (Eq. 3 and Eq. 14), in named parts.

A step's batch may be computed in several equal slices, possibly on several machines. Two terms act on the mean over
the whole batch, not on a slice: the rate constraint max(KLD, target) and the amplitude cap max(mean p_hat², cap).
So a loss is taken in two steps: `measure` gives a slice's parts, and `total` combines them once the parts' means over
the whole batch are known. The gradients of the slices' totals then average to the gradient of the whole batch's loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raydvae.config import RateLossConfig
from raydvae.models.dvae import DVAEOutput
from raydvae.models.layers import gaussian_kld

Parts = dict[str, Tensor]


def kld(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence of N(mu, exp(log_var)) from N(0, 1), in nats (Eq. 41).

    Summed over channels, averaged over batch and positions, as in the official code.
    """
    return gaussian_kld(mu, log_var)


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image of a batch (B, ...) in [0, 1]; capped at 100 dB for equal ones."""
    mse = (x - x_hat).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(mse.clamp_min(1e-10))


def measure(x: Tensor, out: DVAEOutput) -> Parts:
    """The loss terms of one slice and the two PSNRs that tell how training goes, each a scalar.

    ``residual`` is the second term of Eq. 14 as the official code has it: the sum x_hat + p_hat is clamped to
    [0, 1] before it is compared, and trains the encoder and the image decoder too.
    """
    parts = {
        "distortion": F.mse_loss(out.x_hat, x),
        "kld": kld(out.mu, out.log_var),
        "psnr": psnr(x, out.x_hat.detach()).mean(),
    }
    if out.p_hat is not None:
        total = (out.x_hat + out.p_hat).clamp(0, 1)
        parts["residual"] = F.mse_loss(total, x)
        parts["amplitude"] = out.p_hat.square().mean()
        parts["psnr_sum"] = psnr(x, total.detach()).mean()
    return parts


def total(parts: Parts, means: Parts, config: RateLossConfig, epoch: int) -> Tensor:
    """The loss of one slice, given its parts and their means over the whole batch (detached).

    Each max() is decided by the batch's mean and applied to the slice: its value averages to the batch's, and so
    does its gradient, which is zero below the threshold.
    """
    loss = parts["distortion"] + config.weight * _at_least(parts["kld"], means["kld"], config.kld_target)
    if "residual" in parts:
        loss = loss + parts["residual"]
        if epoch >= config.amplitude_from_epoch:
            loss = loss + _at_least(parts["amplitude"], means["amplitude"], config.amplitude_cap)
    return loss


def _at_least(value: Tensor, mean: Tensor, floor: float) -> Tensor:
    # torch.where keeps the decision on the device: no host synchronization in the step.
    return torch.where(mean > floor, value, torch.full_like(value, floor))
