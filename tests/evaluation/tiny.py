"""The subset's settings made smaller still, so that a cell of any table takes a moment."""

from __future__ import annotations

import dataclasses

from raydvae.config import StageConfig, TrainConfig
from raydvae.defenses.configs import AvatarConfig
from raydvae.evaluation.scales import Scale, subset


def tiny(epochs: int = 1, rows: int = 6) -> Scale:
    base = subset(True, 10, 0)

    def shrink(stage: StageConfig) -> StageConfig:
        train = dataclasses.replace(stage.train, epochs=epochs)
        return dataclasses.replace(stage, model=dataclasses.replace(stage.model, width=2), train=train)

    stages = {"stage1": shrink(base.purify.stage1), "stage2": shrink(base.purify.stage2)}
    learned: TrainConfig = dataclasses.replace(base.classifier.train, epochs=epochs)
    return dataclasses.replace(
        base,
        purify=dataclasses.replace(base.purify, **stages),
        classifier=dataclasses.replace(base.classifier, train=learned),
        rows=rows,
        test_rows=6,
        usual=("lsp",),
        lfu_epochs=1,
        growth_steps=2,
        diffusion=AvatarConfig(width=8, epochs=1, batch=32, steps=2),
    )
