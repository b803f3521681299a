"""Flags: read against the data set they are of, a bit a row, and refused where they cannot be of it."""

from __future__ import annotations

import dataclasses
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.config import DataConfig
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.flags import flags_table, parse_flags, read_flags
from raydvae.data.selection import Marked
from raydvae.errors import DataError


def ids_of(data: Dataset) -> list[str]:
    return [row_id for unit in data.units() for row_id in unit.row_ids()]


def blob(ids: list[object], flagged: list[object], data: Dataset | None = None) -> bytes:
    columns = {"row_id": pa.array(ids, pa.string()), "flagged": pa.array(flagged, pa.bool_())}
    if data:
        return flags_table(columns, data)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


@given(st.dictionaries(st.text(max_size=5), st.lists(st.booleans(), max_size=40), max_size=4))
def test_a_bit_a_row_says_the_same_as_a_set_of_ids(places: dict[str, list[bool]]) -> None:
    ids = [f"{file}#{row}" for file, mask in places.items() for row in range(len(mask))]
    chosen = {f"{file}#{row}" for file, mask in places.items() for row, mark in enumerate(mask) if mark}
    marked = Marked.of(chosen, "")
    assert marked.mask(ids).tolist() == [row_id in chosen for row_id in ids]
    strangers = [f"{file}#{len(mask) + 9}" for file, mask in places.items()] + ["", "x", "#", "a#-1", "none of them#0"]
    assert not marked.mask(strangers).any()


def test_rows_are_marked_by_id_in_any_order_and_the_others_are_not(digits_data: Dataset) -> None:
    ids = ids_of(digits_data)
    chosen = set(ids[::7])
    some = ids[::-1][: len(ids) - 3]  # the first three rows are not named
    flags = parse_flags(blob(some, [row_id in chosen for row_id in some], digits_data), "F", digits_data)
    assert flags.rows == len(some)
    assert flags.marked.mask(ids).tolist() == [row_id in chosen and row_id in some for row_id in ids]
    assert flags.flagged == flags.marked.mask(ids).sum()


@pytest.mark.parametrize(
    ("ids", "flagged", "says"),
    [
        (["test-00000-of-00003.parquet#60"], [True], "does not have"),
        (["other.parquet#0"], [True], "does not have"),
        (["nonsense"], [True], "does not have"),
        (["test-00000-of-00003.parquet#34359738368"], [True], "does not have"),
        (["test-00000-of-00003.parquet#" + "9" * 5000], [True], "F is not a readable parquet file|does not have"),
        ([None], [True], "does not have"),
        (["test-00000-of-00003.parquet#0"] * 2, [True, False], "named before"),
        (["test-00000-of-00003.parquet#0"], [False], "none of its 1 rows"),
        (["test-00000-of-00003.parquet#0"], [None], "none of its 1 rows"),
    ],
)
def test_what_cannot_be_flags_of_this_data_set_is_refused(
    ids: list[object], flagged: list[object], says: str, digits_data: Dataset
) -> None:
    with pytest.raises(DataError, match=says):
        parse_flags(blob(ids, flagged), "F", digits_data)


def test_memory_is_that_of_rows_and_not_of_their_numbers(digits_data: Dataset) -> None:
    file = dataclasses.replace(digits_data.files[0], origin=(("a.parquet", 2**35, 2**35 + 60),))
    far = dataclasses.replace(digits_data, files=(file,))
    ids = ids_of(far)
    assert ids[0] == "a.parquet#34359738368"
    tracemalloc.start()
    flags = parse_flags(blob([ids[3], ids[7]], [True, False]), "F", far)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert flags.marked.mask(ids).tolist() == [index == 3 for index in range(60)]
    assert peak < 2**24
    assert len(pickle.dumps(flags.marked)) < 2**12


def test_flags_know_which_data_set_they_are_of(digits_data: Dataset, digits_folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(sorted(digits_folder.glob("*.parquet"))[0])
    (tmp_path / "other").mkdir()
    pq.write_table(table.slice(0, 60), tmp_path / "other/test-00000-of-00003.parquet", row_group_size=10)
    other = open_dataset(str(tmp_path / "other"), DataConfig(unit_rows=40))
    (tmp_path / "flags.parquet").write_bytes(blob(["test-00000-of-00003.parquet#0"], [True], digits_data))
    assert read_flags(str(tmp_path / "flags.parquet"), digits_data).flagged == 1
    with pytest.raises(DataError, match="of another data set"):
        read_flags(str(tmp_path / "flags.parquet"), other)


def test_a_file_that_is_no_flags_is_refused(digits_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no flags at"):
        read_flags(str(tmp_path / "flags.parquet"), digits_data)
    with pytest.raises(DataError, match="not a readable parquet file"):
        parse_flags(b"no parquet", "F", digits_data)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"row_id": ["a#1"], "flagged": [1]}), sink)
    with pytest.raises(DataError, match="no column 'flagged' of booleans"):
        parse_flags(bytes(sink.getvalue()), "F", digits_data)
