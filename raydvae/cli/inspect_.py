"""raydvae inspect: what a data set is, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from raydvae.cli.common import finish, storage_options
from raydvae.errors import ConfigError, shown


@dataclass(frozen=True)
class Inspect:
    """Tell what a data set holds: rows, classes, image sizes, shards, commits, lineage."""

    dataset: Annotated[Positional[str | None], arg(metavar="DATASET")] = None
    """Folder, file, glob or URI of parquet files."""
    poison: str | None = None
    """Compare this poisoned data set with --clean instead: norms, distances, entropy, a picture of the noise."""
    clean: str | None = None
    """The clean data set that --poison was made from."""
    storage_option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Option of the file system, such as endpoint_url=http://…; can be given several times."""
    json: bool = False
    """End with one line of JSON."""

    def run(self) -> None:
        """Inspect."""
        options = storage_options(self.storage_option)
        if self.dataset is not None and self.poison is None and self.clean is None:
            from raydvae.data.inspection import inspect_dataset

            about = inspect_dataset(self.dataset, options)
            finish(about, self.json, "\n".join(_lines(about)))
        elif self.dataset is None and self.poison is not None and self.clean is not None:
            from raydvae.reports.poison import describe_poison

            about = describe_poison(self.poison, self.clean, options)
            finish(about, self.json, "\n".join(_poison_lines(about)))
        else:
            raise ConfigError("Give a data set to inspect, or --poison POISONED with --clean CLEAN, and not both.")


def _poison_lines(about: dict[str, Any]) -> list[str]:
    sizes = [
        f"  {name:<5} {about[name]['least']:8.4f} {about[name]['mean']:8.4f} {about[name]['most']:8.4f}"
        for name in ("l0", "l2", "linf")
    ]
    classes = [
        f"  {name:<16} {c['rows']:7d} {c['mean_l2']:9.4f} {c['variance']:10.2e} "
        + ("        –" if c["entropy"] is None else f"{c['entropy']:9.2f}")
        for name, c in about["classes"].items()
    ]
    return [
        f"{about['rows_poisoned']} of {about['rows']} rows are poisoned",
        "  norm    least     mean     most",
        *sizes,
        f"  distance between classes {about['inter_class_distance']:.4f}",
        f"  variance within classes  {about['intra_class_variance']:.4f}",
        f"  class                rows   mean l2   variance   entropy (nats, {about['entropy_components']} components)",
        *classes,
        *([f"picture: {about['picture']}"] if about["picture"] else []),
    ]


def _lines(about: dict[str, Any]) -> list[str]:
    counts = about["rows_per_class"]
    spread = f"{min(counts.values())} to {max(counts.values())} rows each" if counts else "no labels"
    lines = [
        shown(about["dataset"]),
        f"  rows      {about['rows']} in {about['shards']} shards, {about['bytes'] / 1e6:.1f} MB",
        f"  columns   {shown(', '.join(about['columns']))}",
        f"  images    column {about['image_column']!r} ({about['image_encoding']}); sizes in the first shard: "
        + ", ".join(f"{size} ({count})" for size, count in about["image_sizes"].items()),
        f"  classes   {about['classes']}, {spread}",
    ]
    lines[2:2] = _parts(about)
    if about["unreadable"]:
        lines.append("  unusable  in the first shard: " + ", ".join(f"{n} {r}" for r, n in about["unreadable"].items()))
    lines += [f"  made by   {shown(str(step['kind']))} of {shown(str(step['source']))}" for step in about["lineage"]]
    lines += [f"  commits   {number} units of {step}" for step, number in about["commits"].items()]
    return lines


def _parts(about: dict[str, Any]) -> list[str]:
    """Return what the commands that take one part of a divided folder say of it."""
    from raydvae.data.files import left_out

    parts = about["parts"]
    if "train" not in parts:
        return []
    train = parts["train"]
    others = [name for name in about["files"] if name not in train["files"]]
    return [f"  parts     where one part is asked for, {left_out('train', len(train['files']), train['rows'], others)}"]
