"""Images that a row only names: read from files beside the data, and from nowhere else.

A path comes with the data, and data may come from strangers: it is followed inside the data set's own folder only,
not into hidden places, and only to what is an image by its first bytes.
"""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.types as pt

from raydvae.data.formats import format_of
from raydvae.data.store import Store

HINT = (
    "Images are read from files inside of the data set's folder only: put the parquet files into a folder above the "
    "images, or write the images into them (`Dataset.to_parquet` of Hugging Face's datasets does)."
)


def as_structs(table: pa.Table, field: pa.Field) -> pa.Table:
    """Return ``table`` with the column ``field`` of paths as structs of bytes, all null, and the path."""
    at = table.schema.get_field_index(field.name)
    if at < 0 or not _is_text(table.schema.field(at).type):
        return table
    chunks = []
    for chunk in table.column(at).chunks:
        paths = chunk.cast(field.type.field("path").type)
        parts = {"path": paths, "bytes": pa.nulls(len(chunk), field.type.field("bytes").type)}
        rows = [parts[name] for name in field.type.names]
        chunks.append(pa.StructArray.from_arrays(rows, fields=list(field.type), mask=chunk.is_null()))
    return table.set_column(at, field, pa.chunked_array(chunks, field.type))


def embed(table: pa.Table, name: str, store: Store, source: str, most: int) -> pa.Table:
    """Return ``table`` with null bytes of the image column ``name`` read from the files at their paths.

    Only of those rows whose path is of an image: see above. Paths are taken from the folder of ``source``, the parquet
    file, and then from that of the data set. Files of more than ``most`` bytes stay where they are.
    """
    column = table.column(name)
    chunks = [_embed(chunk, store, source, most) for chunk in column.chunks]
    if all(new is old for new, old in zip(chunks, column.chunks, strict=True)):
        return table
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.chunked_array(chunks, column.type))


def _embed(rows: pa.Array, store: Store, source: str, most: int) -> pa.Array:
    columns = dict(zip(rows.type.names, rows.flatten(), strict=True))
    blobs, paths = columns["bytes"], columns["path"]
    if not blobs.null_count:
        return rows
    known = paths.to_pylist()
    wanted = [at for at, missing in enumerate(blobs.is_null().to_pylist()) if missing and known[at]]
    if not wanted:
        return rows
    filled = blobs.to_pylist()
    for at in wanted:
        filled[at] = _read(store, source, known[at], most)
    columns["bytes"] = pa.array(filled, blobs.type)
    return pa.StructArray.from_arrays(list(columns.values()), fields=list(rows.type), mask=rows.is_null())


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def can_link(kind: pa.DataType) -> bool:
    """Whether ``kind`` is a struct of bytes and a path."""
    return (
        pt.is_struct(kind)
        and {"bytes", "path"} <= set(kind.names)
        and bool(pt.is_string(kind.field("path").type) or pt.is_large_string(kind.field("path").type))
        and bool(pt.is_binary(kind.field("bytes").type) or pt.is_large_binary(kind.field("bytes").type))
    )


def _read(store: Store, source: str, path: str, most: int) -> bytes | None:
    for name in _names(store, source, path):
        if store.is_file(name) and store.size(name) <= most:
            data = store.read(name)
            return data if format_of(data) else None
    return None


def _names(store: Store, source: str, path: str) -> list[str]:
    """Return the names in ``store`` that ``path`` may mean, none of which leads out of it or to hidden files."""
    if store.is_local and path.startswith("file:///"):
        path = unquote(path.removeprefix("file://"))
    for root in (store.uri, store.root):
        if path.startswith(f"{root}/"):
            candidates = [path[len(root) + 1 :]]
            break
    else:
        if posixpath.isabs(path) or "://" in path:
            return []
        ways = (path, path.replace("\\", "/"))  # written on Windows, perhaps
        candidates = [name for way in ways for name in (posixpath.join(posixpath.dirname(source), way), way)]
    names = dict.fromkeys(posixpath.normpath(name) for name in candidates)
    return [name for name in names if all(_visible(part) for part in name.split("/"))]


def _visible(part: str) -> bool:
    """Whether a file system can have a file or folder so named, and shows it."""
    return 0 < len(part.encode()) < 256 and not part.startswith(".") and "\0" not in part
