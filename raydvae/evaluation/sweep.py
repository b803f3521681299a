"""What a classifier learns at different KLD targets: the paper's Figure 2, Figure 6 and Table 18, on any data.

"pairs" purifies with each pair of targets (Table 18). "dvae" and "vae" train one model at each target and take its
reconstruction x_hat of the data as it came (Figure 6, and Figure 2 with the plain VAE). The steps are
those of the tables: a killed sweep goes on, and points that share the first target share the model of stage 1.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raydvae.config import ClassifyConfig, PurifyConfig, RateLossConfig, to_dict
from raydvae.data.classes import Classes
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import Engine, Silent, Watch, held
from raydvae.errors import ConfigError
from raydvae.evaluation.bench import Bench
from raydvae.evaluation.chains import Chains
from raydvae.evaluation.protocol import check_test
from raydvae.evaluation.purifying import Reconstructed
from raydvae.evaluation.scales import Scale
from raydvae.evaluation.steps import Compared, Source, Step

Kind = Literal["pairs", "dvae", "vae"]
TABLE_18 = ((1.5, 2.5), (1.5, 3.0), (0.5, 3.0), (1.0, 3.5), (1.0, 3.0))
FIGURES = ((0.25, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0))
TABLE = "accuracy.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Targets and what came of them: PSNR in dB of the last reconstruction and its input, accuracy in percent.

    ``kld2`` is 0 where one model is used. ``front`` says that no other point has both a higher PSNR and accuracy.
    """

    kld1: float
    kld2: float
    psnr: float
    test_acc: float
    seconds: float
    front: bool = False


def sweep(
    data: Dataset,
    test: Dataset,
    classes: Classes,
    out: Store,
    config: PurifyConfig,
    classifier: ClassifyConfig,
    kind: Kind,
    targets: Sequence[tuple[float, float]],
    engine: Engine,
    watch: Watch | None = None,
) -> list[Point]:
    """Measure PSNR and test accuracy at each of ``targets``, or go on with that; table and points are kept in ``out``.

    Raises `ConfigError` for targets below 0 or none at all, and as `check_test` does.
    """
    if not targets:
        raise ConfigError("There is no KLD target to sweep; give --kld1, and --kld2 for pairs.")
    for pair in targets:
        for kld in pair:
            RateLossConfig(kld_target=kld)
    check_test(test, config.image_size)
    with held(Run(out), watch or Silent(), "sweep", data) as (run, watch):
        known = {"classes": classes.to_dict(), "classifier": to_dict(classifier)}
        run.open("sweep", to_dict(config) | {"sweep": kind}, data, known)
        train, tested = (_source(given, split) for given, split in ((data, "train"), (test, "test")))
        scale = Scale(
            name=kind, image_size=config.image_size, purify=config, classifier=classifier, attacks={}, larger={}
        )
        given = {train.key: data, tested.key: test}
        bench = Bench(run.home, train, config.image_size, config.data, engine, watch, given=given, classes=classes)
        work = _Sweep(bench, Chains(scale, train, tested, config.seed), kind)
        points = front([work.point(*pair) for pair in targets])
        _write(run, points)
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points with those marked that no other one surpasses in PSNR and accuracy."""

    def surpassed(point: Point) -> bool:
        return any(
            other.psnr >= point.psnr
            and other.test_acc >= point.test_acc
            and (other.psnr, other.test_acc) != (point.psnr, point.test_acc)
            for other in points
        )

    return [dataclasses.replace(point, front=not surpassed(point)) for point in points]


@dataclass(frozen=True, slots=True)
class _Sweep:
    bench: Bench
    chains: Chains
    kind: Kind

    def point(self, kld1: float, kld2: float) -> Point:
        chains, data = self.chains, self.chains.train
        before: Step = data
        made: Step
        if self.kind == "pairs":
            made = chains.purified(data, kld1, kld2)
            before = made.data
        else:
            made = Reconstructed(data, chains.vae(data, kld1) if self.kind == "vae" else chains.stage1(data, kld1))
        classified, compared = chains.classified(made), Compared(before, made)
        found, psnr = self.bench.result(classified), self.bench.result(compared)["psnr"]
        records = [self.bench.record(step) or {} for step in (*classified.chain(), compared)]
        seconds = round(sum(record["seconds"] for record in records), 2)
        return Point(kld1=kld1, kld2=kld2, psnr=psnr, test_acc=found["test_acc"], seconds=seconds)


def _source(data: Dataset, split: str) -> Source:
    return Source(data.store.address, split, fingerprints=tuple(file.fingerprint for file in data.files))


def _write(run: Run, points: Sequence[Point]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Point)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(point) for point in points)
    run.store.write(TABLE, text.getvalue().encode())
