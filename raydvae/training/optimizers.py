"""The optimizers of trainings, without the compiler.

torch's optimizers import the front end of torch.compile when they are made and when they step, only to keep it from
tracing them. That is more than 3 s of a core in every process that trains, a longer time than torch itself takes. Here
nothing is compiled: where the compiler is not there already, it is left out. A torch that is built otherwise than
this one may import it all the same, and works as before.
"""

from __future__ import annotations

import inspect
import sys

import torch
from torch import Tensor
from torch.optim import Optimizer

from raydvae.config import TrainConfig


def build_optimizer(parameters: list[Tensor], config: TrainConfig) -> Optimizer:
    """Return the fused optimizer that ``config`` names, over ``parameters``."""
    if not _compiler_is_there():
        for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict):
            function = inspect.unwrap(method)
            function.__dict__.setdefault("__dynamo_disable", function)  # where torch keeps what is not traced
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,
    )


@torch.no_grad()
def apply_gradients(optimizer: Optimizer) -> None:
    """Change the parameters by their gradients."""
    if _compiler_is_there():
        optimizer.step()
    else:
        # What lies around this function are hooks, of which we have none, and the import.
        inspect.unwrap(type(optimizer).step)(optimizer)


def _compiler_is_there() -> bool:
    return "torch._dynamo" in sys.modules
