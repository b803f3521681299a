"""Tables of labels beside images: metadata.csv of Hugging Face, labels.csv, their like as .tsv and .jsonl."""

from __future__ import annotations

import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydvae.data.files import few
from raydvae.data.readers import MAX_CLASSES
from raydvae.data.readers.kinds import ending
from raydvae.data.shapes import parse_json
from raydvae.data.store import Store
from raydvae.errors import DataError, shown

TABLES = ("csv", "tsv", "jsonl")
# What columns are called, without the signs between words; the first that is there counts.
FILES = ("filename", "file", "filepath", "path", "image", "imagepath", "imagename", "img", "imageid", "id")
LABELS = ("label", "class", "category", "target", "classname", "labelname", "labels", "classid", "labelid")
MAX_TABLE_BYTES = 256 * 2**20


@dataclass(slots=True)
class Labels:
    """What tables say: the label of each image by its file, and how many of their rows say nothing of use."""

    of: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # tables that cannot be used, with the reason


def read_labels(store: Store, tables: Sequence[str], images: Sequence[str]) -> Labels:
    """Read the labels of ``images`` from ``tables``, whose paths are relative to the folder of each.

    Raises `DataError` where one image has two labels.
    """
    found = Labels()
    for table in tables:
        where = shown(f"{store.uri}/{table}")
        try:
            rows = list(_rows(store, table))
        except (csv.Error, ValueError, RecursionError) as error:
            found.problems.append(f"{where} cannot be read as a table in UTF-8 ({shown(str(error))})")
            continue
        columns = {_plain(name): name for row in rows[:1] for name in row}
        file = next((columns[name] for name in FILES if name in columns), None)
        label = next((columns[name] for name in LABELS if name in columns and columns[name] != file), None)
        if file is None or label is None:
            has = few(rows[0] if rows else (), 8) or "no rows"
            found.problems.append(f"{where} has no columns file_name and label (it has {has})")
            continue
        places = _places(table, images)
        named = 0
        for row in rows:
            path = _path(row.get(file))
            image = places.get(path) or places.get(unicodedata.normalize("NFC", path))
            text = _text(row.get(label))
            if image is None or text is None:
                lacks = "image" if image is None else "label"
                reason = f"row of {shown(table)} without {'an' if lacks == 'image' else 'a'} {lacks}"
                found.unused[reason] = found.unused.get(reason, 0) + 1
                named += image is not None
                continue
            named += 1
            if found.of.setdefault(image, text) != text:
                raise DataError(
                    f"{where} gives {shown(image)} the label {shown(text)!r}, and {shown(found.of[image])!r} before. "
                    "One image has one label: mend the table."
                )
        if named:
            found.tables.append(table)
        else:
            found.problems.append(f"{where} names none of the images in its column {shown(file)!r}")
    return found


def number(labels: Iterable[str]) -> dict[str, int] | None:
    """Return each label as the number it is; ``None`` unless all are whole numbers of classes.

    Those that are NaN or negative, as labels that are missing or hidden, are left out beside others. Only -1 and 1 are
    two classes called so.
    """
    out: dict[str, int] = {}
    missing: set[float] = set()
    for text in set(labels):
        try:
            value = float(text)
        except ValueError:
            return None
        if value < 0 or value != value:
            missing.add(value)
        elif value < MAX_CLASSES and value == int(value):
            out[text] = int(value)
        else:
            return None
    return out if out and not (missing == {-1} and set(out.values()) == {1}) else None


def _rows(store: Store, table: str) -> Iterator[Mapping[str, Any]]:
    if store.size(table) > MAX_TABLE_BYTES:
        raise ValueError(f"more than {MAX_TABLE_BYTES} bytes")
    text = store.read(table).decode("utf-8-sig")
    if ending(table) == "jsonl":
        for line in text.splitlines():
            if line.strip():
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise ValueError("a line that is no object")
                yield row
        return
    head = text.partition("\n")[0]
    sign = max("\t,;", key=head.count) if ending(table) == "csv" else "\t"
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=sign, restkey="", restval=None)


def _plain(column: Any) -> str:
    return str(column).strip().casefold().translate({ord(sign): None for sign in " _-"})


def _path(value: Any) -> str:
    return posixpath.normpath(str(value).strip().replace("\\", "/"))


def _text(value: Any) -> str | None:
    if isinstance(value, list | dict):
        return None
    text = str(int(value)) if isinstance(value, bool) else str(value).strip() if value is not None else ""
    return text or None


def _places(table: str, images: Sequence[str]) -> dict[str, str]:
    """Return the images below a table by what it may call them: path, name, name without its ending.

    Of images of one name those count that lie in a folder called as the table is: in train/ for train.csv.
    """
    folder, name = posixpath.split(table)
    below = [image for image in images if not folder or image.startswith(f"{folder}/")]
    ours = [image for image in below if _word(name) in map(_word, image[len(folder) :].split("/")[:-1])]
    out = _by_base(below) | _by_base(ours)
    out |= {posixpath.relpath(image, folder or "."): image for image in below}
    # A Mac takes letters and their accents apart in names of files, and those who write tables do not.
    return {unicodedata.normalize("NFC", name): image for name, image in out.items()} | out


def _word(name: str) -> str:
    return re.split(r"[-_. ]", name.casefold())[0]


def _by_base(images: Sequence[str]) -> dict[str, str]:
    """Return the images by their name, with its ending and without, where that is of one only."""
    out: dict[str, str] = {}
    doubtful: set[str] = set()
    for image in images:
        base = posixpath.basename(image)
        for name in {base, posixpath.splitext(base)[0]}:
            if out.setdefault(name, image) != image:
                doubtful.add(name)
    return {name: image for name, image in out.items() if name not in doubtful}
