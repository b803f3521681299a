"""The steps that the cells of tables are made of, as values: what is made, with which settings, from which steps.

A step is named after its settings and its inputs, all the way down to the fingerprints of the source's files. So two
cells that need the same poison, model or purification share it, in one table and across tables.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from raydvae.attacks.registry import AttackConfig
from raydvae.config import ClassifyConfig, described
from raydvae.data.store import Store
from raydvae.defenses.configs import AvatarConfig, DefenseConfig

if TYPE_CHECKING:
    from raydvae.evaluation.bench import Bench

Result = dict[str, Any]
FAINT = "faint-digits"  # of scikit-learn: no files that could be read where they lie


@dataclass(frozen=True)
class Step:
    """One piece of work with a folder of its own. Fields that are steps are its inputs, all others its settings."""

    kind: ClassVar[str]  # what is done, in a word: a part of the key

    @cached_property
    def inputs(self) -> tuple[Step, ...]:
        """The steps that this one is made from."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        flat = [item for value in values for item in (value if isinstance(value, tuple) else (value,))]
        return tuple(item for item in flat if isinstance(item, Step))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its own settings, as plain values."""
        out: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Step) or (isinstance(value, tuple) and any(isinstance(v, Step) for v in value)):
                continue
            plain = dataclasses.is_dataclass(value) and not isinstance(value, type)
            out[field.name] = described(value) if plain else value
        return out

    @cached_property
    def key(self) -> str:
        """Name of the step's folder: what it does, and a hash of its settings and of the keys of its inputs."""
        text = json.dumps([self.settings, [step.key for step in self.inputs]], sort_keys=True)
        return f"{self.kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    def chain(self) -> Iterator[Step]:
        """Iterate over the step and everything below it, inputs first, each once."""
        seen: dict[str, Step] = {}

        def walk(step: Step) -> None:
            for below in step.inputs:
                walk(below)
            seen.setdefault(step.key, step)

        walk(self)
        return iter(seen.values())

    def described(self) -> dict[str, Any]:
        """Return settings and inputs, nested."""
        return {"step": self.kind, **self.settings, "from": [step.described() for step in self.inputs]}

    def folder(self, bench: Bench) -> Store:
        """Return where the data set lies that the step makes, if it makes one."""
        return bench.home(self)

    def run(self, bench: Bench) -> Result:
        """Do the work, or go on with it; what is returned is kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class Source(Step):
    """Rows of the data set that a table is made on: all of a split, or the first ``limit`` of each class, copied."""

    kind: ClassVar[str] = "source"

    uri: str
    split: str
    limit: int = 0
    fingerprints: tuple[str, ...] = ()

    @property
    def copied(self) -> bool:
        """Whether the rows are copied into the step's folder."""
        return self.limit > 0 or self.uri == FAINT

    def folder(self, bench: Bench) -> Store:
        """See `Step.folder`."""
        return bench.home(self).sub("data") if self.copied else Store(self.uri, bench.out.options)

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.data.importing import import_dataset

        if self.copied:
            bench.home(self).delete("data")  # what an import that was killed has left
            format: Any = "digits" if self.uri == FAINT else "parquet"
            import_dataset(
                self.uri,
                self.folder(bench),
                format,
                split=self.split,
                limit_per_class=self.limit or None,
                options=bench.out.options,
            )
        return {"rows": bench.dataset(self).rows}


@dataclass(frozen=True)
class Poisoned(Step):
    """P0: a share of the rows with an attack's noise."""

    kind: ClassVar[str] = "poisoned"

    data: Step
    attack: AttackConfig
    ratio: float = 1.0

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.attacks.poisoning import poison
        from raydvae.attacks.recipes import Recipe
        from raydvae.data.manifest import Run

        block = getattr(self.attack, "block_rows", None)
        data = bench.dataset(self.data, unit_rows=block)
        run = Run(bench.home(self))
        recipe = Recipe(self.attack, bench.image_size, bench.classes.count, run.home)
        recipe.check()
        return dict(poison(recipe, data, bench.classes, run, bench.engine, ratio=self.ratio, watch=bench.watch))


@dataclass(frozen=True)
class Defended(Step):
    """A data set under a data transform."""

    kind: ClassVar[str] = "defended"

    data: Step
    defense: DefenseConfig

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        return transformed(bench, self, self.data, self.defense)


@dataclass(frozen=True)
class Diffusion(Step):
    """AVATAR's diffusion model, trained on clean rows."""

    kind: ClassVar[str] = "diffusion"

    data: Step
    config: AvatarConfig

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.defenses.purifiers import get_model

        data, home = bench.dataset(self.data), bench.home(self)
        config = dataclasses.replace(self.config, train_on=data.store.address)
        get_model(config, data, bench.classes, bench.image_size, home, bench.engine, bench.watch)
        return {"rows": data.rows}


@dataclass(frozen=True)
class Diffused(Step):
    """A data set that went through AVATAR."""

    kind: ClassVar[str] = "diffused"

    data: Step
    diffusion: Diffusion
    steps: int
    seed: int

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        config = AvatarConfig(steps=self.steps, seed=self.seed, model=bench.home(self.diffusion).address)
        return transformed(bench, self, self.data, config)


@dataclass(frozen=True)
class Classified(Step):
    """A classifier trained on one data set, and its accuracies on that and on clean test images."""

    kind: ClassVar[str] = "classified"

    data: Step
    test: Step
    config: ClassifyConfig
    recipe: str | None = None

    def store(self, bench: Bench) -> Store:
        """Return where the weights lie."""
        return bench.home(self).sub("model")

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.defenses.recipes import find_recipe
        from raydvae.evaluation.protocol import classify

        data, test = bench.dataset(self.data), bench.dataset(self.test)
        found = classify(
            data,
            test,
            bench.classes,
            self.config.image_size or bench.image_size,
            self.config,
            self.store(bench),
            bench.engine,
            bench.watch,
            find_recipe(self.recipe),
        )
        return {"test_acc": found.test_acc, "train_acc": found.train_acc}


@dataclass(frozen=True)
class Scored(Step):
    """The accuracy of a trained classifier on one more data set."""

    kind: ClassVar[str] = "scored"

    classifier: Classified
    data: Step

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.evaluation.protocol import accuracy, load_classifier
        from raydvae.training.stream import Source as Images

        config, device = self.classifier.config, bench.engine.device
        model = load_classifier(config, bench.classes.count, self.classifier.store(bench), device)
        images = Images(bench.dataset(self.data), bench.classes, config.image_size or bench.image_size)
        return {"accuracy": accuracy(model, images, device)}


@dataclass(frozen=True)
class Compared(Step):
    """The mean PSNR in dB of a data set's images against those that they were made from."""

    kind: ClassVar[str] = "compared"

    before: Step
    after: Step

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.evaluation.passes import mean_psnr

        return {"psnr": mean_psnr(bench.dataset(self.before), bench.dataset(self.after), bench)}


def transformed(bench: Bench, step: Step, source: Step, config: DefenseConfig) -> Result:
    """Apply a data transform to the data of ``source``, into the folder of ``step``; return the counts of rows."""
    from raydvae.data.manifest import Run
    from raydvae.defenses.defending import defend

    data, run = bench.dataset(source), Run(bench.home(step))
    return dict(defend(config, data, bench.classes, bench.image_size, run, bench.engine, bench.watch))
