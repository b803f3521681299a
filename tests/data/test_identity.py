"""Names of rows and units: no two share one, and they hold as long as files are as raydvae wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydvae.cli.main import run
from raydvae.config import DataConfig
from raydvae.data import identity
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.footers import SourceFile
from raydvae.data.identity import settle
from raydvae.data.manifest import Run, parquet_bytes
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.data.units import cut_file
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, random_images, struct_table, write

PNGS = [as_bytes(image) for image in random_images(60)]
ROWS = struct_table(PNGS, [row % 3 for row in range(60)], place=list(range(60)))


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user is told."""
    identity.tell.cache_clear()
    said: list[str] = []
    monkeypatch.setattr(identity.log, "warning", lambda text, *values: said.append(text % values))
    return said


def defended(source: Path, out: Path) -> Path:
    assert run(["defend", "bdr", str(source), str(out), "--depth", "8"]) == 0
    return out


def ids(data: Dataset) -> list[str]:
    return [row_id for unit in data.units() for row_id in unit.row_ids()]


def places(data: Dataset) -> list[int]:
    return [place for unit in data.units() for place in data.read(unit).column("place").to_pylist()]


def test_files_that_differ_in_their_ending_only_make_files_of_their_own(tmp_path: Path) -> None:
    source = write(write(tmp_path / "in", ROWS.slice(0, 30), "a.parquet"), ROWS.slice(30), "a.pq")
    out = defended(source, tmp_path / "out")
    assert sorted(path.name for path in out.glob("*.parquet")) == [
        "a-r0000000000.parquet",
        "a.pq-r0000000000.parquet",
    ]
    assert sorted(places(open_dataset(str(out)))) == list(range(60))
    assert sorted(ids(open_dataset(str(out)))) == sorted(ids(open_dataset(str(source))))


def test_a_file_that_is_called_like_a_unit_is_none(tmp_path: Path) -> None:
    source = write(tmp_path / "in", ROWS.slice(0, 20), "a.parquet")
    write(source, ROWS.slice(20, 20), "a-r0000000000.parquet")
    write(source, ROWS.slice(40), "a-r0000000000-r0000000000.parquet")
    out = defended(source, tmp_path / "out")
    assert sorted(places(open_dataset(str(out)))) == list(range(60))
    assert len(set(ids(open_dataset(str(out))))) == 60


def test_outputs_beside_their_source_keep_all_rows(tmp_path: Path, told: list[str]) -> None:
    source = write(tmp_path / "in", ROWS, "a.parquet")
    out = defended(source, tmp_path / "out")
    both = tmp_path / "both"
    both.mkdir()
    for path in (source / "a.parquet", out / "a-r0000000000.parquet"):
        (both / path.name).write_bytes(path.read_bytes())
    data = open_dataset(str(both))
    assert len(set(ids(data))) == 120
    assert len({unit.id for unit in data.units()}) == 2
    assert "Rows of 1 file of " in told[0] and "(a-r0000000000.parquet) go by new ids" in told[0]
    assert told[0].endswith("other files there hold the same rows.")
    assert sorted(places(open_dataset(str(defended(both, tmp_path / "again"))))) == sorted([*range(60), *range(60)])


def test_ids_hold_through_steps(tmp_path: Path) -> None:
    source = write(tmp_path / "in", ROWS, "a.parquet", groups=7)
    first = ids(open_dataset(str(source)))
    once = defended(source, tmp_path / "once")
    twice = defended(once, tmp_path / "twice")
    assert ids(open_dataset(str(once))) == ids(open_dataset(str(twice))) == first
    assert [p.name for p in sorted(twice.glob("*.parquet"))] == [p.name for p in sorted(once.glob("*.parquet"))]


EDITS = {
    "filtered": lambda t: t.filter(pc.field("label") != 2),
    "shuffled": lambda t: t.take(pa.array(np.random.default_rng(0).permutation(60))),
    "joined": lambda t: pa.concat_tables([t, t]),
    "the same rows": lambda t: t,
}


@pytest.mark.parametrize("edit", EDITS)
def test_rows_of_an_edited_output_go_by_new_ids_and_the_user_is_told(
    edit: str, tmp_path: Path, told: list[str]
) -> None:
    out = defended(write(tmp_path / "in", ROWS, "a.parquet"), tmp_path / "out")
    table = pq.read_table(out / "a-r0000000000.parquet")
    changed = EDITS[edit](table)
    other = write(tmp_path / "other", changed, "x.parquet")
    told.clear()
    data = open_dataset(str(other))
    assert ids(data) == [f"x.parquet#{row}" for row in range(changed.num_rows)]
    assert "(x.parquet) go by new ids" in told[0] and "another program" in told[0]
    again = defended(other, tmp_path / "again")
    assert places(open_dataset(str(again))) == changed.column("place").to_pylist()


