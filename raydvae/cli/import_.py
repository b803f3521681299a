"""raydvae import: other formats in, parquet shards out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import finish, storage_options


@dataclass(frozen=True)
class Import:
    """Bring a data set of another format into parquet shards."""

    source: Annotated[Positional[str], arg(metavar="IN")]
    """Where it lies: a folder, file or URI; for --format digits the word digits, or faint-digits."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URI for the shards: new, or without parquet files."""
    format: Literal["cifar10", "cifar100", "imagefolder", "webdataset", "parquet", "digits"]
    """What the source is."""
    split: Literal["train", "test"] | None = None
    """Which part of the source."""
    rows_per_shard: int = 1000
    """Rows in each parquet file."""
    limit_per_class: int | None = None
    """Keep only the first so many rows of each class."""
    classes: int | None = None
    """Keep only the first so many classes."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Import."""
        from raydvae.data.importing import import_dataset
        from raydvae.data.store import Store

        options = storage_options(self.storage_option)
        summary = import_dataset(
            self.source,
            Store(self.out, options),
            self.format,
            split=self.split,
            rows_per_shard=self.rows_per_shard,
            limit_per_class=self.limit_per_class,
            num_classes=self.classes,
            options=options,
        )
        parts = ", ".join(f"{part} {rows}" for part, rows in summary.parts.items())
        lines = [f"{summary.rows} rows of {summary.classes} classes in {summary.shards} shards ({parts}): {self.out}"]
        lines += [f"  {note}" for note in summary.notes]
        lines += [f"  skipped {count}: {reason}" for reason, count in summary.skipped.items()]
        finish(asdict(summary), self.json, "\n".join(lines))
