"""Both KLD targets of a data set, each found by short trials and verified by a full training.

    stage 1   trials on P0, then a full training at the target that they point to: is its PSNR inside of the window?
    pass 1    x1 = x0 - p_hat(x0) with the model of that training                              -> P1
    stage 2   the same on P1

The full trainings are those of a purification with these targets, to the byte, so `lend` spares it both. Every trial
leaves a record on storage and the searches are replayed from them: a killed call goes on, and none is run again.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from dataclasses import dataclass
from typing import Any, Protocol

from raydvae.config import PurifyConfig, RateLossConfig, StageConfig, dump_toml, to_dict, with_targets
from raydvae.data.classes import Classes
from raydvae.data.damage import mend, mending, open_committed, sound_json
from raydvae.data.dataset import Dataset
from raydvae.data.manifest import Run
from raydvae.data.shapes import NUMBER
from raydvae.data.store import Store
from raydvae.engine import Engine, InProcess, Silent, Watch, apply_to_units, held
from raydvae.errors import ConfigError, RaydvaeError
from raydvae.machine import available_cores
from raydvae.purify.algorithm import P1, trained, training
from raydvae.purify.passes import SubtractPass
from raydvae.training.checkpoint import METRICS, MODEL
from raydvae.training.feed import Cut
from raydvae.training.job import TrainJob, pick_device, run_job
from raydvae.training.loop import resolve_slices
from raydvae.tuning.fidelity import bits_per_pixel, correction
from raydvae.tuning.search import Bisect, Search, Strategy, Window, check_window, monotone, predict, significant, solve
from raydvae.tuning.strategies import build
from raydvae.tuning.trial import TOLD, Trials

STAGES = ("stage1", "stage2")
VERIFICATIONS = 4  # full trainings that a stage may take
TOML, TABLE, RESULT = "purify.toml", "trials.csv", "tuning.json"
VERIFIED, SECONDS = "verified.json", "seconds.json"
COLUMNS = ("stage", "kind", "kld_target", "psnr", "kld", "bits_per_pixel", "epochs", "rows", "plateau", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """How targets are searched. The windows are those of the `PurifyConfig`'s stages.

    ``trials`` is the most short trainings a stage, each on ``fraction`` of the rows for ``epochs`` epochs (0: as many
    as a full training); ``concurrency`` of them make a round.
    """

    trials: int = 8
    fraction: float = 0.25
    epochs: int = 0
    concurrency: int = 2
    search: Strategy = "bisect"

    def __post_init__(self) -> None:
        if self.trials < 2:
            raise ConfigError(f"trials is {self.trials}; give at least 2: one of them is trained half as long.")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction is {self.fraction}; give a share of the rows above 0 and up to 1.")
        if self.epochs < 0:
            raise ConfigError(f"epochs of a trial is {self.epochs}; give a number, or 0 for those of a full training.")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency is {self.concurrency}; run at least one trial at a time.")

    def trial_epochs(self, stage: StageConfig) -> int:
        """Return the epochs of a trial of ``stage``."""
        return self.epochs or stage.train.epochs


class Runner(Protocol):
    """Where trials are run."""

    def search(self, search: Search, trials: Trials, watch: Watch) -> None:
        """Run ``search`` to its end; trials that have a record are not run."""
        ...


class Here:
    """Trials in this process, one after the other."""

    def __init__(self, threads: int | None = None) -> None:
        self.device = pick_device()
        self.threads = threads or available_cores()

    def search(self, search: Search, trials: Trials, watch: Watch) -> None:
        """See `Runner.search`."""

        def train(job: TrainJob, progress: Any) -> None:
            run_job(job, self.device, self.threads, progress=progress)

        while asked := replay(search, trials):
            for kld in asked:
                with watch.step(f"{trials.name} kld {kld:g}", trials.stage.train.epochs, "epochs") as advance:
                    trials.run(kld, train, advance)


def replay(search: Search, trials: Trials) -> list[float]:
    """Tell ``search`` every record that it asks for; return the targets of its round that still have to be run."""
    while asked := search.ask():
        left = []
        for kld in asked:
            record = trials.record(kld)
            if record is None:
                left.append(kld)
            else:
                search.tell(kld, record["psnr"])
        if left:
            return left
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """The target of one stage, and how it was found. PSNRs and windows are in dB.

    ``estimated`` is the correction from short to full training that the first search took, ``measured`` what the last
    verifying run showed; ``trials`` and ``verifications`` are their records.
    """

    name: str
    window: Window
    kld_target: float
    psnr: float
    bits_per_pixel: float
    estimated: float
    measured: float
    trials: list[dict[str, Any]]
    verifications: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """Both targets; ``config`` is the purification with them, ``seconds`` by step are of all calls together."""

    config: PurifyConfig
    stages: dict[str, StageResult]
    seconds: float

    @property
    def trials(self) -> int:
        """Short trainings, half ones included."""
        return sum(len(stage.trials) for stage in self.stages.values())


def tune(
    data: Dataset,
    classes: Classes,
    out: Store,
    config: PurifyConfig,
    settings: TuneConfig,
    engine: Engine | None = None,
    runner: Runner | None = None,
    watch: Watch | None = None,
) -> Tuned:
    """Find both targets of ``config`` for ``data``, or go on with that; everything is kept in folder ``out``.

    Raises `ConfigError` for a window that cannot be reached, naming what can be, or when ``settings.trials`` were not
    enough; finished trials count when the call is repeated with more.
    """
    for name in STAGES:
        check_window(getattr(config, name).psnr_window)
    engine, runner = engine or InProcess(), runner or Here()
    with held(Run(out), watch or Silent(), "tune", data) as (run, watch):
        known = {"classes": classes.to_dict()}
        lasting = {"fraction": settings.fraction, "epochs": settings.epochs}  # the rest may change from call to call
        run.open("tune", to_dict(config) | {"tune": lasting}, data, known)
        clock = _Clock(run)
        experiment = _Experiment(run, classes, config, settings, engine, runner, watch, clock)
        first = experiment.stage("stage1", data)
        inner = _p1_run(run, first.kld_target)
        second = mending(
            lambda: experiment.stage("stage2", experiment.p1(data, first.kld_target)),
            lambda: bool(mend(inner, "pass1", sums=True).damaged),
        )
        tuned = Tuned(config=with_targets(config, first.kld_target, second.kld_target), stages={}, seconds=clock.stop())
        tuned.stages.update(stage1=first, stage2=second)
        _write(run, tuned)
        return tuned


@dataclass(slots=True)
class _Experiment:
    run: Run
    classes: Classes
    config: PurifyConfig
    settings: TuneConfig
    engine: Engine
    runner: Runner
    watch: Watch
    clock: _Clock

    def stage(self, name: str, data: Dataset) -> StageResult:
        """Search, verify, and search again with the correction that was measured, until the window is met."""
        stage: StageConfig = getattr(self.config, name)
        trials = trials_of(self.run, name, data, self.classes, self.config, self.settings, self.engine)
        start = build("bisect", window=stage.psnr_window, start=stage.loss.kld_target).start
        offset = estimated = self._estimate(trials, data, start)
        tried: dict[float, float] = {}
        full: dict[float, float] = {}
        verifications: list[dict[str, Any]] = []
        for _ in range(VERIFICATIONS):
            target = _between(full, stage.psnr_window)
            if target is None:
                search = self._search(stage.psnr_window, start, offset)
                self.runner.search(search, trials, self.watch)
                tried |= search.told
                self.clock.lap()
                target = self._target(name, search, offset, full)
            verified = self._verify(name, data, target)
            verifications.append(verified)
            full[target] = verified["psnr"]
            offset = verified["psnr"] - predict(*monotone(tried), target)
            if stage.psnr_window[0] <= verified["psnr"] <= stage.psnr_window[1]:
                break
        else:
            raise RaydvaeError(
                f"{name}: {VERIFICATIONS} full trainings ended outside of the window {_window(stage.psnr_window)}: "
                f"{_told(full)}. {leap_advice(stage.loss, full)}"
                "Give trials that are closer to full training: a larger --fraction or more --epochs."
            )
        return StageResult(
            name=name,
            window=stage.psnr_window,
            kld_target=target,
            psnr=verified["psnr"],
            bits_per_pixel=bits_per_pixel(verified["kld"], stage.model.halvings),
            estimated=estimated,
            measured=offset,
            trials=_records(trials, tried, start),
            verifications=verifications,
        )

    def _estimate(self, trials: Trials, data: Dataset, start: float) -> float:
        """Return the correction that a trial at the start and one of half its epochs lead to expect."""
        full = self._full(trials.name, data, start)
        full_steps = full.config.epochs * len(Cut.of(full.rows, full.config.batch_size, full.config.slices).sizes)
        if full_steps <= trials.steps:
            return 0.0
        found = []
        for each in (trials, trials.halved()):
            alone = Bisect(window=trials.stage.psnr_window, start=start, trials=1)
            self.runner.search(alone, each, self.watch)
            found.append(next(iter(alone.told.values())))
        self.clock.lap()
        short, half = found
        return correction(short, half, trials.steps, trials.halved().steps, full_steps)

    def _search(self, window: Window, start: float, offset: float) -> Search:
        low, high = window
        if low - offset <= 0:
            raise RaydvaeError(f"Full training adds {offset:.1f} dB to a trial: give trials more --epochs or rows.")
        return build(
            self.settings.search,
            window=(low - offset, high - offset),
            start=start,
            width=self.settings.concurrency,
            trials=self.settings.trials - (offset != 0),  # the trial of half the epochs is one too
            seed=self.config.seed,
        )

    def _target(self, name: str, search: Search, offset: float, full: dict[float, float]) -> float:
        """Return the target that full training is to verify; `ConfigError` where there is none.

        Where trials have too few steps for the rate to bind, PSNR levels off below what full training reaches. So the
        correction is measured at the start then, and a window is said to be out of reach only after full trainings:
        where PSNR levels off, and at the limit.
        """
        verdict = search.verdict()
        if verdict.target is not None and verdict.target not in full:
            return verdict.target
        window = _window((search.window[0] + offset, search.window[1] + offset))
        if untried := [edge for edge in verdict.edges if edge not in full]:
            return untried[0]
        if verdict.unreachable or verdict.target is not None:
            measured = f"Full training gave {_told(full)}. " if full else ""
            reach = (verdict.reach[0] + offset, verdict.reach[1] + offset)
            ends = (min([*full.values(), *reach[:1]]), max(full.values())) if full else reach
            raise ConfigError(
                f"{name}: the window {window} cannot be reached: {verdict.unreachable or 'trials lead there again'}. "
                f"{measured}Reachable with these settings is about {_window(ends)}; give a window in it with "
                f"--{name}-psnr, or change width or epochs."
            )
        reach = (verdict.reach[0] + offset, verdict.reach[1] + offset)
        raise ConfigError(
            f"{name}: no target for the window {window} was found with {len(search.told)} trials, which lead to "
            f"{_window(reach)}. {leap_advice(getattr(self.config, name).loss, search.told)}"
            "Run the same command with more --trials; those finished are not run again."
        )

    def _full(self, name: str, data: Dataset, kld: float) -> TrainJob:
        """Return the training that a purification at this target would do."""
        stage: StageConfig = getattr(self.config, name)
        slices = resolve_slices(stage.train, self.engine.workers, self.engine.device)
        stage = dataclasses.replace(
            stage,
            loss=dataclasses.replace(stage.loss, kld_target=kld),
            train=dataclasses.replace(stage.train, slices=slices),
        )
        return training(full_store(self.run, name, kld), name, stage, data, self.classes, self.config)

    def _verify(self, name: str, data: Dataset, kld: float) -> dict[str, Any]:
        job, started = self._full(name, data, kld), time.monotonic()
        found: dict[str, Any] | None = sound_json(job.store, VERIFIED, TOLD)
        if found is None:
            with self.watch.step(f"{name} full", job.config.epochs, "epochs") as advance:
                self.engine.train(job, progress=advance)
            last = job.history()[-1]
            found = {
                "kld_target": kld,
                "psnr": last["psnr"],
                "kld": last["kld"],
                "epochs": job.config.epochs,
                "plateau": False,
                "selected": job.rows,
                "seconds": round(time.monotonic() - started, 2),
            }
            job.store.write_json(VERIFIED, found)
        self.clock.lap()
        return found

    def p1(self, data: Dataset, kld: float) -> Dataset:
        """Return P1 by the verified model of stage 1: of all rows, because stage 2 is verified on all of them."""
        inner = _p1_run(self.run, kld)
        store = full_store(self.run, "stage1", kld)
        work = SubtractPass("pass1", inner, data, self.classes, self.config, self.config.stage1.model, store)
        apply_to_units(self.engine, inner, work, data, self.watch)
        self.clock.lap()
        return stage_input(self.run, "stage2", data, kld)


def trials_of(
    run: Run,
    name: str,
    data: Dataset,
    classes: Classes,
    config: PurifyConfig,
    settings: TuneConfig,
    engine: Engine,
) -> Trials:
    """Return the trials of a stage whose input is ``data``, kept in a tuning's folder."""
    epochs = settings.trial_epochs(getattr(config, name))
    return Trials.of(name, data, classes, config, settings.fraction, epochs, run.home.sub(f"trials/{name}"), engine)


