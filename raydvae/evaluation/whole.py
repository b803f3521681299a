"""Whether what a finished step has left is still what it made: looked at before another step is made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydvae.data.damage import examine
from raydvae.data.manifest import HOME, Run
from raydvae.errors import DataError, RaydvaeError
from raydvae.evaluation.purifying import Model, Purified, Rebuilt, Reconstructed, Subtracted
from raydvae.evaluation.steps import Classified, Diffusion, Result, Source, Step
from raydvae.training.checkpoint import MODEL, load_model

if TYPE_CHECKING:
    from raydvae.evaluation.bench import Bench

KEPT = (Subtracted, Purified, Reconstructed, Rebuilt)  # steps that delete nothing of what they have committed


def whole(step: Step, result: Result, bench: Bench) -> bool:
    """Whether all files of ``step``, whose result is known, are there as they were written.

    Sums of data are compared where that is cheap, see `raydvae.data.damage`. A damaged model is deleted: nothing else
    has it trained again.
    """
    if isinstance(step, Source) and not step.copied:
        return True  # the user's; other files would make another step
    home = bench.home(step)
    if isinstance(step, Model | Diffusion | Classified):
        models = [name for name in home.list() if name.split("/")[-1] == MODEL]
        return bool(models) and all([_is_model(bench, step, name) for name in models])
    run = Run(home)
    spare = "" if isinstance(step, KEPT) else f"{HOME}/work/"
    if any(examine(run, name, spare=spare).damaged for name in {c.split("/")[1] for c in run.home.list("commits")}):
        return False
    rows = result.get("rows_out", result.get("rows"))
    try:
        return rows is None or bench.dataset(step).rows == rows
    except RaydvaeError:
        return False


def _is_model(bench: Bench, step: Step, name: str) -> bool:
    folder, _, _ = name.rpartition("/")
    store = bench.home(step).sub(folder)
    try:
        load_model(store)
    except DataError:
        store.delete(MODEL)
        return False
    return True