def test_rows_swapped_in_a_file_written_just_as_ours_are_noticed(tmp_path: Path) -> None:
    out = defended(write(tmp_path / "in", ROWS, "a.parquet"), tmp_path / "out")
    path = out / "a-r0000000000.parquet"
    kept = dict(pq.read_metadata(path).metadata)
    table = pq.read_table(path)
    swapped = table.take(pa.array([1, 0, *range(2, 60)]))
    with pq.ParquetWriter(path, swapped.schema, compression="none") as writer:
        writer.write_table(swapped)
        writer.add_key_value_metadata({b"raydvae.body": kept[b"raydvae.body"]})
    assert ids(open_dataset(str(out)))[0] == "a-r0000000000.parquet#0"


@pytest.mark.parametrize(
    "claim",
    [b"", b"[]", b"{", b"7", b'[["a.parquet", 0, 3]]', b'[["a", -1, 59]]', b'[["a", 0.0, 60.0]]', b'[[7, 0, 60]]',
     b'[["a", 0, 120], ["b", 60, 0]]', b'[["a", true, 61]]', b'[["\\ud800", 0, 60]]', b'[["", 0, 60]]', b"[" * 100_000, b'{"a": [0, 60]}'],
)  # fmt: skip
def test_a_claim_that_cannot_be_is_none(claim: bytes, tmp_path: Path) -> None:
    table = ROWS.replace_schema_metadata({b"raydvae.origin": claim})
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(table, "image"))
    assert ids(open_dataset(str(tmp_path)))[0] == "x.parquet#0"


def test_a_sound_claim_is_taken(tmp_path: Path) -> None:
    table = ROWS.replace_schema_metadata({b"raydvae.origin": b'[["b", 5, 6], ["a", 0, 59]]'})
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(table, "image"))
    assert ids(open_dataset(str(tmp_path)))[:3] == ["b#5", "a#0", "a#1"]


def test_a_run_is_not_gone_on_with_where_a_new_file_changes_what_old_rows_are_called(tmp_path: Path) -> None:
    out = defended(write(tmp_path / "in", ROWS, "a.parquet"), tmp_path / "out")
    data = open_dataset(str(out))
    runs = Run(Store(str(tmp_path / "run")))
    runs.open("test", {}, data, {})
    (out / "a.parquet").write_bytes((tmp_path / "in/a.parquet").read_bytes())
    with pytest.raises(DataError, match=r"a-r0000000000\.parquet has changed"):
        runs.open("test", {}, open_dataset(str(out)), {}, may_grow=True)


@pytest.mark.parametrize("stem", ["n" * 247, "\u00e9" * 123])
def test_names_as_long_as_they_may_be_can_be_written_again(tmp_path: Path, stem: str) -> None:
    source = write(tmp_path / "in", ROWS.slice(0, 30), f"{stem}.parquet")
    write(tmp_path / "in", ROWS.slice(30), f"{stem[:-1]}x.parquet")
    out = defended(defended(source, tmp_path / "out"), tmp_path / "again")
    assert sorted(places(open_dataset(str(out)))) == list(range(60))
    assert sorted(ids(open_dataset(str(out)))) == sorted(ids(open_dataset(str(source))))


def test_rejected_rows_leave_gaps_in_the_ids(tmp_path: Path) -> None:
    images = [*PNGS[:3], b"no image", *PNGS[4:]]
    source = write(tmp_path / "in", struct_table(images, [0] * 60), "a.parquet")
    data = open_dataset(str(source), DataConfig(reject_limit=0.1))
    rows = decode_rows(data, data.units()[0], data.read(data.units()[0]), find_classes(data), 8)
    Run(Store(str(tmp_path / "out"))).commit("step", data, rows, rows.images)
    assert ids(open_dataset(str(tmp_path / "out"))) == [f"a.parquet#{row}" for row in range(60) if row != 3]


stems = st.sampled_from(
    ["a", "b", "a-r0000000000", "a-r0000000005", "a.pq", "a.parquet", "a~", "a.pq~", "a-r0000000000-r0000000000"]
)
endings = st.sampled_from([".parquet", ".pq", ".PARQUET", "", "~"])
names = st.lists(st.builds("{}{}".format, stems, endings), unique=True, max_size=12)


@given(names, st.data())
def test_unit_and_row_ids_are_unique_for_any_files(found: list[str], draw: st.DataObject) -> None:
    files = []
    for name in found:
        rows = draw.draw(st.integers(0, 12))
        claimed = rows > 0 and draw.draw(st.booleans())
        start = draw.draw(st.integers(0, 10))
        origin = ((draw.draw(st.sampled_from([*found, "z"])), start, start + rows),) if claimed else ((name, 0, rows),)
        files.append(SourceFile(name, 100, (rows,), "f", origin, claimed))
    settled = settle(files, "x")
    assert [file.name for file in settled] == found
    units = [unit for file in settled for unit in cut_file(file, 5)]
    assert len({unit.id for unit in units}) == len(units)
    rows = [row_id for unit in units for row_id in unit.row_ids()]
    assert len(set(rows)) == len(rows) == sum(file.rows for file in files)