def stage_input(run: Run, name: str, data: Dataset, kld1: float) -> Dataset:
    """Return what a stage of a finished tuning of ``data`` was trained on: P0 or P1."""
    return data if name == "stage1" else open_committed(_p1_run(run, kld1), "pass1", P1, data)


def _p1_run(run: Run, kld: float) -> Run:
    return Run(run.home.sub(f"p1-{kld:g}"))


class _Clock:
    """Seconds spent on a run, all calls together; kept so that a killed call's last step alone is lost."""

    def __init__(self, run: Run) -> None:
        self.home = run.home
        self.before = float(sound_json(self.home, SECONDS, NUMBER) or 0.0)
        self.started = time.monotonic()
        self.done = self.home.exists(RESULT) and self.home.exists(SECONDS)

    def lap(self) -> None:
        if not self.done:
            self.home.write_json(SECONDS, self.before + time.monotonic() - self.started)

    def stop(self) -> float:
        self.lap()
        return self.before if self.done else float(self.home.read_json(SECONDS))


def full_store(run: Run, stage: str, kld: float) -> Store:
    """Return where the full training of ``stage`` at target ``kld`` lies."""
    return run.home.sub(f"full/{stage}/kld-{kld:g}")


def lend(tuned: Tuned, models: Run, run: Run) -> None:
    """Copy the verified models into a purification's folder, so that it trains nothing.

    They are what it would have trained itself: same rows, seed and settings.
    """
    for name, stage in tuned.stages.items():
        source = full_store(models, name, stage.kld_target)
        if not trained(run, name):
            run.home.write(f"{name}/{METRICS}", source.read(METRICS))
            run.home.write(f"{name}/{MODEL}", source.read(MODEL))


