"""Steps of section 5: detecting poisoned rows, purifying only those, and growing a poison from a few."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.config import PurifyConfig
from raydvae.data.selection import select
from raydvae.detection.configs import DetectConfig, Rule
from raydvae.errors import ConfigError
from raydvae.evaluation.steps import Poisoned, Result, Step
from raydvae.seeds import derive

if TYPE_CHECKING:
    from raydvae.data.store import Store
    from raydvae.evaluation.bench import Bench

FLAGS = "flags.parquet"


@dataclass(frozen=True)
class Detected(Step):
    """Which rows of a partly poisoned set each rule flags, and how right it is; `Mended` goes by that of ``config``."""

    kind: ClassVar[str] = "detected"

    data: Poisoned
    config: DetectConfig

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.data.manifest import Run
        from raydvae.detection.detecting import detect

        home, data, out = bench.home(self), bench.dataset(self.data), dict[str, float]()
        truth = _truth(bench.home(self.data))
        for rule in get_args(Rule):
            config = dataclasses.replace(self.config, rule=rule)
            found = detect(data, bench.classes, Run(home), config, bench.engine, bench.watch)
            ids = found.table["row_id"].to_pylist()
            flagged = found.judged.flagged
            out |= {f"{rule} {name}": value for name, value in scores(flagged, [truth[i] for i in ids]).items()}
            out |= {f"{rule} share": found.judged.share, f"{rule} flagged": int(flagged.sum())}
            if rule == self.config.rule:
                home.write(FLAGS, found.flags)
        return out


@dataclass(frozen=True)
class Mended(Step):
    """A partly poisoned set whose flagged rows are purified (Tables 9 and 12)."""

    kind: ClassVar[str] = "mended"

    data: Poisoned
    detected: Detected
    config: PurifyConfig

    def run(self, bench: Bench) -> Result:
        """See `Step.run`; where no row is flagged, all go through as they are."""
        from raydvae.data.flags import read_flags
        from raydvae.evaluation.parts import join
        from raydvae.purify.algorithm import purify

        data = bench.dataset(self.data)
        if not bench.result(self.detected)[f"{self.detected.config.rule} flagged"]:
            return {"rows": join([data], bench.home(self)), "rows_flagged": 0}
        flags = read_flags(f"{bench.home(self.detected).uri}/{FLAGS}", data, bench.out.options)
        summary = purify(data, bench.classes, bench.home(self), self.config, bench.engine, bench.watch, flags=flags)
        return {"rows": summary.rows_out, "rows_flagged": flags.flagged}


@dataclass(frozen=True)
class Few(Step):
    """Of a data set that is split by a draw: the share that the attacker has poisoned, or the clean rest."""

    kind: ClassVar[str] = "few"

    data: Step
    ratio: float
    seed: int
    rest: bool = False

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.attacks.poisoning import rows_of
        from raydvae.evaluation.parts import keep

        data = bench.dataset(self.data)
        chosen = select(rows_of(data, bench.classes), self.ratio, derive(self.seed, "few"), stratified=True)
        rows = keep(data, bench.classes, chosen, self.rest, bench.home(self))
        if not rows:
            raise ConfigError(
                f"A share of {self.ratio:g} of the {data.rows} rows is not one row of any class; take more rows, "
                "or leave this row of the table out."
            )
        return {"rows": rows}


@dataclass(frozen=True)
class Grown(Step):
    """P1: the clean rest, poisoned by what the D-VAE has learned from the few poisoned rows (section 5.2)."""

    kind: ClassVar[str] = "grown"

    few: Step
    rest: Step
    config: PurifyConfig
    steps: int

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.detection.configs import GrowConfig
        from raydvae.detection.growing import grow

        few, rest = bench.dataset(self.few), bench.dataset(self.rest)
        config = GrowConfig(purify=self.config, steps=self.steps)
        return dict(grow(few, rest, bench.classes, bench.home(self), config, bench.engine, bench.watch))


@dataclass(frozen=True)
class Joined(Step):
    """The rows of several data sets as one."""

    kind: ClassVar[str] = "joined"

    parts: tuple[Step, ...]

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.evaluation.parts import join

        return {"rows": join([bench.dataset(part) for part in self.parts], bench.home(self))}


def scores(flagged: np.ndarray[tuple[int], np.dtype[np.bool_]], truth: list[bool]) -> dict[str, float]:
    """Return accuracy, recall, precision and F1 of flags; precision is 1 where nothing is flagged, recall where none
    should be.
    """
    real = np.array(truth, np.bool_)
    hits, named, there = int((flagged & real).sum()), int(flagged.sum()), int(real.sum())
    recall, precision = hits / there if there else 1.0, hits / named if named else 1.0
    f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    return {"acc": float((flagged == real).mean()), "recall": recall, "precision": precision, "f1": f1}


def _truth(home: Store) -> dict[str, bool]:
    table = pq.read_table(pa.BufferReader(home.read("_raydvae/poison.parquet")))
    return dict(zip(table["row_id"].to_pylist(), table["poisoned"].to_pylist(), strict=True))
