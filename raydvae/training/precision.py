"""In which precision a training computes its convolutions."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from raydvae.config import TrainConfig
from raydvae.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
PROBE = """
import torch
with torch.autocast("cpu", torch.bfloat16):
    x = torch.rand(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    torch.nn.Conv2d(16, 16, 3)(x).sum().backward()
"""


def precision(config: TrainConfig, device: torch.device) -> Callable[[F], F]:
    """Return what makes a forward pass compute its convolutions in the precision that ``config`` asks for."""
    if config.precision == "float32" or (config.precision == "auto" and device.type != "cuda"):
        return lambda forward: forward
    if device.type == "cpu" and not cpu_has_bfloat16():
        raise ConfigError('This machine cannot compute in bfloat16; leave precision at "auto", or give "float32".')
    return torch.autocast(device.type, torch.bfloat16)


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Find out in a process of its own: some virtual machines announce instructions that end the process."""
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True).returncode == 0
