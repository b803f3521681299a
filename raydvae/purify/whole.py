"""Whether what a purification has left is whole and belongs together."""

from __future__ import annotations

import logging

from raydvae.data.damage import files_of
from raydvae.data.manifest import HOME, Run
from raydvae.errors import DataError
from raydvae.purify.passes import Pass
from raydvae.training.checkpoint import MODEL, load_model

log = logging.getLogger(__name__)
STAGES = ("stage1", "stage2")
SPARE = f"{HOME}/work/"  # what lies there is deleted in the end


def needed(run: Run, p1: str, final: bool) -> set[str]:
    """Return the units of pass 1 whose part of P1 is still to be read: all of them until stage 2's model is ``final``.

    P1 lies in the folder ``p1`` of the run's home.
    """
    done = {record["source"][0] for record in run.records("pass3")} if final else set()
    return {
        record["unit"]
        for record in run.records("pass1")
        if not any(file.removeprefix(f"{HOME}/{p1}/") in done for file in files_of(record, "pass1"))
    }


def adds_up(run: Run, counts: tuple[int, int, int], rows: int) -> bool:
    """Whether all rows of the source are accounted for in what is committed, ``counts``, as in, out and rejected."""
    first, last = run.records("pass1"), run.records("pass3")
    found = (
        sum(record["rows_in"] for record in first),
        sum(record["rows_out"] for record in last),
        sum(record["rows_rejected"] for record in first),
    )
    return found == counts and found[0] == rows == sum(found[1:])


def check_model(run: Run, work: Pass) -> None:
    """Raise `DataError` for a damaged model, and for one that is not the one which made what is committed."""
    made = {record["model"] for record in run.records(work.name) if record.get("model")}
    if made and made != {load_model(work.store)[1]}:
        raise DataError(
            f"{work.store.uri}/{MODEL} is not the model that made what {work.name} has committed: it was trained anew "
            "on another kind of machine, with other versions, or put there. Put the first one back, or start anew in "
            f"another folder than {run.store.uri}."
        )


def warn_of_models(run: Run, sums: bool | None) -> None:
    """Look at the models of a run that needs them no more: they may be lent, or used again. Sums as for its data."""
    for stage in STAGES:
        if not run.home.exists(f"{stage}/{MODEL}"):
            log.warning(
                "The purified data set is whole, but %s/%s/%s is missing: its models cannot be lent (--models), "
                "nor new files purified by them.",
                run.home.uri,
                stage,
                MODEL,
            )
        elif sums or run.home.is_local:
            try:
                load_model(run.home.sub(stage))
            except DataError as error:
                log.warning("The purified data set is whole, but a model is not. %s", error)


def sound(run: Run, stage: str) -> bool:
    """Whether a stage's final model is there and what was written."""
    try:
        return run.home.exists(f"{stage}/{MODEL}") and bool(load_model(run.home.sub(stage)))
    except DataError:
        return False
