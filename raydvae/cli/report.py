"""raydvae report: write a run's page anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import finish, storage_options


@dataclass(frozen=True)
class Report:
    """Write the report of a purification, finished or not."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder or URI of the purified data set."""
    source: str | None = None
    """The data set that was purified, for pictures, if it lies in another store than the run."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Report."""
        from raydvae.data.dataset import open_dataset
        from raydvae.data.store import Store
        from raydvae.reports.collect import write_report

        options = storage_options(self.storage_option)
        source = open_dataset(self.source, options=options) if self.source else None
        page = write_report(Store(self.run_folder, options), source=source)
        finish({"report": page}, self.json, f"Report: {page}")