def _records(trials: Trials, done: dict[float, float], start: float) -> list[dict[str, Any]]:
    found = [trials.record(kld) for kld in sorted(done)] + [trials.halved().record(start)]
    return [record for record in found if record is not None]


def rows(tuned: Tuned) -> list[dict[str, Any]]:
    """Return a line for each trial and verifying run, as the table has them."""
    out = []
    for name, stage in tuned.stages.items():
        halvings = getattr(tuned.config, name).model.halvings
        most = max(record["epochs"] for record in stage.trials)
        for kind, records in (("trial", stage.trials), ("full", stage.verifications)):
            for record in records:
                half = kind == "trial" and not record["plateau"] and record["epochs"] < most
                line = {"stage": name, "kind": "half" if half else kind, "rows": record["selected"], **record}
                line["bits_per_pixel"] = bits_per_pixel(record["kld"], halvings)
                out.append({column: line[column] for column in COLUMNS})
    return out


def result(tuned: Tuned) -> dict[str, Any]:
    """Return the JSON line of a tuning."""
    first, second = tuned.stages["stage1"], tuned.stages["stage2"]
    return {
        "kld1": first.kld_target,
        "kld2": second.kld_target,
        "stage1_psnr": round(first.psnr, 3),
        "stage2_psnr": round(second.psnr, 3),
        "trials": tuned.trials,
        "seconds": round(tuned.seconds, 1),
    }


