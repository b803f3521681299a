"""One training loop for every model of this project: D-VAE, plain VAE and classifiers. Knows nothing of Ray.

A step: cut the global batch into slices, run each slice forward, average the loss parts over all slices and workers
(the rate constraint acts on that average), run each slice backward, average the gradients, clip, step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raydvae import stopping
from raydvae.config import TrainConfig
from raydvae.errors import ConfigError, RaydvaeError
from raydvae.seeds import derive
from raydvae.training.batchnorm import GlobalBatchNorm2d
from raydvae.training.feed import Cut, Feed, ImageSet, Slice, to_float
from raydvae.training.flat import gather, scatter, strided
from raydvae.training.group import Alone, Group
from raydvae.training.optimizers import apply_gradients, build_optimizer
from raydvae.training.precision import precision

Parts = dict[str, Tensor]
WARM_UP = 0.2  # share of the steps in which the triangle rises
WARM_UP_FROM = 0.1  # share of the learning rate that it starts with


class Task(Protocol):
    """What is trained: how a batch becomes named loss parts, and how the parts become a loss."""

    def build(self) -> nn.Module:
        """Return a new model; the caller has seeded torch."""
        ...

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epoch: int) -> Parts:
        """Run one slice forward; return scalars, each a mean over the slice."""
        ...

    def total(self, parts: Parts, means: Parts, epoch: int) -> Tensor:
        """Return the slice's loss, given the parts' means over the whole batch."""
        ...


@dataclass(slots=True)
class TrainState:
    """Everything that resuming needs: epochs done, weights, optimizer state, and the metrics of each epoch."""

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)


Report = Callable[[TrainState, dict[str, float]], None]


def resolve_slices(config: TrainConfig, workers: int, device: torch.device) -> int:
    """Return the slices of a global batch for up to that many workers, or say why they cannot be had.

    On CPUs the default is 4 for up to 4 workers, so that their number does not change the result, then 8, 16 and so on.
    """
    if config.batch_stats == "global":
        return workers
    slices = config.slices or (workers if device.type == "cuda" else 4 * 2 ** max(0, math.ceil(math.log2(workers / 4))))
    if slices < workers:
        raise ConfigError(
            f"{workers} workers cannot share {slices} slices of a batch; give --slices of at least {workers}, "
            f"or at most {slices} workers."
        )
    return slices


def train(
    task: Task,
    data: Feed,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device | None = None,
    group: Group | None = None,
    threads: int = 1,
    resume: TrainState | None = None,
    on_epoch: Report | None = None,
) -> TrainState:
    """Train ``task``'s model on ``data`` and return its final state.

    ``threads`` are the cores this worker may use; on a CPU each computes one slice at a time. ``on_epoch`` is called
    on every worker after each epoch with the state (to save) and the epoch's mean metrics. Raises `RaydvaeError` when
    the loss stops being finite.
    """
    device = device or torch.device("cpu")
    group = group or Alone()
    feed = data.to(device) if isinstance(data, ImageSet) else data
    trainer = _Trainer(task, feed, config, seed, device, group, threads)
    if resume is not None:
        trainer.load(resume)
    with trainer:
        for epoch in range(trainer.epoch, config.epochs):
            metrics = trainer.run_epoch(epoch)
            if on_epoch is not None:
                on_epoch(trainer.state(), metrics)
    return trainer.state()


class _Trainer:
    def __init__(
        self,
        task: Task,
        data: Feed,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        group: Group,
        threads: int,
    ) -> None:
        self.task, self.data, self.config, self.seed, self.device, self.group = task, data, config, seed, device, group
        self.slices = resolve_slices(config, group.size, device)
        self.cut = Cut.of(len(data), config.batch_size, self.slices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init"))
            self.model = task.build()
        self.model = self.model.to(device).to(memory_format=torch.channels_last).train()
        if config.batch_stats == "global" and group.size > 1:
            GlobalBatchNorm2d.convert(self.model)
        self.mine = group.mine(self.slices)
        self.replicas = [_replica(self.model) for _ in self.mine]
        self.parameters = list(_trainable(self.model))
        self.optimizer = build_optimizer(self.parameters, config)
        columns = sum(t.numel() for t in [*self.parameters, *_statistics(self.model)])
        self.exchanged = torch.empty(len(self.mine), columns, device=device)  # a row a slice: gradients and statistics
        self.precision = precision(config, device)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        lanes = min(threads, len(self.mine)) if device.type == "cpu" else 1
        # One pool of one thread a lane: autograd adds gradients in the order of numbers that it gives out per thread,
        # so a slice's forward and backward must run in the same one for its bits to be the same every time.
        self.pools = [ThreadPoolExecutor(1) for _ in range(lanes)] if lanes > 1 else []
        # A slice is computed by one thread, so its bits do not depend on the machine's cores.
        self.intra_op = 1 if config.batch_stats == "slice" else threads

    def __enter__(self) -> None:
        self.threads_before = torch.get_num_threads()
        torch.set_num_threads(self.intra_op)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads_before)
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        started = time.monotonic()
        self.epoch = epoch
        sums: Parts = {}
        sizes = self.cut.sizes
        for step, parts in enumerate(self.data.epoch(self.cut, self.seed, epoch, self.mine)):
            stopping.check()
            for options in self.optimizer.param_groups:
                options["lr"] = learning_rate(self.config, epoch, step / len(sizes))
            for name, value in self.run_step(parts, step, self._weights(sizes[step])).items():
                value = value * (sizes[step] / self.cut.rows)
                sums[name] = sums[name] + value if name in sums else value
        metrics = {name: float(value) for name, value in sums.items()}
        if not all(math.isfinite(value) for value in metrics.values()):
            broken = ", ".join(name for name, value in metrics.items() if not math.isfinite(value))
            raise RaydvaeError(
                f"Training diverged in epoch {epoch}: {broken} is not finite. Nothing of this epoch was kept; "
                f"lower the learning rate (now {self.config.lr}) or the clip norm ({self.config.clip_norm})."
            )
        speed = self.cut.rows / (time.monotonic() - started)
        metrics |= {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"], "images_per_second": speed}
        self.epoch = epoch + 1
        self.history.append(metrics)
        return metrics

    def _weights(self, size: int) -> Tensor | None:
        """Return what slices of unequal size count in a mean over the batch; None where they are equal."""
        share = self.cut.share(size)
        if share[0] == share[-1]:
            return None
        return torch.tensor([share[part] * self.slices / size for part in self.mine], device=self.device)[:, None]

    def run_step(self, slices: list[Slice], step: int, weights: Tensor | None) -> Parts:
        def forward(lane: int) -> Parts:
            part = self.mine[lane]
            generator = torch.Generator(self.device).manual_seed(derive(self.seed, "noise", self.epoch, step, part))
            images, labels = slices[lane]
            x, y = to_float(images.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)
            return self.task.measure(self.replicas[lane], x, y, generator, self.epoch)

        def backward(lane: int) -> None:
            loss = self.task.total(measured[lane], means, self.epoch)
            grads = torch.autograd.grad(loss, list(_trainable(self.replicas[lane])))
            if self.slices == 1:  # nothing to add up
                for p, grad in zip(self.parameters, grads, strict=True):
                    p.grad = strided(grad, p)
            else:
                gather([*grads, *_statistics(self.replicas[lane])], self.exchanged[lane])

        def mean(rows: Tensor) -> Tensor:
            return self.group.mean(rows if weights is None else rows * weights)

        lanes = range(len(self.mine))
        measured = self._map(self.precision(forward), lanes)
        names = list(measured[0])
        means = _named(names, mean(torch.stack([torch.stack([p[n].detach() for n in names]) for p in measured])))
        self._map(backward, lanes)
        with torch.no_grad():
            if self.slices > 1:
                averaged = mean(self.exchanged)
                scatter(averaged, [*(p.grad for p in self._with_grads()), *_statistics(self.replicas[0])])
            norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
            apply_gradients(self.optimizer)
            for running, batch in zip(_statistics(self.model), _statistics(self.replicas[0]), strict=True):
                running.lerp_(batch, 0.1)
            loss = self.task.total(means, means, self.epoch)
        return means | {"loss": loss, "grad_norm": norm}

    def _map(self, work: Callable[[int], Any], lanes: range) -> list[Any]:
        if not self.pools:
            return [work(lane) for lane in lanes]
        futures = [self.pools[lane % len(self.pools)].submit(work, lane) for lane in lanes]
        return [future.result() for future in futures]

    def _with_grads(self) -> list[Tensor]:
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return list(self.parameters)

    def state(self) -> TrainState:
        optimizer = {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        model = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return TrainState(self.epoch, model, optimizer, list(self.history))

    def load(self, state: TrainState) -> None:
        self.model.load_state_dict(state.model)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.optimizer.items():
            index, name = key.split(".", 1)
            parameter = self.parameters[int(index)]
            same = value.shape == parameter.shape  # a count of steps is a scalar
            entries.setdefault(int(index), {})[name] = strided(value.to(self.device), parameter) if same else value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})
        self.epoch, self.history = state.epoch, list(state.history)


def learning_rate(config: TrainConfig, epoch: int, share: float) -> float:
    """Return the learning rate of the step before which ``share`` of the epoch's steps were done."""
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    done = (epoch + share) / config.epochs
    return config.lr * min(WARM_UP_FROM + done / WARM_UP, (1 - done) / (1 - WARM_UP), 1.0)


def _replica(model: nn.Module) -> nn.Module:
    """Copy ``model`` with shared parameters and its own batch statistics, which hold the last batch's."""
    memo = {id(p): p for p in model.parameters()}
    replica: nn.Module = copy.deepcopy(model, memo)
    for module in replica.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    return replica


def _trainable(model: nn.Module) -> Iterable[Tensor]:
    return (p for p in model.parameters() if p.requires_grad)


def _statistics(model: nn.Module) -> list[Tensor]:
    return [b for b in model.buffers() if b.is_floating_point()]


def _named(names: Sequence[str], values: Tensor) -> Parts:
    return dict(zip(names, values.unbind(), strict=True))
