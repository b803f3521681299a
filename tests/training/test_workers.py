"""Two workers over gloo against one process. Plain processes: this is torch.distributed, not Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from raydvae.config import TrainConfig
from raydvae.training.group import Alone, Distributed
from raydvae.training.loop import train
from tests.training.test_loop import dvae_task, some_images

STEPS = 20  # 160 rows in batches of 32, four epochs


def _worker(rank: int, port: int, config: TrainConfig, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    losses: list[float] = []
    state = train(
        dvae_task(0.5),
        some_images(160),
        config,
        seed=3,
        group=Distributed(),
        on_epoch=lambda _, metrics: losses.append(metrics["loss"]),
    )
    tensors = {name: value.contiguous() for name, value in state.model.items()}
    save_file({**tensors, "losses": torch.tensor(losses, dtype=torch.float64)}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def two_workers(config: TrainConfig, folder: Path) -> list[dict[str, torch.Tensor]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_worker, (port, config, str(folder)), nprocs=2)
    return [load_file(f"{folder}/{rank}.safetensors") for rank in (0, 1)]


def test_with_slice_statistics_two_workers_give_one_worker_s_bits(tmp_path: Path) -> None:
    config = TrainConfig(epochs=STEPS // 5, batch_size=32, slices=4)
    alone = train(dvae_task(0.5), some_images(160), config, seed=3)
    for state in two_workers(config, tmp_path):
        for name, value in alone.model.items():
            assert torch.equal(state[name], value), name


def test_with_global_statistics_two_workers_follow_the_whole_batch(tmp_path: Path) -> None:
    """Batch norm, the rate constraint and the amplitude cap over the global batch, within rounding."""
    losses: list[float] = []
    config = TrainConfig(epochs=STEPS // 5, batch_size=32, batch_stats="global")
    alone = _whole_batch(losses)
    for state in two_workers(config, tmp_path):
        got = state["losses"].tolist()
        assert got == pytest.approx(losses, rel=1e-3)
        for name, value in alone.items():
            if name.endswith("running_mean"):
                torch.testing.assert_close(state[name], value, rtol=5e-2, atol=5e-3)


def _whole_batch(losses: list[float]) -> dict[str, torch.Tensor]:
    import math

    from torch import nn

    from raydvae.models.dvae import DVAE
    from raydvae.models.losses import kld
    from raydvae.seeds import derive
    from raydvae.training.feed import epoch_order

    data = some_images(160)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(3, "init"))
        model = DVAE(dvae_task().model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for epoch in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.005 * 0.5 * (1 + math.cos(math.pi * epoch / 4))
        order, total = epoch_order(160, 3, epoch), 0.0
        for step in range(5):
            rows = order[step * 32 : (step + 1) * 32]
            x, y = data.images[rows].float() / 255, data.labels[rows]
            shape = model.latent_shape(16)
            noise = torch.cat(
                [
                    torch.randn(shape, generator=torch.Generator().manual_seed(derive(3, "noise", epoch, step, part)))
                    for part in (0, 1)
                ]
            )
            out = model(x, y, noise)
            loss = ((x - out.x_hat) ** 2).mean() + ((x - (out.x_hat + out.p_hat).clamp(0, 1)) ** 2).mean()
            loss = loss + 0.5 * torch.clamp(kld(out.mu, out.log_var), min=0.5)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            total += loss.item()
        losses.append(total / 5)
    return model.state_dict()


def test_a_mean_is_added_in_slice_order() -> None:
    rows = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 3.0]])
    expected = ((rows[0] + rows[1]) + rows[2]) / 3
    assert torch.equal(Alone().mean(rows), expected)
