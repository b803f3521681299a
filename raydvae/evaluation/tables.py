"""The paper's tables and figures: what is in each row and column, and the steps that a cell is made by."""

from __future__ import annotations

from raydvae.defenses.configs import JPEGConfig
from raydvae.errors import ConfigError
from raydvae.evaluation.chains import CLASSIFIERS, OUR_RULE, Chains
from raydvae.evaluation.matrix import Measure, Table
from raydvae.evaluation.purifying import Rebuilt, Reconstructed, Subtracted
from raydvae.evaluation.steps import Compared, Defended, Scored, Step

ALL = ("ntga", "em", "tap", "rem", "sep", "lsp", "ar", "ops")
DISENTANGLED = ("em", "rem", "ntga", "lsp", "ar", "ops")
FIGURE = ("em", "rem", "lsp")
FLAGGED = ("em", "rem", "lsp", "ops")
SCORES = ("acc", "recall", "precision", "f1")
LARGER = ("em", "tap", "rem", "sep", "lsp")
QUALITIES = (2, 5, 10, 30, 50, 70, 90)
TARGETS = (0.25, 0.5, 1.0, 2.0, 4.0)  # the figures' axes have no legible ticks in our copy of the paper
PAIRS = ("1.5/2.5", "1.5/3.0", "0.5/3.0", "1.0/3.5", "1.0/3.0")
ABLATIONS = ("1", "2", "3", "4", "5")
WIDTHS = (0.125, 0.25, 0.5, 1.0)
RATIOS = (0.2, 0.4, 0.6, 0.8)
GROWN = (0.01, 0.02, 0.04, 0.08)
MINUTE = 1 / 60


def _countermeasure(chains: Chains, row: str, column: str) -> Measure:
    return Measure(chains.countermeasure(chains.poisoned(row), column))


def _larger(chains: Chains, row: str, column: str) -> Measure:
    return Measure(chains.countermeasure(chains.poisoned(row, larger=True), column))


def _disentangled(chains: Chains, row: str, column: str) -> Measure:
    p0 = chains.poisoned(row)
    classifier = chains.classified(Rebuilt(p0, chains.train, chains.stage1(p0)))
    if column == "d":
        return Measure((classifier,))
    return Measure((Scored(classifier, chains.train if column == "t" else p0),), "accuracy")


def _amplitude(chains: Chains, row: str, column: str) -> Measure:
    p0 = chains.poisoned(row)
    units = {"p": "l2", "p_hat": "l2", "mse": "1e-4", "psnr": "dB"}
    factor = 1e4 if column == "mse" else 1.0
    steps = (Rebuilt(p0, chains.train, chains.stage1(p0)),)
    return Measure(steps, column, factor=factor, unit=units[column])


def _ablation(chains: Chains, row: str, column: str) -> Measure:
    p0 = chains.poisoned(row)
    made = chains.purified(p0) if column == "ours" else chains.ablation(p0, int(column))
    return Measure((chains.classified(made),))


def _time(chains: Chains, row: str, column: str) -> Measure | None:
    p0 = chains.poisoned("lsp")
    p3 = chains.purified(p0)
    parts: dict[str, tuple[Step, ...]]
    if row == "ours":
        assert isinstance(p3.data, Subtracted)
        parts = {
            "d-vae": (p3.data.model, p3.model),
            "inference": (p3.data, p3),
            "classifier": (chains.classified(p3),),
        }
    else:
        parts = {"classifier": (chains.classified(p0, recipe="at"),)}
    parts["total"] = tuple(step for steps in parts.values() for step in steps)
    return Measure(parts[column], "seconds", "sum", MINUTE, "min") if column in parts else None


def _jpeg(chains: Chains, row: str, column: str) -> Measure:
    def made(p0: Step) -> Step:
        return chains.purified(p0) if column == "ours" else Defended(p0, JPEGConfig(quality=int(column.split()[1])))

    if row == "psnr":
        poisons = [chains.poisoned(attack) for attack in chains.scale.usual]
        return Measure(tuple(Compared(p0, made(p0)) for p0 in poisons), "psnr", "mean", unit="dB")
    return Measure((chains.classified(made(chains.poisoned(row))),))


def _pair(chains: Chains, row: str, column: str) -> Measure:
    p0 = chains.poisoned(row)
    if column not in PAIRS:
        return Measure(chains.countermeasure(p0, column))
    kld1, kld2 = (float(part) for part in column.split("/"))
    return Measure((chains.classified(chains.purified(p0, kld1, kld2)),))


def _point(chains: Chains, row: str, column: str) -> Measure:
    """A point of a figure: what a reconstruction or compression at one setting costs and wins back."""
    attack, *more = row.split()
    p0 = chains.poisoned(attack, larger=bool(more))
    kind, setting, shown = column.split()
    made: Step
    if kind == "jpeg":
        made = Defended(p0, JPEGConfig(quality=int(setting)))
    elif kind == "ae":
        made = chains.autoencoded(p0, float(setting))
    else:
        model = chains.vae(p0, float(setting)) if kind == "vae" else chains.stage1(p0, float(setting))
        made = Reconstructed(p0, model)
    if shown == "psnr":
        return Measure((Compared(p0, made),), "psnr", unit="dB")
    return Measure((chains.classified(made),))


def _detection(chains: Chains, row: str, column: str) -> Measure | None:
    attack, ratio = row.split()
    if float(ratio) in GROWN:
        grown = chains.grown(attack, float(ratio))
        return Measure((chains.classified(grown),)) if column == "test" else None
    if column == "test":
        return None
    *rule, name = column.split()
    return Measure(
        (chains.detected(chains.partly(attack, float(ratio))),), f"{OUR_RULE if rule else 'paper'} {name}", unit=""
    )


