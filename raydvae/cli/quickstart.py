"""raydvae quickstart: unlearnable images made learnable again, in a few minutes on a laptop."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from raydvae.cli.common import Progress, finish, say
from raydvae.config import ClassifyConfig, PurifyConfig, TrainConfig, digits, sized, with_targets

NORM = 4.0  # the larger of the paper's bounds for LSP: digits are easy, and weaker noise is unreliable on them
CLASSIFIER = ClassifyConfig(
    model="tiny",
    crop_padding=0,  # at this size a net that sees crops learns the digits as early as the shortcut
    flip=False,  # a mirrored digit is another sign
    train=TrainConfig(optimizer="sgd", lr=0.05, weight_decay=5e-4, epochs=6, batch_size=32),
)
SIZE, PATCH = 16, 4  # digits are of 8 px: twice that shows all of them, at a quarter of the work of 32
KLD1, KLD2 = 0.5, 8.0  # for a narrow net at that size, as in the tables' subset of digits
# What PSNR is measured against is the poisoned digits, which noise of that norm keeps 18 dB away from clean ones:
# seeds 0, 1 and 3 end at 15.4 to 16.3 dB and 20.2 to 21.3 dB.
WINDOW1, WINDOW2 = (14.0, 18.0), (19.0, 24.0)
EPOCHS = 10  # of each stage, with the cap on the amplitude from the same share of them on as in the official 60
CAP_FROM = 2


def shortened(config: PurifyConfig) -> PurifyConfig:
    """Return ``config`` for images of `SIZE`, with both stages trained for `EPOCHS`."""
    config = with_targets(sized(config, config.stage1.model.num_classes, SIZE), KLD1, KLD2)
    data = dataclasses.replace(config.data, size_policy="resize")
    first, second = (
        dataclasses.replace(
            stage,
            psnr_window=window,
            train=dataclasses.replace(stage.train, epochs=EPOCHS),
            loss=dataclasses.replace(stage.loss, amplitude_from_epoch=CAP_FROM),
        )
        for stage, window in ((config.stage1, WINDOW1), (config.stage2, WINDOW2))
    )
    return dataclasses.replace(config, data=data, stage1=first, stage2=second)


@dataclass(frozen=True)
class Quickstart:
    """Poison scikit-learn's digits, purify them, and train a classifier on each: clean, poisoned, purified."""

    out: str = "quickstart"
    """Folder for all that is made; running again goes on with it."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = 1
    """Workers to train and compute with."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Run all of it."""
        started = time.monotonic()
        from raydvae.attacks.configs import LSPConfig
        from raydvae.attacks.poisoning import poison
        from raydvae.attacks.recipes import Recipe
        from raydvae.data.classes import find_classes
        from raydvae.data.dataset import Dataset, open_dataset
        from raydvae.data.importing import import_dataset, imported
        from raydvae.data.manifest import Run
        from raydvae.data.store import Store
        from raydvae.distributed.engine import RayEngine
        from raydvae.engine import InProcess
        from raydvae.evaluation.protocol import classify
        from raydvae.purify.algorithm import purify
        from raydvae.reports.collect import write_report

        home, watch = Store(self.out), Progress()
        config = shortened(dataclasses.replace(digits(), seed=self.seed))
        for split in ("train", "test"):
            if not imported(home.sub(split)):
                import_dataset("digits", home.sub(split), "digits", split=split, rows_per_shard=500)
        clean, test = (open_dataset(home.sub(split).address, config.data) for split in ("train", "test"))
        classes = find_classes(clean)
        config = sized(config, classes.count, config.image_size)
        attack = LSPConfig(norm=NORM, patch=PATCH, seed=self.seed)

        with RayEngine(self.workers) as engine:

            def accuracy(name: str, data: Dataset) -> float:
                say(f"— a classifier learns from {name} digits")
                settings = dataclasses.replace(CLASSIFIER, seed=self.seed)
                store = home.sub(f"classifiers/{name}")
                return classify(data, test, classes, config.image_size, settings, store, engine, watch).test_acc

            before = accuracy("clean", clean)
            run = Run(home.sub("poisoned"))
            recipe = Recipe(attack, config.image_size, classes.count, run.home)
            poison(recipe, clean, classes, run, InProcess(), watch=watch)
            poisoned = open_dataset(home.sub("poisoned").address, config.data)
            during = accuracy("poisoned", poisoned)
            say("— D-VAE purifies them")
            summary = purify(poisoned, classes, home.sub("purified"), config, engine, watch)
            after = accuracy("purified", open_dataset(home.sub("purified").address, config.data))

        accuracies = {"clean": before, "poisoned": during, "purified": after}
        report = write_report(home.sub("purified"), accuracies, poisoned)
        seconds = time.monotonic() - started
        text = (
            f"\nAccuracy on {test.rows} held-out digits, of a classifier trained on {summary.rows_in} digits that are\n"
            f"  clean     {before:6.2f} %\n  poisoned  {during:6.2f} %\n  purified  {after:6.2f} %\n"
            f"in {seconds:.0f} s. The whole story: {report}"
        )
        result = {f"{name}_acc": round(value, 3) for name, value in accuracies.items()}
        finish({**result, "seconds": round(seconds, 1), "report": report}, self.json, text)
