"""Units of work, for any row groups and any size: a partition of the rows, bounded, in order, with ids of their own."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.codecs import encode
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.manifest import Run
from raydvae.data.rows import build_table, decode_rows
from raydvae.data.store import Store
from tests.data.helpers import random_images

PNG = encode(random_images(1, 4)[0])
GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
FILES = st.lists(GROUPS, min_size=1, max_size=3)


def make(files: list[list[int]], unit_rows: int, bad: frozenset[int] = frozenset()) -> Dataset:
    """Write files of these row groups to memory; rows are numbered through, those in ``bad`` hold no image."""
    store = Store(f"memory://{uuid.uuid4().hex}")
    row = 0
    for number, groups in enumerate(files):
        buffer = pa.BufferOutputStream()
        schema = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("row", pa.int64())])
        with pq.ParquetWriter(buffer, schema) as writer:
            for size in groups:
                rows = list(range(row, row + size))
                images = [b"bad" if r in bad else PNG for r in rows]
                writer.write_table(pa.table({"image": images, "label": [0] * size, "row": rows}, schema=schema))
                row += size
        store.write(f"part-{number}.parquet", buffer.getvalue().to_pybytes())
    return open_dataset(store.uri, DataConfig(unit_rows=unit_rows))


@given(FILES, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_units_partition_the_rows(files: list[list[int]], unit_rows: int) -> None:
    dataset = make(files, unit_rows)
    units = dataset.units()
    assert all(1 <= unit.rows <= unit_rows for unit in units)
    assert len({unit.id for unit in units}) == len(units)
    assert [unit.id for unit in units] == sorted(unit.id for unit in units)
    ids = [row_id for unit in units for row_id in unit.row_ids()]
    assert ids == [f"part-{n}.parquet#{row}" for n, groups in enumerate(files) for row in range(sum(groups))]
    read = [dataset.read(unit) for unit in units]
    assert [table.num_rows for table in read] == [unit.rows for unit in units]
    assert pa.concat_tables(read).column("row").to_pylist() == list(range(dataset.rows))


@given(FILES, st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=25, deadline=None)
def test_row_ids_outlive_two_commits_with_rejected_rows_between(
    files: list[list[int]], first: int, second: int, data: st.DataObject
) -> None:
    rows = sum(map(sum, files))
    bad = data.draw(st.frozensets(st.integers(0, rows - 1), max_size=rows - 1))
    dataset = make(files, first, bad)
    ids = dict(enumerate(row_id for unit in dataset.units() for row_id in unit.row_ids()))
    left = [row for row in range(rows) if row not in bad]
    for step, unit_rows in (("one", first), ("two", second)):
        run = Run(Store(f"memory://{uuid.uuid4().hex}"))
        units = dataset.units()
        for unit in units:
            decoded = decode_rows(dataset, unit, dataset.read(unit), find_classes(dataset, 1), 4)
            run.commit(step, dataset, decoded, 255 - decoded.images)
        records = run.records(step)
        assert [record["unit"] for record in records] == sorted(unit.id for unit in units)
        assert sum(r["rows_in"] for r in records) == dataset.rows
        assert sum(r["rows_out"] for r in records) == len(left)
        dataset = open_dataset(run.store.uri, DataConfig(unit_rows=unit_rows))
        seen: dict[int, str] = {}
        for unit in dataset.units():
            numbers = dataset.read(unit, ["row"]).column("row").to_pylist()
            seen.update(zip(numbers, unit.row_ids(), strict=True))
        assert seen == {row: ids[row] for row in left}


@given(GROUPS, st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_built_table_says_where_its_rows_come_from(groups: list[int], unit_rows: int) -> None:
    dataset = make([groups], unit_rows, frozenset({1, 2}))
    for unit in dataset.units():
        rows = decode_rows(dataset, unit, dataset.read(unit), find_classes(dataset, 1), 4)
        table = build_table(dataset.schema, rows, rows.images)
        assert table.column("row").to_pylist() == [int(row_id.split("#")[1]) for row_id in rows.row_ids]