def _write(run: Run, tuned: Tuned) -> None:
    """Write the configuration, the table and all that a page tells."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(tuned))
    run.store.write(TOML, dump_toml(tuned.config).encode())
    run.store.write(TABLE, text.getvalue().encode())
    stages = {name: dataclasses.asdict(stage) for name, stage in tuned.stages.items()}
    run.home.write_json(RESULT, result(tuned) | {"stages": stages})


def _between(full: dict[float, float], window: Window) -> float | None:
    """Return where the straight line through two full trainings that have the window between them meets its middle."""
    below = [kld for kld, psnr in full.items() if psnr < window[0]]
    above = [kld for kld, psnr in full.items() if psnr > window[1]]
    if not below or not above or max(below) >= min(above):
        return None
    ends = [max(below), min(above)]
    target = significant(solve(ends, [full[kld] for kld in ends], sum(window) / 2))
    return None if target in full else target


def leap_advice(loss: RateLossConfig, told: dict[float, float]) -> str:
    """Return what to know where the targets tried lie on both sides of the official rule's switch of lambda."""
    weights = {dataclasses.replace(loss, kld_target=kld).weight for kld in told}
    if len(weights) < 2:
        return ""
    return (
        "PSNR leaps at a KLD target of 0.99, where the official rule for the rate's weight changes from 0.5 to 0.01: "
        "give a window on one side of the leap, or one weight for all targets (loss.rate_weight in a --config). "
    )


def _told(full: dict[float, float]) -> str:
    return ", ".join(f"{psnr:.2f} dB at the KLD target {kld:g}" for kld, psnr in full.items())


def _window(window: Window) -> str:
    return f"{window[0]:.2f} to {window[1]:.2f} dB"
