"""Nets of every width train without writing where they must not: each in a process of its own, which lives on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import os, torch
from raydvae.config import DVAEConfig, RateLossConfig
from raydvae.models.classifiers import ResNet18, SmallNet
from raydvae.training.tasks import VAETask

torch.set_num_threads(1)

def dvae(width, side, downsampling):
    task = VAETask(DVAEConfig(width=width, image_size=side, downsampling=downsampling), RateLossConfig())
    model = task.build().to(memory_format=torch.channels_last)
    x = torch.rand(3, 3, side, side).to(memory_format=torch.channels_last)
    for _ in range(3):
        parts = task.measure(model, x, torch.tensor([1, 2, 3]), torch.Generator().manual_seed(0), 0)
        means = {name: value.detach() for name, value in parts.items()}
        grads = torch.autograd.grad(task.total(parts, means, 0), list(model.parameters()))
        assert all(grad.isfinite().all() for grad in grads)

def classifier(kind, width):
    model = kind(10, width).to(memory_format=torch.channels_last)
    for side in (32, 64):
        x = torch.rand(3, 3, side, side).to(memory_format=torch.channels_last)
        for _ in range(2):
            model(x).square().mean().backward()

def alone(what, work, *args):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work(*args)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        print(what, args, "ended with", code, flush=True)

for width in range(2, 17, 2):
    alone("D-VAE", dvae, width, 32, 0.5)
    alone("D-VAE", dvae, width, 64, 0.25)
for width in (1, 2, 3, 5, 7, 8, 9, 12, 15, 16):
    alone("ResNet-18", classifier, ResNet18, width)
    alone("small net", classifier, SmallNet, width)
print("all done")
"""


@pytest.mark.parametrize("vectors", ["AVX2", "DEFAULT"])  # each goes wrong at other widths and sizes
def test_no_width_corrupts_memory(vectors: str) -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": vectors, "MALLOC_PERTURB_": "165"}
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=environment)
    assert child.stdout.splitlines() == ["all done"], child.stdout + child.stderr[-2000:]
