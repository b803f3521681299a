from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from raydvae.config import DVAEConfig, RateLossConfig, TrainConfig
from raydvae.errors import ConfigError, RaydvaeError
from raydvae.models import layers
from raydvae.models.dvae import DVAE
from raydvae.models.losses import kld
from raydvae.seeds import derive
from raydvae.training.feed import ImageSet, epoch_order
from raydvae.training.loop import TrainState, resolve_slices, train
from raydvae.training.precision import cpu_has_bfloat16
from raydvae.training.tasks import ClassifierTask, VAETask, center_crop, random_crop, random_flip, random_resized_crop

CPU = torch.device("cpu")


def some_images(rows: int = 96, size: int = 16) -> ImageSet:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=g)
    return ImageSet(images, torch.randint(0, 4, (rows,), generator=g))


def dvae_task(kld_target: float = 1.0) -> VAETask:
    return VAETask(DVAEConfig(num_classes=4, image_size=16, width=4), RateLossConfig(kld_target=kld_target))


CONFIG = TrainConfig(epochs=3, batch_size=32, slices=4)


def same(a: TrainState, b: TrainState) -> bool:
    return all(torch.equal(a.model[name], b.model[name]) for name in a.model) and all(
        torch.equal(a.optimizer[name], b.optimizer[name]) for name in a.optimizer
    )


def test_the_bits_do_not_depend_on_the_cores() -> None:
    one = train(dvae_task(), some_images(), CONFIG, seed=1, threads=1)
    for threads in (2, 4):
        assert same(one, train(dvae_task(), some_images(), CONFIG, seed=1, threads=threads))
    assert not same(one, train(dvae_task(), some_images(), CONFIG, seed=2, threads=1))


@pytest.mark.parametrize("task", [dvae_task(), ClassifierTask("small", 4)])
def test_a_resumed_training_is_a_straight_one(task: VAETask | ClassifierTask) -> None:
    config = CONFIG if isinstance(task, VAETask) else dataclasses.replace(CONFIG, optimizer="sgd", lr=0.05)
    saved: list[TrainState] = []
    straight = train(task, some_images(), config, seed=1, on_epoch=lambda state, _: saved.append(state))
    assert [state.epoch for state in saved] == [1, 2, 3]
    resumed = train(task, some_images(), config, seed=1, resume=saved[0])
    assert same(straight, resumed)
    drop = "images_per_second"
    assert [{k: v for k, v in line.items() if k != drop} for line in straight.history] == [
        {k: v for k, v in line.items() if k != drop} for line in resumed.history
    ]


def test_nesterov_in_a_triangle_with_smoothed_labels_is_what_torch_does() -> None:
    data, batch = some_images(128), 32
    config = TrainConfig(
        epochs=2,
        batch_size=batch,
        slices=1,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        schedule="triangle",
        nesterov=True,
    )
    task = ClassifierTask("tiny", 4, crop_padding=0, flip=False, label_smoothing=0.2)
    history = train(task, data, config, seed=3).history

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(3, "init"))
        model = task.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    # Eight steps: the rate starts at a tenth of 0.1, is at its top after a fifth of them, and falls along a line.
    losses = []
    shares = [min(0.1 + done / 0.2, (1 - done) / 0.8, 1) for done in (step / 8 for step in range(8))]
    for epoch in range(2):
        order = epoch_order(128, 3, epoch)
        for step in range(4):
            optimizer.param_groups[0]["lr"] = 0.1 * shares[4 * epoch + step]
            rows = order[step * batch : (step + 1) * batch]
            logits = model(data.images[rows].float() / 255)
            loss = nn.functional.cross_entropy(logits, data.labels[rows], label_smoothing=0.2)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    assert history[0]["loss"] == pytest.approx(sum(losses[:4]) / 4, rel=1e-4)
    assert history[1]["loss"] == pytest.approx(sum(losses[4:]) / 4, rel=2e-3)  # differences in the last digits grow


