"""The command line: parses, calls one command, and turns what it raises into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from raydvae import __version__, stopping
from raydvae.cli.classify import Classify
from raydvae.cli.common import say, set_up_logging
from raydvae.cli.defend import Defend
from raydvae.cli.detect import Detect
from raydvae.cli.grow import Grow
from raydvae.cli.import_ import Import
from raydvae.cli.inspect_ import Inspect
from raydvae.cli.poison import Poison
from raydvae.cli.purify import Purify
from raydvae.cli.quickstart import Quickstart
from raydvae.cli.releases import ExportPoison, ImportPoison
from raydvae.cli.report import Report
from raydvae.cli.status import Status
from raydvae.cli.table import Table
from raydvae.cli.tune import Tune
from raydvae.errors import Interrupted, RaydvaeError

Command = Union[  # noqa: UP007 - tyro reads the annotated members
    Annotated[Quickstart, subcommand("quickstart")],
    Annotated[Import, subcommand("import")],
    Annotated[Poison, subcommand("poison")],
    Annotated[ImportPoison, subcommand("import-poison")],
    Annotated[ExportPoison, subcommand("export-poison")],
    Annotated[Purify, subcommand("purify")],
    Annotated[Detect, subcommand("detect")],
    Annotated[Grow, subcommand("grow")],
    Annotated[Defend, subcommand("defend")],
    Annotated[Classify, subcommand("classify")],
    Annotated[Inspect, subcommand("inspect")],
    Annotated[Report, subcommand("report")],
    Annotated[Tune, subcommand("tune")],
    Annotated[Table, subcommand("table")],
    Annotated[Status, subcommand("status")],
]


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        try:
            code = run(sys.argv[1:] if args is None else args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; but nobody knows whether all was done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def run(args: list[str]) -> int:
    """Run one command and return its exit code; usage errors exit with 2."""
    return guarded(lambda: _run(args))


def guarded(work: Callable[[], int]) -> int:
    """Return the exit code of ``work``, after a message where it raises one of our errors or is stopped."""
    stopping.listen()
    try:
        return work()
    except (KeyboardInterrupt, Interrupted):
        say("Interrupted. What was committed is kept; the same command goes on from there.")
        return Interrupted.exit_code
    except RaydvaeError as error:
        say(f"raydvae: {error}")
        return error.exit_code


def _run(args: list[str]) -> int:
    if args == ["--version"]:
        print(f"raydvae {__version__}")
        return 0
    command = parse(args)
    set_up_logging()
    where = getattr(command, "where", None)
    address = (where and where.address) or ""
    if address.startswith(("http://", "https://", "ray://")):
        from raydvae.distributed.submit import submit

        return submit(address, without_address(args))
    command.run()
    return 0


def parse(args: list[str]) -> Any:
    """Return the command that ``args`` ask for; usage errors exit with 2."""
    return tyro.cli(
        Command,
        prog="raydvae",
        description=f"Make unlearnable images learnable again, on Ray. Version {__version__}.",
        args=args,
        config=(FlagCreatePairsOff,),
    )


def without_address(args: list[str]) -> list[str]:
    """Return ``args`` without --address and its value: on the cluster itself the address is another."""
    out, skip = [], False
    for arg in args:
        if not skip and arg != "--address" and not arg.startswith("--address="):
            out.append(arg)
        skip = arg == "--address" and not skip
    return out


if __name__ == "__main__":
    main()
