"""raydvae inspect: what a data set is, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import finish, storage_options


@dataclass(frozen=True)
class Inspect:
    """Tell what a data set holds: rows, classes, image sizes, shards, commits, lineage."""

    dataset: Positional[str]
    """Folder, file, glob or URI of parquet files."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Inspect."""
        from raydvae.data.inspection import inspect_dataset

        about = inspect_dataset(self.dataset, storage_options(self.storage_option))
        finish(about, self.json, "\n".join(_lines(about)))


def _lines(about: dict[str, Any]) -> list[str]:
    counts = about["rows_per_class"]
    spread = f"{min(counts.values())} to {max(counts.values())} rows each" if counts else "no labels"
    lines = [
        f"{about['dataset']}",
        f"  rows      {about['rows']} in {about['shards']} shards, {about['bytes'] / 1e6:.1f} MB",
        f"  columns   {', '.join(about['columns'])}",
        f"  images    column {about['image_column']!r} ({about['image_encoding']}); sizes in the first shard: "
        + ", ".join(f"{size} ({count})" for size, count in about["image_sizes"].items()),
        f"  classes   {about['classes']}, {spread}",
    ]
    if about["unreadable"]:
        lines.append("  unusable  in the first shard: " + ", ".join(f"{n} {r}" for r, n in about["unreadable"].items()))
    lines += [f"  made by   {step['kind']} of {step['source']}" for step in about["lineage"]]
    lines += [f"  commits   {number} units of {step}" for step, number in about["commits"].items()]
    return lines
