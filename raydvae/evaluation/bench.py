"""Where steps are done: one folder for all tables, in which a step that is finished is never done again."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raydvae.config import DataConfig, TrainConfig
from raydvae.data.classes import Classes, find_classes
from raydvae.data.damage import sound_json
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.failures import hide_all
from raydvae.data.manifest import Run, check_rejected, versions
from raydvae.data.shapes import COUNT, NUMBER
from raydvae.data.store import Store
from raydvae.engine import Engine, Silent, UnitWork, Watch, apply_to_units
from raydvae.evaluation.steps import Result, Source, Step
from raydvae.training.loop import resolve_slices

if TYPE_CHECKING:
    from raydvae.evaluation.purifying import Model

STEPS, RECORD, SPENT = "steps", "_raydvae/step.json", "_raydvae/spent.json"
PAST = {"seconds": NUMBER, "sessions": COUNT}
TOLD = {**PAST, "result": {}, "device": str}
log = logging.getLogger(__name__)


class Bench:
    """Does steps on an engine, inputs first, and keeps what came of each in ``out``.

    ``image_size`` and ``data`` are how all images are read. ``given`` are data sets that are open already, by their
    step's key; ``done`` the keys of the steps that this bench did.
    """

    def __init__(
        self,
        out: Store,
        source: Source,
        image_size: int,
        data: DataConfig,
        engine: Engine,
        watch: Watch | None = None,
        say: Callable[[str], None] = lambda _: None,
        given: Mapping[str, Dataset] | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.out, self.source, self.image_size, self.data = out, source, image_size, data
        self.engine, self.watch, self.say = engine, watch or Silent(), say
        self.given = dict(given or {})
        self.done: list[str] = []
        self._classes = classes
        self._seen: set[str] = set()  # steps whose files have been looked at

    @property
    def classes(self) -> Classes:
        """The classes of the data set that all steps come from."""
        if self._classes is None:
            self.result(self.source)
            self._classes = find_classes(self.dataset(self.source))
        return self._classes

    def home(self, step: Step) -> Store:
        """Return the folder of a step."""
        return self.out.sub(f"{STEPS}/{step.key}")

    def dataset(self, step: Step, unit_rows: int | None = None) -> Dataset:
        """Return the data set that a step made, to be read in units of ``unit_rows`` if they are given."""
        data = dataclasses.replace(self.data, unit_rows=unit_rows) if unit_rows else self.data
        if step.key in self.given:
            return dataclasses.replace(self.given[step.key], data=data)
        split = step.split if isinstance(step, Source) and not step.copied else None
        store = step.folder(self)
        return open_dataset(store.address, data, store.options, split=split)

    def settled(self, config: TrainConfig) -> TrainConfig:
        """Return a training's settings with its number of slices decided."""
        return dataclasses.replace(config, slices=resolve_slices(config, self.engine.workers, self.engine.device))

    def record(self, step: Step) -> dict[str, Any] | None:
        """Return what is known of a finished step: its result, seconds, sessions, device and versions.

        None also for a damaged record: going on with the step makes it again.
        """
        found: dict[str, Any] | None = sound_json(self.home(step), RECORD, TOLD)
        return found

    def result(self, step: Step) -> Result:
        """Do a step and whatever is missing below it, or damaged right below what is; return its result."""
        for below in step.chain():
            if self.record(below) is None:
                for before in below.inputs:
                    self._mend(before)
                self._do(below)
        found = self.record(step)
        assert found is not None
        result: Result = found["result"]
        return result

    def _mend(self, step: Step) -> None:
        """Do what is damaged of a finished step again."""
        from raydvae.evaluation.purifying import Twice
        from raydvae.evaluation.whole import whole

        if step.key in self._seen or step.key in self.given:
            return
        self._seen.add(step.key)
        if isinstance(step, Twice):  # it has no files but those of the step below
            self._mend(step.purified)
        if not whole(step, self.result(step), self):
            log.warning("%s has damaged files; they are made again.", self.home(step).uri)
            self.home(step).delete(RECORD)
            self.result(step)

    def apply(self, step: Step, kind: Any, name: str, data: Step, model: Model, **more: Any) -> Result:
        """Run a pass of ``model`` over a data set into the step's folder; return the counts of rows."""
        source, run = self.dataset(data), Run(self.home(step))
        known = {"classes": self.classes.to_dict()}
        run.open(step.kind, {"step": step.key}, source, known)
        config, architecture = model.config, model.stage.model
        work: UnitWork = kind(name, run, source, self.classes, config, architecture, model.store(self), **more)
        apply_to_units(self.engine, run, work, source, self.watch)
        records = run.records(name)
        counts = {of: sum(record[of] for record in records) for of in ("rows_in", "rows_out", "rows_rejected")}
        limit = self.data.reject_limit
        check_rejected(counts["rows_rejected"], source.rows, limit, f"see {run.home.uri}/rejected")
        return counts

    def _do(self, step: Step) -> None:
        home = self.home(step)
        spent = sound_json(home, SPENT, PAST) or {"seconds": 0.0, "sessions": 0}
        spent["sessions"] += 1
        home.write_json(SPENT, spent)  # a session that is killed is counted, though not its seconds
        started = time.monotonic()
        try:
            result = step.run(self)
        finally:
            spent["seconds"] = round(spent["seconds"] + time.monotonic() - started, 3)
            home.write_json(SPENT, spent)
        about = {"device": self.engine.device.type, "versions": versions()}
        home.write_json(RECORD, hide_all({"about": step.described(), "result": result, **spent, **about}))
        self.done.append(step.key)
