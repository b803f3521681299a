"""What all commands share: logging, progress, the last line of JSON, exit codes. Imports nothing heavy."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from raydvae.data.failures import hide
from raydvae.errors import safe_lines

if TYPE_CHECKING:
    from raydvae.config import DataConfig
    from raydvae.data.dataset import Dataset
    from raydvae.distributed.engine import RayEngine

PLAIN_INTERVAL = 10.0  # seconds between two lines of one step in a job's log


def set_up_logging() -> None:
    """Send messages to stderr; stdout is for results."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
    logging.getLogger().handlers[0].setFormatter(_Shown("%(message)s"))
    for name in ("fsspec", "s3fs", "botocore", "aiobotocore", "urllib3", "PIL", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Shown(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return safe_lines(hide(super().format(record)))


def say(text: str) -> None:
    """Tell the user something, on stderr. What is said holds no password that an address may have."""
    print(safe_lines(hide(text)), file=sys.stderr, flush=True)


def finish(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """End a command: ``text`` for a person, or ``result`` as the last line of stdout."""
    print(hide(json.dumps(result) if as_json else safe_lines(text)), flush=True)


def opened(uri: str, data: DataConfig | None, options: Mapping[str, Any], split: Literal["train", "test"]) -> Dataset:
    """Open a data set as `open_dataset` does, and say which files are left out where its names tell parts apart."""
    from raydvae.data.dataset import open_dataset
    from raydvae.data.files import left_out

    dataset = open_dataset(uri, data, options, split)
    if dataset.left_out:
        say(f"{uri}: {left_out(split, len(dataset.files), dataset.rows, dataset.left_out)}")
    return dataset


class Progress:
    """Shows steps as they go: bars on a terminal, a plain line now and then in a job's log."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """See `raydvae.engine.Watch`."""
        if not total:
            yield lambda _: None
            return
        started = time.monotonic()
        if self.terminal:
            yield from self._bar(name, total, unit)
        else:
            yield from self._lines(name, total, unit)
        say(f"{name}: done in {time.monotonic() - started:.1f} s")

    def _bar(self, name: str, total: int, unit: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(name, total=total, note="")

            def advance(event: dict[str, Any]) -> None:
                done, note = _read(event)
                if "epoch" in event:
                    bars.update(task, completed=done, note=note)
                else:
                    bars.update(task, advance=done, note=note)

            yield advance

    def _lines(self, name: str, total: int, unit: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        done = 0
        spoken = time.monotonic()
        say(f"{name}: {total} {unit}")

        def advance(event: dict[str, Any]) -> None:
            nonlocal done, spoken
            amount, note = _read(event)
            done = amount if "epoch" in event else done + amount
            if time.monotonic() - spoken > PLAIN_INTERVAL:
                spoken = time.monotonic()
                say(f"{name}: {done}/{total} {unit} {note}".rstrip())

        yield advance


def _read(event: dict[str, Any]) -> tuple[int, str]:
    if "epoch" not in event:
        return int(event["rows_in"]), ""
    shown = ("loss", "psnr", "kld", "cross_entropy", "accuracy", "images_per_second")
    parts = [f"{name.replace('images_per_second', 'img/s')} {event[name]:.4g}" for name in shown if name in event]
    return int(event["epoch"]) + 1, " ".join(parts)


def worker_range(text: str) -> tuple[int, int]:
    """Return the fewest and the most workers of ``N`` or ``MIN:MAX``."""
    from raydvae.errors import ConfigError

    parts = text.split(":")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--workers is {text!r}; give a number, or MIN:MAX.")
    fewest, most = int(parts[0]), int(parts[-1])
    if not 1 <= fewest <= most:
        raise ConfigError(f"--workers is {text}; give at least 1, and the smaller number first.")
    return fewest, most


def storage_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return ``key=value`` pairs as options of the file system; values may be JSON."""
    from raydvae.errors import ConfigError

    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"--storage-option takes key=value, not {key!r}.")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
    return out


@dataclass(frozen=True)
class Where:
    """Where a command works: the flags of all commands that train or compute."""

    workers: str = "1"
    """Workers to train and compute with; MIN:MAX goes on with fewer when some are lost, and grows back."""
    address: str | None = None
    """Cluster: auto or host:port on one of its machines; from elsewhere http://host:8265 (a job) or ray://host:10001."""
    wait: float = 0
    """Seconds to let the cluster grow until it has room for the workers."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""

    def check(self) -> None:
        """Raise `ConfigError` for flags that make no sense, before anything is imported or read."""
        worker_range(self.workers)
        self.options()

    def options(self) -> dict[str, Any]:
        """Return the options of the file system."""
        return storage_options(self.storage_option)

    def engine(self) -> RayEngine:
        """Return the engine that works there."""
        from raydvae.distributed.engine import RayEngine

        fewest, workers = worker_range(self.workers)
        return RayEngine(workers, self.address, fewest, self.wait)


def trials_on(engine: Any, concurrency: int) -> Any:
    """Return where trials run on Ray; None for one at a time in this process."""
    if concurrency == 1 and engine.workers == 1 and engine.address is None:
        return None
    engine.connect()
    from raydvae.distributed.tune import RayTrials

    return RayTrials(engine, concurrency)
