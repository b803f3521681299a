"""Optimizers without the compiler: nothing is imported for them, and they step as torch's own do."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from raydvae.config import TrainConfig
from raydvae.training import optimizers
from raydvae.training.optimizers import apply_gradients, build_optimizer

PROGRAM = """
import sys, torch
from raydvae.config import DVAEConfig, TrainConfig
from raydvae.models.dvae import DVAE
from raydvae.training.optimizers import apply_gradients, build_optimizer

with torch.device("meta"):
    DVAE(DVAEConfig(width=2))
for kind in ("adam", "sgd"):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([p], TrainConfig(optimizer=kind))
    p.grad = torch.ones(3)
    apply_gradients(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert (p < 1).all()
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_training_does_not_import_the_compiler() -> None:
    """Seconds of a core in each process that trains, and in the plan of a purification, which counts parameters."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_steps_are_those_of_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "_compiler_is_there", lambda: False)
    config = TrainConfig(optimizer=kind, lr=0.01, weight_decay=5e-4, nesterov=kind == "sgd")  # type: ignore[arg-type]
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = [torch.nn.Parameter(start.clone())], [torch.nn.Parameter(start.clone())]
    optimizer, torchs = build_optimizer(ours, config), build_optimizer(theirs, config)
    for step in range(3):
        gradient = torch.randn(4, 5, generator=torch.Generator().manual_seed(step + 1))
        ours[0].grad, theirs[0].grad = gradient.clone(), gradient.clone()
        apply_gradients(optimizer)
        torchs.step()
        assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[0], start)
    again = build_optimizer(ours, config)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name, value in optimizer.state[ours[0]].items():
        assert torch.equal(again.state[ours[0]][name], value) if torch.is_tensor(value) else value is None, name
