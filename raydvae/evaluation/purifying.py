"""The steps of purifications and of what is left of them: trainings of D-VAEs, and passes with one.

`raydvae.purify.algorithm` does the same in one run; here each step stands alone, so that purifications which differ
late share what they have in common, and ablations are other ways through the same steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from raydvae.config import PurifyConfig, Quantize, StageConfig
from raydvae.data.store import Store
from raydvae.evaluation.steps import Result, Step

if TYPE_CHECKING:
    from raydvae.evaluation.bench import Bench

P1, P2 = "_raydvae/work/p1", "_raydvae/work/p2"


@dataclass(frozen=True)
class Model(Step):
    """A D-VAE, or the plain VAE, trained as stage ``name`` of a purification with that seed."""

    kind: ClassVar[str] = "model"

    data: Step
    name: str
    stage: StageConfig
    seed: int
    disentangle: bool = True
    train_rows: int = 0
    sample_z: bool = True
    quantize: Quantize = "round"
    pass_batch: int = 128

    @classmethod
    def of(cls, data: Step, name: str, config: PurifyConfig, seed: int, kld: float | None) -> Model:
        """Return the model of one stage of ``config``, with its KLD target or another."""
        stage = config.stage1 if name == "stage1" else config.stage2
        if kld is not None:
            stage = dataclasses.replace(stage, loss=dataclasses.replace(stage.loss, kld_target=kld))
        return cls(
            data,
            name,
            stage,
            seed,
            train_rows=config.train_rows,
            sample_z=config.sample_z,
            quantize=config.quantize,
            pass_batch=config.pass_batch,
        )

    @property
    def config(self) -> PurifyConfig:
        """The purification that the model could be of, for functions that take one."""
        return PurifyConfig(
            seed=self.seed,
            stage1=self.stage,
            stage2=self.stage,
            train_rows=self.train_rows,
            sample_z=self.sample_z,
            quantize=self.quantize,
            pass_batch=self.pass_batch,
            keep_intermediate=True,
        )

    def store(self, bench: Bench) -> Store:
        """Return where the weights lie."""
        return bench.home(self).sub("model")

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.purify.algorithm import training
        from raydvae.training.tasks import VAETask

        stage = dataclasses.replace(self.stage, train=bench.settled(self.stage.train))
        job = training(self.store(bench), self.name, stage, bench.dataset(self.data), bench.classes, self.config)
        job = dataclasses.replace(job, task=VAETask(stage.model, stage.loss, self.disentangle))
        with bench.watch.step(self.name, stage.train.epochs, "epochs") as advance:
            bench.engine.train(job, progress=advance)
        return {name: value for name, value in job.history()[-1].items() if name != "images_per_second"}


@dataclass(frozen=True)
class Subtracted(Step):
    """P1: x1 = x0 - p_hat(x0)."""

    kind: ClassVar[str] = "subtracted"

    data: Step
    model: Model

    def folder(self, bench: Bench) -> Store:
        """See `Step.folder`."""
        return bench.home(self).sub(P1)

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.purify.passes import SubtractPass

        return bench.apply(self, SubtractPass, "pass1", self.data, self.model)


@dataclass(frozen=True)
class Purified(Step):
    """P3: x2 = x1 - p_hat(x1), then x3 = x_hat(x2); P2 is kept for ablation 4."""

    kind: ClassVar[str] = "purified"

    data: Step
    model: Model

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.purify.passes import ReconstructPass

        return bench.apply(self, ReconstructPass, "pass3", self.data, self.model)


@dataclass(frozen=True)
class Twice(Step):
    """P2: what a purification had before its last pass."""

    kind: ClassVar[str] = "twice"

    purified: Purified

    def folder(self, bench: Bench) -> Store:
        """See `Step.folder`."""
        return bench.home(self.purified).sub(P2)

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        return {"rows": bench.dataset(self).rows}


@dataclass(frozen=True)
class Reconstructed(Step):
    """x_hat of the rows as they come, by one model."""

    kind: ClassVar[str] = "reconstructed"

    data: Step
    model: Model

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.evaluation.passes import ReconstructByVAE, ReconstructInput

        kind = ReconstructInput if self.model.disentangle else ReconstructByVAE
        return bench.apply(self, kind, "reconstruct", self.data, self.model)


@dataclass(frozen=True)
class Rebuilt(Step):
    """P_hat: the clean rows, each plus what a D-VAE takes for the perturbation of the poisoned one (section 4.2).

    Its result is Table 10: mean lengths of p and p_hat, and how far they are apart.
    """

    kind: ClassVar[str] = "rebuilt"

    data: Step
    clean: Step
    model: Model

    def run(self, bench: Bench) -> Result:
        """See `Step.run`."""
        from raydvae.data.manifest import Run
        from raydvae.evaluation.passes import AddEstimate, amplitudes

        bench.apply(self, AddEstimate, "rebuild", self.data, self.model, clean=bench.dataset(self.clean))
        return amplitudes(Run(bench.home(self)).records("rebuild"))
