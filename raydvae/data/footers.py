"""What a parquet file tells of itself: rows, columns, where its rows first came from, and a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raydvae.data.parquet_check import check_parquet, parquet_errors
from raydvae.data.store import Store

Segment = tuple[str, int, int]  # rows start..stop of a file of the data set that a row first came from
PROBES = 8  # samples of a file that its fingerprint takes
PROBE_BYTES = 8192
FOOTER_TAIL = 8  # bytes after the footer: its length, and the file's last signature


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A parquet file as its footer tells it.

    The fingerprint is of the footer, all labels and a few samples of the other bytes: it reads no images,
    and misses only changes of single images to others of just the same size. ``origin`` is where its rows first came
    from, as the file claims or itself; units are called by ``base`` and ``first`` (see `raydvae.data.identity`).
    """

    name: str
    size: int
    groups: tuple[int, ...]
    fingerprint: str
    origin: tuple[Segment, ...]
    claimed: bool = False
    base: str = ""
    first: int = 0

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return sum(self.groups)


def read_footer(store: Store, name: str) -> tuple[pq.FileMetaData, pa.Schema]:
    """Return the footer of a parquet file and its Arrow schema; `DataError` where it is no readable one."""
    where = f"{store.uri}/{name}"
    with store.open(name) as source:
        end = check_parquet(source, where)
    with parquet_errors(where), pq.ParquetFile(pa.BufferReader(end)) as file:
        return file.metadata, file.schema_arrow


def samples(size: int) -> list[tuple[int, int]]:
    """Return a few parts of a file of so many bytes: all of a small one."""
    return [(at, min(size, at + PROBE_BYTES)) for at in range(0, size, max(PROBE_BYTES, -(-size // PROBES)))]


def fingerprint(store: Store, name: str, size: int, meta: pq.FileMetaData, label: str) -> str:
    """Return what tells a file from others, see `SourceFile`."""
    chunks = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
    spans = [(name, *sample) for sample in samples(size)]
    for chunk in chunks:
        if chunk.path_in_schema == label or chunk.path_in_schema.startswith(f"{label}.list."):  # a list of one label
            start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o is not None)
            spans.append((name, start, start + chunk.total_compressed_size))
    digest = hashlib.sha256("\n".join([str(size), *map(_described, chunks)]).encode("utf-8", "replace"))
    for part in store.read_spans(spans):
        digest.update(part)
    return digest.hexdigest()[:32]


def _described(chunk: pq.ColumnChunkMetaData) -> str:
    try:
        return str(chunk.to_dict())
    except (
        ValueError,
        OverflowError,
        pa.ArrowException,
    ):  # statistics beyond Python's values, such as a date
        return f"{chunk.path_in_schema} {chunk.data_page_offset} {chunk.total_compressed_size} {chunk.num_values}"
