"""raydvae table: the paper's tables and figures, each by one command."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from raydvae.cli.common import Progress, Where, finish, say


@dataclass(frozen=True)
class Table:
    """Make a table or figure of the paper: every cell from the data set on, with the paper's figure beside ours.

    Poisons, purifications and classifiers are made once and serve all cells and tables that need them. Each cell leaves
    a card (JSON) in OUT/cards; OUT/table-N.html and .md are made from the cards. A table that was stopped goes on.
    """

    table: Positional[Literal["1", "2", "3", "4", "5", "7", "8", "9", "10", "16", "17", "18", "fig2", "fig5", "fig6"]]
    """Number of a table, or fig and the number of a figure."""
    data: str
    """Folder or URI with parquet files train-* and test-* (CIFAR-100 for table 3, ImageNet for 4); or: digits."""
    scale: Literal["full", "subset"] = "subset"
    """The paper's settings on all rows; or small ones on some rows, for two cores."""
    out: str = "tables"
    """Folder or URI for cards, pages and all that is made on the way; tables of one data set can share it."""
    seeds: int = 1
    """Runs of each cell, with seeds 0, 1, 2 and so on."""
    rows: tuple[str, ...] = ()
    """Attacks to make, or rows such as "lsp 0.2" (by default all; in the subset those that are quick to craft)."""
    columns: tuple[str, ...] = ()
    """Columns to make, in full or by their first word (by default all; in the subset no large classifiers)."""
    json: bool = False
    """End with one line of JSON."""
    where: OmitArgPrefixes[Where] = Where()
    """Where the work is done."""

    def run(self) -> None:
        """Make the table."""
        started = time.monotonic()
        self.where.check()
        from raydvae.data.store import Store
        from raydvae.engine import InProcess
        from raydvae.evaluation.making import make_table, plan
        from raydvae.reports.tables import write_tables

        options = self.where.options()
        planned = plan(self.table, self.data, self.scale, self.seeds, self.rows, self.columns, options)
        say(f"{len(planned.cells)} cells, made by {planned.steps} steps")
        out = Store(self.out, options)
        here = self.where.workers == "1" and self.where.address is None
        with nullcontext(InProcess()) if here else self.where.engine() as engine:
            cards, bench = make_table(planned, out, engine, Progress(), say)
        pages = write_tables(planned.table, cards, out)
        seconds = round(time.monotonic() - started, 2)
        counts = {"cells": len(planned.cells), "steps_done": len(bench.done), "seconds": seconds}
        text = f"{counts['cells']} cells, for which {counts['steps_done']} steps were done now. Page: {pages['page']}"
        finish({**counts, **pages}, self.json, text)