def test_one_slice_is_the_plain_loop_everyone_would_write() -> None:
    """20 steps against an independent loop: autograd on the whole batch, torch's Adam, clipping, cosine."""
    data, epochs, batch = some_images(160), 4, 32
    config = TrainConfig(epochs=epochs, batch_size=batch, slices=1)
    history = train(dvae_task(), data, config, seed=5).history

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(5, "init"))
        model = DVAE(dvae_task().model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    losses = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.005 * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order, total = epoch_order(160, 5, epoch), 0.0
        for step in range(5):
            rows = order[step * batch : (step + 1) * batch]
            x, y = data.images[rows].float() / 255, data.labels[rows]
            generator = torch.Generator().manual_seed(derive(5, "noise", epoch, step, 0))
            out = model(x, y, torch.randn(model.latent_shape(batch), generator=generator))
            loss = ((x - out.x_hat) ** 2).mean() + ((x - (out.x_hat + out.p_hat).clamp(0, 1)) ** 2).mean()
            loss = loss + 0.01 * torch.clamp(kld(out.mu, out.log_var), min=1.0)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            total += loss.item()
        losses.append(total / 5)
    assert [line["loss"] for line in history] == pytest.approx(losses, rel=1e-3)


def test_running_statistics_are_those_of_batch_norm() -> None:
    data = some_images(64)
    state = train(dvae_task(), data, TrainConfig(epochs=1, batch_size=32, slices=1), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model = DVAE(dvae_task().model).train()
    order = epoch_order(64, 0, 0)[:32]
    model.encode(data.images[order].float() / 255)
    one_step = train(
        dvae_task(),
        ImageSet(data.images[order], data.labels[order]),
        TrainConfig(epochs=1, batch_size=32, slices=1),
        seed=0,
    )
    name = "encoder.0.1.running_mean"
    torch.testing.assert_close(one_step.model[name], model.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(state.model[name], one_step.model[name])


def test_the_loss_falls_and_the_rate_settles_at_its_target() -> None:
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4, generator=g), size=16, mode="bilinear")
    data = ImageSet((smooth * 255).to(torch.uint8), torch.randint(0, 4, (64,), generator=g))
    history = train(dvae_task(), data, TrainConfig(epochs=30, batch_size=16, slices=2), seed=0).history
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["kld"] == pytest.approx(1.0, abs=0.25)
    assert {"distortion", "residual", "kld", "psnr", "psnr_sum", "amplitude", "grad_norm", "lr"} <= set(history[-1])


def test_an_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    a, b, c = epoch_order(50, 0, 0), epoch_order(50, 0, 1), epoch_order(50, 1, 0)
    assert sorted(a.tolist()) == list(range(50))
    assert a.tolist() != b.tolist() != c.tolist()
    assert torch.equal(a, epoch_order(50, 0, 0))


def test_divergence_is_told_and_nothing_of_it_is_kept() -> None:
    saved: list[TrainState] = []
    with pytest.raises(RaydvaeError, match="diverged in epoch 0.*learning rate"):
        train(
            dvae_task(),
            some_images(),
            dataclasses.replace(CONFIG, lr=1e30),
            seed=0,
            on_epoch=lambda state, _: saved.append(state),
        )
    assert saved == []


def test_a_small_set_trains_with_the_batch_that_it_fills() -> None:
    state = train(dvae_task(), some_images(18), dataclasses.replace(CONFIG, batch_size=128), seed=0)
    assert state.epoch == 3
    with pytest.raises(ConfigError, match="slices of at least 2"):
        train(dvae_task(), some_images(7), CONFIG, seed=0)


@pytest.mark.parametrize(("workers", "expected"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 8), (9, 16)])
def test_default_slices_suit_the_workers(workers: int, expected: int) -> None:
    assert resolve_slices(TrainConfig(), workers, CPU) == expected
    assert resolve_slices(TrainConfig(), workers, torch.device("cuda")) == workers


def test_slices_that_workers_cannot_share_are_refused() -> None:
    assert resolve_slices(TrainConfig(slices=4), 3, CPU) == 4
    with pytest.raises(ConfigError, match="5 workers cannot share 4 slices"):
        resolve_slices(TrainConfig(slices=4), 5, CPU)


