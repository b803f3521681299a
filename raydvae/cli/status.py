"""raydvae status: how a run is doing, from any machine that reaches its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import finish, storage_options


@dataclass(frozen=True)
class Status:
    """Tell what a run has done and has left, how fast it is, what it rejected, and how its driver ended if it did."""

    out: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder or URI of the run."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Tell."""
        from raydvae.data.store import Store
        from raydvae.reports.status import lines, status

        about = status(Store(self.out, storage_options(self.storage_option)))
        finish(about, self.json, "\n".join(lines(about)))
