"""Which files are meant: paths as they are written, endings, links, and what a message says of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.files import left_out, stored
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError
from tests.data.helpers import as_bytes, random_images, struct_table, write

PNGS = [as_bytes(image) for image in random_images(6)]
TABLE = struct_table(PNGS, [0, 1, 2, 0, 1, 2])


def table_of(dataset: Dataset) -> pa.Table:
    return pa.concat_tables([dataset.read(unit) for unit in dataset.units()])


@pytest.mark.parametrize(
    "name", ["my imgs [v2]", "what?", "all*", "a#b%20c é 图", "a::b", "file::x", "a&b;c", "[0]", " x ", "~u", "100%"]
)
def test_a_path_that_is_there_counts_as_it_is_written(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / name, TABLE, f"{name}.parquet")
    write(tmp_path / "v" / "w", TABLE.slice(0, 1))  # what a glob would find
    for uri in (name, f"{name}/{name}", f"{name}/{name}/{name}.parquet"):
        dataset = open_dataset(str(tmp_path / uri))
        assert table_of(dataset).equals(TABLE), uri
    out = Store(str(tmp_path / "out" / name))
    out.write(f"{name}/{name}", b"x")
    assert out.list() == {f"{name}/{name}": 1}
    out.delete(name)
    assert out.list() == {}


def test_globs_work_where_no_file_is_called_so(tmp_path: Path) -> None:
    for name in ("a1.parquet", "a2.parquet", "b1.parquet"):
        write(tmp_path, TABLE, name)
    assert [file.name for file in open_dataset(str(tmp_path / "a[12].parquet")).files] == ["a1.parquet", "a2.parquet"]
    write(tmp_path, TABLE, "a[12].parquet")
    assert [file.name for file in open_dataset(str(tmp_path / "a[12].parquet")).files] == ["a[12].parquet"]


@pytest.mark.parametrize("name", ["DATA.PARQUET", "x.Pq", "part-00000", "part-0.c000", "x.parquet.v2"])
def test_other_names_of_parquet_files(tmp_path: Path, name: str) -> None:
    write(tmp_path, TABLE, name)
    (tmp_path / "README").write_text("hello, no parquet")
    (tmp_path / "_SUCCESS").write_text("")
    for uri in (tmp_path, tmp_path / name):
        dataset = open_dataset(str(uri))
        assert [file.name for file in dataset.files] == [name]
        assert table_of(dataset).equals(TABLE)


def test_names_count_before_contents(tmp_path: Path) -> None:
    write(tmp_path, TABLE, "a.parquet")
    write(tmp_path, TABLE, "backup")
    assert [file.name for file in open_dataset(str(tmp_path)).files] == ["a.parquet"]


def test_what_a_folder_holds_instead_is_named(tmp_path: Path) -> None:
    for name in ("a.tar.zst", "b\x1b[31m", "c", "d"):
        (tmp_path / name).write_bytes(b"none of it")
    with pytest.raises(DataError, match=r"holds no .parquet files \(but a.tar.zst, b\\x1b\[31m, c, …\)"):
        open_dataset(str(tmp_path))
    write(tmp_path, TABLE, "_old/a.parquet")
    with pytest.raises(DataError, match=r"\(but _old/a.parquet; names that begin with _ or \. are left out\)"):
        open_dataset(str(tmp_path))


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, TABLE)
    (tmp_path / "zero.parquet").touch()
    for uri in (tmp_path, tmp_path / "zero.parquet", tmp_path / "z*"):
        with pytest.raises(DataError, match=r"zero.parquet is empty \(0 bytes\).*delete it"):
            open_dataset(str(uri))


def test_a_name_that_is_not_utf8_is_refused_with_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, TABLE)
    os.rename(tmp_path / "train-0.parquet", os.fsencode(tmp_path) + b"/caf\xe9.parquet")
    with pytest.raises(DataError, match=r"caf\\xe9.parquet has a name that is not UTF-8.*Rename it"):
        open_dataset(str(tmp_path))


def test_names_that_are_not_utf8_are_stored_so_that_they_can_be_told_apart() -> None:
    names = ["plain\\x.png", "caf\udce9.png", "caf\\\udce9.png", "\udce9\udce8"]
    assert [stored(name) for name in names] == ["plain\\x.png", r"caf\xe9.png", r"caf\\\xe9.png", r"\xe9\xe8"]


# Links


def test_linked_parts_are_read_once(tmp_path: Path) -> None:
    write(tmp_path / "in", TABLE.slice(0, 2), "a.parquet")
    write(tmp_path / "elsewhere", TABLE.slice(2), "b.parquet")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to("more")
    (tmp_path / "in" / "more2").symlink_to(tmp_path / "in")
    dataset = open_dataset(str(tmp_path / "in"))
    assert [file.name for file in dataset.files] == ["a.parquet", "again/b.parquet"]
    assert table_of(dataset).equals(TABLE)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    write(tmp_path, TABLE)
    (tmp_path / "x.parquet").symlink_to("/nowhere/x")
    for uri in (tmp_path, tmp_path / "x*"):
        with pytest.raises(DataError, match=r"x.parquet is a link to /nowhere/x, which is not there"):
            open_dataset(str(uri))


def cached(root: Path, revision: str, blob: str, table: pa.Table) -> Path:
    """Write a data set as the cache of Hugging Face keeps it."""
    write(root / "blobs", table, blob)
    folder = root / "snapshots" / revision / "data"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").symlink_to(f"../../../blobs/{blob}")
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(revision)
    return root


def test_the_cache_of_huggingface(tmp_path: Path) -> None:
    root = cached(tmp_path / "datasets--a--b", "r1", "abc", TABLE)
    for uri in (root, root / "snapshots", root / "snapshots" / "r1", root / "snapshots" / "r1" / "data"):
        assert table_of(open_dataset(str(uri))).equals(TABLE)
    cached(root, "r2", "def", TABLE.slice(0, 2))
    with pytest.raises(DataError, match=r"holds 2 versions of one data set, in snapshots/: r1, r2. Give the folder of"):
        open_dataset(str(root))
    assert open_dataset(str(root / "snapshots" / "r2")).rows == 2


def test_an_output_in_a_linked_part_of_the_source_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", TABLE, "a.parquet")
    write(tmp_path / "far", TABLE, "b.parquet")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "way").symlink_to(tmp_path / "in")
    dataset = open_dataset(str(tmp_path / "in"))
    for out in ("in/x", "far", "far/x", "way/x", "in/more/x"):
        with pytest.raises(ConfigError, match="lies in the source"):
            Run(Store(str(tmp_path / out))).check("purify", dataset)
    Run(Store(str(tmp_path / "beside"))).check("purify", dataset)
    Run(Store(str(tmp_path / "far" / "_x"))).check("purify", dataset)


# Splits


def test_files_of_another_split_are_told(tmp_path: Path) -> None:
    for name in ("data/train-0", "data/train-1", "data/test-0", "val/x\n0"):
        write(tmp_path, TABLE, f"{name}.parquet")
    dataset = open_dataset(str(tmp_path), split="train")
    assert dataset.left_out == ("data/test-0.parquet", "val/x\n0.parquet")
    assert open_dataset(str(tmp_path)).left_out == ()
    assert open_dataset(str(tmp_path / "data" / "train-0.parquet"), split="train").left_out == ()
    assert left_out("train", 2, 12, dataset.left_out) == (
        "taken: 2 files of train, 12 rows; left out: 2 files of another part (data/test-0.parquet, val/x\\n0.parquet). "
        "To take others, give their folder, file or glob."
    )
    assert pq.read_metadata(tmp_path / "data" / "train-0.parquet").num_rows == 6