def test_crops_are_shifts_of_the_padded_image() -> None:
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).view(2, 3, 6, 6) + 1
    out = random_crop(x, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for image, whole in zip(out, padded, strict=True):
        windows = [whole[:, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, window) for window in windows)


def test_resized_crops_have_torchvisions_areas_and_proportions() -> None:
    """Two channels hold each pixel's place, so a view tells which part of the image it shows."""
    places = torch.arange(64, dtype=torch.float32) + 0.5
    x = torch.stack([places.expand(64, 64), places[:, None].expand(64, 64), torch.ones(64, 64)]).expand(2000, 3, 64, 64)
    out = random_resized_crop(x, torch.Generator().manual_seed(0))
    assert out.shape == (2000, 3, 56, 56)
    width = (out[:, 0, 28, 42] - out[:, 0, 28, 14]) * 2
    height = (out[:, 1, 42, 28] - out[:, 1, 14, 28]) * 2
    area, ratio = width * height / 64**2, width / height
    assert area.min() > 0.079 and area.max() < 1.001 and ratio.min() > 0.749 and ratio.max() < 1.334
    assert 0.45 < area.mean() < 0.53, "below the middle of the range: large areas fit in fewer proportions"
    left, right = out[:, 0].amin(dim=(1, 2)), out[:, 0].amax(dim=(1, 2))
    assert left.min() < 1 and right.max() > 63 and left.max() > 30
    assert torch.allclose(out[:, 2], torch.ones(()))


def test_a_center_crop_leaves_out_a_sixteenth_on_each_side() -> None:
    x = torch.arange(64 * 64, dtype=torch.float32).view(1, 1, 64, 64)
    assert torch.equal(center_crop(x), x[:, :, 4:60, 4:60])


def test_flips_mirror_about_half() -> None:
    x = torch.rand(200, 3, 4, 4)
    out = random_flip(x, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(m or k for m, k in zip(mirrored, kept, strict=True))
    assert 60 < sum(mirrored) < 140


def test_bfloat16_ends_at_the_same_psnr() -> None:
    """What GPUs do by default, on the CPU where it can; a tiny model, the same seed, within 0.1 dB."""
    if not cpu_has_bfloat16():
        pytest.skip("this machine cannot compute in bfloat16")
    ends = {}
    for kind in ("float32", "bfloat16"):
        config = TrainConfig(epochs=6, batch_size=32, slices=2, precision=kind)  # type: ignore[arg-type]
        state = train(dvae_task(), some_images(160), config, seed=4)
        assert all(value.dtype != torch.bfloat16 for value in state.model.values())
        ends[kind] = state.history[-1]
    assert ends["bfloat16"]["psnr"] == pytest.approx(ends["float32"]["psnr"], abs=0.1)
    assert ends["bfloat16"]["loss"] == pytest.approx(ends["float32"]["loss"], rel=0.02)
    assert ends["bfloat16"]["loss"] != ends["float32"]["loss"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_as_the_cpu_does() -> None:
    ends = {}
    for device in ("cpu", "cuda"):
        config = TrainConfig(epochs=6, batch_size=32, slices=1)
        ends[device] = train(dvae_task(), some_images(160), config, seed=4, device=torch.device(device)).history[-1]
    assert ends["cuda"]["psnr"] == pytest.approx(ends["cpu"]["psnr"], abs=0.1)


def test_the_fast_layers_train_as_torch_s_own_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of transposed convolutions and instance normalization from other operators: the same training."""
    config = TrainConfig(epochs=6, batch_size=32, slices=2)
    fast = train(dvae_task(), some_images(160), config, seed=4).history
    monkeypatch.setattr(layers, "_slow", lambda x: False)
    slow = train(dvae_task(), some_images(160), config, seed=4).history
    assert fast[0]["loss"] == pytest.approx(slow[0]["loss"], rel=1e-3)
    assert fast[-1]["psnr"] == pytest.approx(slow[-1]["psnr"], abs=0.1)
    assert fast[-1]["loss"] == pytest.approx(slow[-1]["loss"], rel=0.01)
