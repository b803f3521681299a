"""The one schema of a data set's files, from their footers and, where types leave something open, their first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from raydvae.config import DataConfig
from raydvae.data import partitions, recognizing
from raydvae.data.columns import ImageColumn, Pixels, is_list
from raydvae.data.footers import FOOTER_TAIL, Segment, SourceFile, fingerprint, read_footer
from raydvae.data.identity import BODY, body_sum, claim, settle, tell_rewritten
from raydvae.data.merging import merge, plain, same_names, storable
from raydvae.data.parquet_check import parquet_errors
from raydvae.data.schema import ORIGIN, ImageSchema, class_names, detect, with_feature
from raydvae.data.shapes import parse_json
from raydvae.data.store import Store
from raydvae.errors import DataError


def open_files(store: Store, names: Mapping[str, int], data: DataConfig) -> tuple[tuple[SourceFile, ...], ImageSchema]:
    """Return the files called ``names``, whose values are their sizes, and the schema that holds all their rows.

    Raises `DataError` where a file cannot be read or the files do not belong together.
    """
    told = partitions.fields_of(names)
    schema: pa.Schema | None = None
    found: ImageSchema | None = None
    owners: dict[str, str] = {}
    waiting: list[tuple[str, pq.FileMetaData, pa.Schema]] = []
    files: list[SourceFile] = []
    rewritten: list[str] = []
    for name in names:
        meta, arrow = read_footer(store, name)
        _check_ray(arrow, f"{store.uri}/{name}")
        its = _with_told(storable(arrow), name, told)
        if schema is None:
            schema, owners = its, dict.fromkeys(its.names, name)
        else:
            merged = merge(schema, its, owners, name, store.uri)
            if found is None or not merged.equals(schema):
                found, schema = None, merged
        waiting.append((name, meta, arrow))
        if found is None:
            try:
                found = detect(schema, data, f"{store.uri}/{name}")
            except DataError:
                if not any(pt.is_null(kind) for kind in schema.types) or len(waiting) + len(files) == len(names):
                    raise
                continue  # the files to come may give a column without values its type
        for each, read, footer in waiting:
            both = next(iter(names)), each
            schema = same_names(found.label, schema, footer, both, store.uri, class_names)
            files.append(_file(store, each, names[each], read, footer, found.label))
            if ORIGIN in (footer.metadata or {}) and not files[-1].claimed:
                rewritten.append(each)
        waiting.clear()
    assert schema is not None  # `find_files` finds some, or raises
    tell_rewritten(rewritten, store.uri)
    return settle(files, store.uri), _settled(store, files, schema, data)


def _check_ray(schema: pa.Schema, where: str) -> None:
    """Refuse tensors whose metadata is a pickle: Ray will not read them in its workers, nor is it loaded here."""
    for field in schema:
        metadata = field.metadata or {}
        if metadata.get(b"ARROW:extension:name", b"").startswith(b"ray.data."):
            try:
                parse_json(metadata.get(b"ARROW:extension:metadata", b""))
            except ValueError:
                raise DataError(
                    f"Column {field.name!r} of {where} is a tensor as Ray 2.49 to 2.54 wrote it, which tells its shape "
                    "by a pickle; pickles from outside are not loaded. Read it with the Ray that wrote it, and write "
                    "it with a newer one."
                ) from None


def _with_told(schema: pa.Schema, name: str, told: list[pa.Field]) -> pa.Schema:
    """Return a file's schema with the columns that its folders tell, without the origin of its rows."""
    there = partitions.parts_of(name)
    for field in told:
        if field.name in there and field.name not in schema.names:
            schema = schema.append(field)
    kept = {key: value for key, value in (schema.metadata or {}).items() if key != ORIGIN}
    return schema.with_metadata(kept or None)


def _file(store: Store, name: str, size: int, meta: pq.FileMetaData, arrow: pa.Schema, label: str) -> SourceFile:
    groups = tuple(meta.row_group(g).num_rows for g in range(meta.num_row_groups))
    mark = fingerprint(store, name, size, meta, label)
    claimed = _claim(store, name, size, meta, arrow)
    return SourceFile(name, size, groups, mark, claimed or ((name, 0, sum(groups)),), claimed is not None)


def _claim(store: Store, name: str, size: int, meta: pq.FileMetaData, arrow: pa.Schema) -> tuple[Segment, ...] | None:
    """Return where a file's rows came from, if it says so and is as we wrote it."""
    text, known = (arrow.metadata or {}).get(ORIGIN), (meta.metadata or {}).get(BODY)
    if text is None or known is None:
        return None
    end = size - meta.serialized_size - FOOTER_TAIL
    found = body_sum(end, lambda spans: store.read_spans([(name, *span) for span in spans]))
    return claim(text, meta.num_rows) if found.encode() == known else None


def _settled(store: Store, files: list[SourceFile], schema: pa.Schema, data: DataConfig) -> ImageSchema:
    """Return the schema once what its types leave open is told by rows, which must agree in all files."""
    found = detect(schema, data, store.uri)
    at = schema.get_field_index(found.image)
    field = schema.field(at).with_type(recognizing.written_as(schema.field(at).type))
    column = found.column if field.type.equals(schema.field(at).type) else recognizing.recognize(field, None, "")
    if recognizing.open_question(field):
        seen: dict[str, ImageColumn] = {}
        for file in files:
            where = f"{store.uri}/{file.name}"
            rows = _first_rows(store, file, found.image)
            if rows is not None:
                seen[where] = column = recognizing.recognize(field, rows, where)
            for first, its in list(seen.items())[:1]:
                if its != column:
                    raise DataError(
                        f"The images in column {found.image!r} of {where} are stored otherwise than those of {first}: "
                        f"{_told(column)} against {_told(its)}. Store them in one way."
                    )
    if isinstance(column, Pixels) and recognizing.is_flat(field):  # outputs need not be smooth
        field = field.with_metadata(dict(field.metadata or {}) | {recognizing.ORDER: column.order.encode()})
    if column.encoding == recognizing.PATHS:
        field = field.with_type(recognizing.IMAGE)
    if not field.type.equals(schema.field(at).type):  # paths, and bytes of one length: see `recognizing.written_as`
        feature = {"_type": "Image"} if pt.is_struct(field.type) else {"dtype": "binary", "_type": "Value"}
        if not is_list(field.type):
            schema = with_feature(schema, found.image, feature)
    return replace(found, arrow=schema.set(at, field), column=column)


def _told(column: ImageColumn) -> str:
    return f"{column.encoding} {column.axes}" if isinstance(column, Pixels) else column.encoding


def _first_rows(store: Store, file: SourceFile, name: str) -> pa.Array | None:
    """Return some rows of a column that are not null; None where there is none."""
    where = f"{store.uri}/{file.name}"
    with store.open(file.name) as source, parquet_errors(where), pq.ParquetFile(source) as opened:
        for batch in opened.iter_batches(recognizing.SAMPLE, columns=[name]):
            rows = plain(batch.column(batch.schema.get_field_index(name))).drop_null()
            if len(rows):
                return rows
    return None
