"""What a data set holds, from footers, label columns and the images of its first shard."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import BadImage
from raydvae.data.dataset import open_dataset
from raydvae.data.files import by_split
from raydvae.data.manifest import HOME, Run
from raydvae.data.store import Options, Store
from raydvae.errors import RaydvaeError

MAX_LINEAGE = 32


def inspect_dataset(uri: str, options: Options | None = None) -> dict[str, Any]:
    """Return a JSON-able description of the data set at ``uri``."""
    data = open_dataset(uri, DataConfig(), options)
    classes = find_classes(data)
    counts: Counter[int] = Counter()
    for column in data.labels():
        counts.update(classes.numbers(column).tolist())
    sizes: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    first = data.units()[0]
    for value in data.schema.values(data.read(first, [data.schema.image]).column(0)):
        try:
            height, width = data.schema.pixels(value, data.data).shape[:2]
            sizes[f"{width}x{height}"] += 1
        except BadImage as error:
            unreadable[str(error)] += 1
    if counts[-1]:
        unreadable[f"label outside of the {classes.count} classes (all shards)"] = counts.pop(-1)
    parts = by_split(file.name for file in data.files)
    rows = {file.name: file.rows for file in data.files}
    names = classes.names or tuple(str(number) for number in range(classes.count))
    return {
        "dataset": data.store.uri,
        "rows": data.rows,
        "shards": len(data.files),
        "files": list(rows),
        "parts": {split: {"files": files, "rows": sum(map(rows.__getitem__, files))} for split, files in parts.items()},
        "bytes": sum(file.size for file in data.files),
        "columns": [f"{field.name}: {field.type}" for field in data.schema.arrow],
        "image_column": data.schema.image,
        "image_encoding": data.schema.encoding,
        "image_sizes": dict(sizes.most_common()),
        "unreadable": dict(unreadable.most_common()),
        "classes": classes.count,
        "class_names": list(names),
        "rows_per_class": {names[number]: int(count) for number, count in sorted(counts.items()) if number >= 0},
        "lineage": _lineage(data.store),
        "commits": _commits(data.store),
    }


def _commits(store: Store) -> dict[str, int]:
    steps: Counter[str] = Counter()
    for name in store.list(f"{HOME}/commits"):
        steps[name.split("/")[2]] += 1
    return dict(steps)


def _lineage(store: Store) -> list[dict[str, Any]]:
    """Return the runs that made the data set, the last one first, as far back as their folders lie in one store."""
    out: list[dict[str, Any]] = []
    while len(out) < MAX_LINEAGE:
        try:
            if not Run(store).exists():
                break
            known = Run(store).read()
        except RaydvaeError:
            break
        out.append({"kind": known["kind"], "source": known["source"]["uri"], "config": known["config"]})
        before = store.beside(known["source"]["uri"])
        if before is None:
            break
        store = before
    return out
