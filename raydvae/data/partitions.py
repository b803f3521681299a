"""Hive folders: columns that are told by the names of folders (label=3/part-0.parquet)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"
NUMBER = re.compile("0|-?[1-9][0-9]*")  # not 007, whose zeros would be lost
Parts = dict[str, str | None]


def parts_of(name: str) -> Parts:
    """Return the columns that the folders of a file's name tell, with their values as text."""
    found: Parts = {}
    for folder in name.split("/")[:-1]:
        key, sign, value = folder.partition("=")
        if sign and key:
            found[_text(key)] = None if value == NULL else _text(value)
    return found


def fields_of(names: Iterable[str]) -> list[pa.Field]:
    """Return the columns that the folders of all files tell: whole numbers where all values are, texts otherwise."""
    values: dict[str, list[str | None]] = {}
    for name in names:
        for key, value in parts_of(name).items():
            values.setdefault(key, []).append(value)
    return [pa.field(key, pa.int64() if _whole(texts) else pa.string()) for key, texts in values.items()]


def _whole(texts: list[str | None]) -> bool:
    known = [text for text in texts if text is not None]
    return bool(known) and all(NUMBER.fullmatch(text) and abs(int(text)) < 2**63 for text in known)


def _text(escaped: str) -> str:
    """Return what a part of a folder's name stands for: itself, where its escapes are of no text in UTF-8."""
    try:
        return unquote(escaped, errors="strict")
    except UnicodeDecodeError:
        return escaped


def add(table: pa.Table, name: str, fields: Iterable[pa.Field]) -> pa.Table:
    """Return ``table``, read of the file ``name``, with the columns ``fields`` that its folders tell."""
    parts = parts_of(name)
    for field in fields:
        text = parts.get(field.name)
        value = int(text) if text is not None and field.type == pa.int64() else text
        table = table.append_column(field, pa.repeat(pa.scalar(value, field.type), table.num_rows))
    return table


def without_keys(stem: str) -> str:
    """Return a name in which no folder tells a column: outputs hold those columns themselves."""
    *folders, last = stem.split("/")
    return "/".join([*(folder.replace("=", "-") for folder in folders), last])
