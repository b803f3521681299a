"""From an attack and a defense to the steps between the data set and an accuracy, at one scale and seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from raydvae.config import PurifyConfig
from raydvae.defenses.configs import AEConfig, BDRConfig, DefenseConfig, GrayConfig, JPEGConfig, LFUConfig
from raydvae.detection.configs import DetectConfig, Rule
from raydvae.errors import ConfigError
from raydvae.evaluation.partial import Detected, Few, Grown, Joined, Mended
from raydvae.evaluation.purifying import Model, Purified, Reconstructed, Subtracted, Twice
from raydvae.evaluation.scales import Scale
from raydvae.evaluation.steps import Classified, Defended, Diffused, Diffusion, Poisoned, Source, Step

RECIPES = {"at": "at", "aa": "ueraser"}
OUR_RULE: Rule = "shortcut"
ISS = ("bdr", "gray", "jpeg")
TRANSFORMS: dict[str, DefenseConfig] = {"bdr": BDRConfig(), "gray": GrayConfig(), "jpeg": JPEGConfig()}
CLASSIFIERS = {"rn-50": "resnet50", "dn-121": "densenet121", "mn-v2": "mobilenetv2"}


@dataclass(frozen=True, slots=True)
class Chains:
    """The steps of one scale and seed, from a training and a test set."""

    scale: Scale
    train: Source
    test: Source
    seed: int

    def partly(self, attack: str, ratio: float) -> Poisoned:
        """P0, of which only a share of the rows is poisoned."""
        return Poisoned(self.train, dataclasses.replace(self.scale.attacks[attack], seed=self.seed), ratio)

    def poisoned(self, attack: str, larger: bool = False) -> Step:
        """P0: the training rows under an attack, or as they are for "clean"."""
        if attack == "clean":
            return self.train
        config = (self.scale.larger if larger else self.scale.attacks)[attack]
        return Poisoned(self.train, dataclasses.replace(config, seed=self.seed))

    def classified(self, data: Step, recipe: str | None = None, model: str | None = None) -> Classified:
        """The scale's classifier, trained on ``data``, or another one or by a recipe."""
        config = dataclasses.replace(self.scale.classify(model, recipe), seed=self.seed)
        return Classified(data, self.test, config, recipe)

    def countermeasure(self, data: Step, name: str) -> tuple[Classified, ...]:
        """The classifiers that make a column of Table 2; for "iss" three, the best of which counts."""
        if name == "w/o":
            return (self.classified(data),)
        if name == "iss":
            return tuple(self.countermeasure(data, one)[0] for one in ISS)
        if name in TRANSFORMS:
            return (self.classified(Defended(data, TRANSFORMS[name])),)
        if name == "lfu":
            defense = LFUConfig(epochs=self.scale.lfu_epochs, seed=self.seed)
            return (self.classified(Defended(data, defense), recipe="cutmix"),)
        if name in RECIPES:
            return (self.classified(data, recipe=RECIPES[name]),)
        if name == "ava":
            config = dataclasses.replace(self.scale.diffusion, seed=self.seed)
            return (self.classified(Diffused(data, Diffusion(self.train, config), config.steps, self.seed)),)
        if name == "ours" or name in CLASSIFIERS:
            return (self.classified(self.purified(data), model=CLASSIFIERS.get(name)),)
        raise ConfigError(f"There is no countermeasure {name!r}.")

    def stage1(self, data: Step, kld: float | None = None) -> Model:
        """The D-VAE of stage 1, trained on ``data``, with the scale's KLD target or another."""
        return self._model(data, "stage1", kld)

    def stage2(self, data: Step, kld: float | None = None) -> Model:
        """The D-VAE of stage 2, trained on ``data``."""
        return self._model(data, "stage2", kld)

    def vae(self, data: Step, kld: float) -> Model:
        """The plain rate-constrained VAE, trained on ``data``."""
        return dataclasses.replace(self._model(data, "stage1", kld), disentangle=False)

    def autoencoded(self, data: Step, share: float) -> Defended:
        """The reconstruction by an autoencoder without a rate, of a share of the D-VAE's width."""
        train = self.scale.purify.stage1.train
        width = self.scale.width(share)
        return Defended(data, AEConfig(epochs=train.epochs, batch=train.batch_size, width=width, seed=self.seed))

    def purified(self, data: Step, kld1: float | None = None, kld2: float | None = None) -> Purified:
        """P3: the whole of Algorithm 1, as `raydvae.purify.algorithm` does it, to the byte."""
        p1 = Subtracted(data, self.stage1(data, kld1))
        return Purified(p1, self.stage2(p1, kld2))

    def ablation(self, data: Step, number: int) -> Step:
        """What Table 7 calls 1 to 5: a purification of which something is left out."""
        if number == 1:
            return Purified(data, self.stage2(data))
        stage1 = self.stage1(data)
        p1 = Subtracted(data, stage1)
        if number == 2:
            return Reconstructed(p1, self.stage2(p1))
        if number == 3:
            return p1
        return Twice(self.purified(data)) if number == 4 else Reconstructed(p1, stage1)

    def detected(self, p0: Poisoned) -> Detected:
        """Which rows of a partly poisoned set are flagged."""
        own = self.scale.detect or DetectConfig(purify=self.scale.purify, classifier=self.scale.classify(None, None))
        purify = dataclasses.replace(own.purify, seed=self.seed)
        classifier = dataclasses.replace(own.classifier, seed=self.seed)
        return Detected(p0, DetectConfig(rule=OUR_RULE, purify=purify, classifier=classifier))

    def mended(self, p0: Poisoned) -> Mended:
        """A partly poisoned set whose flagged rows are purified."""
        return Mended(p0, self.detected(p0), self._seeded)

    def grown(self, attack: str, ratio: float) -> Joined:
        """P: a share of the rows poisoned by the attack, and the others by what a D-VAE has learned from them."""
        few = Few(self.poisoned(attack), ratio, self.seed)
        rest = Few(self.train, ratio, self.seed, rest=True)
        return Joined((few, Grown(few, rest, self._seeded, self.scale.growth_steps)))

    @property
    def _seeded(self) -> PurifyConfig:
        return dataclasses.replace(self.scale.purify, seed=self.seed)

    def _model(self, data: Step, name: str, kld: float | None) -> Model:
        return Model.of(data, name, self.scale.purify, self.seed, kld)