def _partly(chains: Chains, row: str, column: str) -> Measure:
    attack, ratio = row.split()
    p0 = chains.partly(attack, float(ratio))
    return Measure(chains.countermeasure(p0, column) if column == "jpeg" else (chains.classified(chains.mended(p0)),))


def _by_ratio(attacks: tuple[str, ...], ratios: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{attack} {ratio:g}" for attack in attacks for ratio in ratios)


def _points(kind: str, settings: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{kind} {setting:g} {shown}" for setting in settings for shown in ("psnr", "acc"))


_BEST = ("w/o", "at", "aa", "iss", "ava", "lfu", "ours")

_ALL_TABLES = (
    Table(
        name="1",
        title="Accuracy of models trained on the rebuilt unlearnable data",
        rows=DISENTANGLED,
        columns=("t", "d", "p"),
        pick=_disentangled,
        halves=True,
        note="Clean training images plus the perturbation that stage 1 estimates; tested on clean training images (t), "
        "clean test images (d) and the unlearnable data (p).",
    ),
    Table(
        name="2",
        title="Clean test accuracy on unlearnable CIFAR-10, by defense",
        rows=("clean", *ALL),
        columns=("w/o", "at", "aa", "bdr", "gray", "jpeg", "ava", "lfu", "ours", *CLASSIFIERS),
        pick=_countermeasure,
        costly=frozenset(("ava", *CLASSIFIERS)),
    ),
    Table(
        name="3",
        title="Clean test accuracy on unlearnable CIFAR-100, by defense",
        rows=("clean", *(attack for attack in ALL if attack != "ntga")),
        columns=_BEST,
        pick=_countermeasure,
        costly=frozenset({"ava"}),
    ),
    Table(
        name="4",
        title="Clean test accuracy on 100 unlearnable classes of ImageNet, by defense",
        rows=("clean", "em", "tap", "rem", "lsp"),
        columns=("w/o", "at", "aa", "iss", "ours"),
        pick=_countermeasure,
    ),
    Table(
        name="5",
        title="Clean test accuracy on CIFAR-10 with larger bounds, by defense",
        rows=LARGER,
        columns=_BEST,
        pick=_larger,
        costly=frozenset({"ava"}),
    ),
    Table(
        name="7",
        title="Ablations of the two-stage purification",
        rows=ALL,
        columns=(*ABLATIONS, "ours"),
        pick=_ablation,
        note="1: no stage 1. 2: no subtraction in stage 2. 3: stage 1 only. 4: both subtractions, no reconstruction. "
        "5: stage 1, then the reconstruction by its D-VAE.",
    ),
    Table(
        name="8",
        title="Detecting unlearnable rows, and growing a poison from a few",
        rows=_by_ratio(FLAGGED, (*RATIOS, *GROWN)),
        columns=(*SCORES, *(f"ours {score}" for score in SCORES), "test"),
        pick=_detection,
        note="With Table 11's rows. Detection by the paper's rule, which its figures are of, and by ours. The last "
        "column is the clean test accuracy of what learns from few poisoned rows and the poison grown from them.",
    ),
    Table(
        name="9",
        title="Clean test accuracy where a share of the rows is poisoned",
        rows=_by_ratio(tuple(attack for attack in ALL if attack != "ntga"), RATIOS),
        columns=("jpeg", "ours"),
        pick=_partly,
        note="JPEG on all rows; ours detects by our rule and purifies what is flagged.",
    ),
    Table(
        name="10",
        title="Amplitudes of the perturbations, and of their estimates",
        rows=DISENTANGLED,
        columns=("p", "p_hat", "mse", "psnr"),
        pick=_amplitude,
        halves=True,
    ),
    Table(
        name="16",
        title="Minutes that purification and adversarial training take",
        rows=("ours", "at"),
        columns=("d-vae", "inference", "classifier", "total"),
        pick=_time,
        note="On data poisoned by LSP. The paper's are of one RTX 3090.",
    ),
    Table(
        name="17",
        title="JPEG at several qualities",
        rows=("psnr", *ALL),
        columns=("jpeg 10", "jpeg 30", "jpeg 50", "jpeg 70", "ours"),
        pick=_jpeg,
        note="The row of PSNR is against the poisoned images, and a mean over attacks.",
    ),
    Table(
        name="18",
        title="Other KLD targets",
        rows=ALL,
        columns=("jpeg", "ava", *PAIRS),
        pick=_pair,
        costly=frozenset({"ava"}),
    ),
    Table(
        name="fig2",
        title="PSNR and accuracy by KLD target of a VAE, and by JPEG quality",
        rows=FIGURE,
        columns=(*_points("vae", TARGETS), *_points("jpeg", QUALITIES)),
        pick=_point,
    ),
    Table(
        name="fig5",
        title="PSNR and accuracy by KLD target of a VAE, and by width of an autoencoder",
        rows=FIGURE,
        columns=(*_points("vae", TARGETS), *_points("ae", WIDTHS)),
        pick=_point,
        note="Widths are shares of the D-VAE's; the paper names none.",
    ),
    Table(
        name="fig6",
        title="Accuracy by KLD target of a D-VAE",
        rows=("clean", *ALL, *(f"{attack} larger" for attack in LARGER)),
        columns=_points("d-vae", TARGETS),
        pick=_point,
    ),
)

TABLES = {table.name: table for table in _ALL_TABLES}


def find_table(name: str) -> Table:
    """Return the table called ``name``; `ConfigError` lists those there are."""
    if name not in TABLES:
        raise ConfigError(f"There is no table {name!r}; choose one of {', '.join(TABLES)}.")
    return TABLES[name]
