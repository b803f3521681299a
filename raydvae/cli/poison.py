"""raydvae poison: make a data set unlearnable, so that there is something to purify."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import Progress, finish, storage_options


@dataclass(frozen=True)
class Poison:
    """Make a data set unlearnable with one of the published attacks."""

    attack: Positional[Literal["lsp"]]
    """lsp: linearly separable perturbations (Yu et al. 2022)."""
    source: Positional[str]
    """Folder, file, glob or URI of parquet files."""
    out: Positional[str]
    """Folder or URI for the poisoned data set; running again goes on with it."""
    norm: float = 1.0
    """Bound of the perturbation: l2, for images in [0, 1]."""
    ratio: float = 1.0
    """Share of the rows to poison."""
    stratified: bool = False
    """Poison that share of each class."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = 1
    """Workers to compute with."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Poison."""
        from raydvae.attacks.configs import LSPConfig
        from raydvae.attacks.lsp import LSP
        from raydvae.attacks.poisoning import PoisonWork, poison, rows_of
        from raydvae.attacks.selection import select
        from raydvae.data.dataset import find_classes, open_dataset, probe_size
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store
        from raydvae.distributed.engine import RayEngine

        started = time.monotonic()
        options = storage_options(self.storage_option)
        config = LSPConfig(norm=self.norm, seed=self.seed)
        data = open_dataset(self.source, None, options, split="train")
        classes = find_classes(data)
        size = probe_size(data)
        attack = LSP(config, size, classes.count)
        selection = select(rows_of(data, classes) if 0 < self.ratio < 1 else (), self.ratio, self.seed, self.stratified)
        work = PoisonWork(Run(Store(self.out, options)), data, classes, size, attack, selection)
        described = {"attack": self.attack, "ratio": self.ratio, "stratified": self.stratified, **asdict(config)}
        with RayEngine(self.workers) as engine:
            counts = poison(work, described, engine, Progress())
        seconds = time.monotonic() - started
        text = (
            f"{counts['rows_poisoned']} of {counts['rows_in']} rows poisoned, "
            f"{counts['rows_rejected']} rejected: {self.out}"
        )
        finish({**counts, "seconds": round(seconds, 2), "out": self.out}, self.json, text)
