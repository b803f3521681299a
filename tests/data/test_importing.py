"""Imports: each format against an independent reading of its files; selection, refusals, bounded work."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydvae.data import importing
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import ImportSummary, import_dataset
from raydvae.data.readers import webdataset
from raydvae.data.schema import class_names, huggingface_metadata
from raydvae.data.store import Store
from raydvae.errors import ConfigError, DataError, StorageError
from tests.data.helpers import STRUCT, as_bytes, decode_unit, random_images, struct_table, write

HF = pa.schema([("image", STRUCT), ("label", pa.int64())])


@pytest.fixture
def out(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def rows(out: Store, split: str | None = None) -> pa.Table:
    dataset = open_dataset(out.uri, split=split)
    return pa.concat_tables([dataset.read(unit) for unit in dataset.units()])


def pixels(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(value["bytes"])))


def group_sizes(out: Store) -> list[list[int]]:
    footers = [pq.read_metadata(Path(out.uri) / name) for name in out.list()]
    return [[footer.row_group(g).num_rows for g in range(footer.num_row_groups)] for footer in footers]


# CIFAR


def cifar_batch(count: int, seed: int, hundred: bool, text_keys: bool = False) -> dict[Any, Any]:
    rng = np.random.default_rng(seed)
    batch: dict[Any, Any] = {
        b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [f"s{seed}_{i}.png".encode() for i in range(count)],
        b"batch_label": b"some batch",
    }
    if hundred:
        batch[b"fine_labels"] = rng.integers(0, 6, count).tolist()
        batch[b"coarse_labels"] = [label // 3 for label in batch[b"fine_labels"]]
    else:
        batch[b"labels"] = rng.integers(0, 4, count).tolist()
    return {key.decode(): value for key, value in batch.items()} if text_keys else batch


def cifar(folder: Path, hundred: bool = False, protocol: int = 2, text_keys: bool = False) -> dict[str, dict[Any, Any]]:
    """Write a CIFAR "python version" with plain pickle, and return its batches."""
    folder.mkdir(parents=True)
    names = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = {name: cifar_batch(7, seed, hundred, text_keys) for seed, name in enumerate(names)}
    meta: dict[Any, Any] = {b"label_names": [b"plane", b"car", b"bird", b"cat"], b"num_vis": 3072}
    if hundred:
        meta = {b"fine_label_names": list("abcdef"), b"coarse_label_names": ["low", "high"]}
    for name, value in {**batches, "meta" if hundred else "batches.meta": meta}.items():
        (folder / name).write_bytes(pickle.dumps(value, protocol))
    (folder / "readme.html").write_text("hello")
    return batches


def check_cifar(table: pa.Table, batches: list[dict[Any, Any]], label: bytes) -> None:
    assert table.column("label").to_pylist() == [value for batch in batches for value in batch[label]]
    values = table.column("image").to_pylist()
    assert [v["path"].encode() for v in values] == [name for batch in batches for name in batch[b"filenames"]]
    got = [pixels(value) for value in values]
    expected = [
        [row[c * 1024 + y * 32 + 5] for y in range(32) for c in range(3)] for b in batches for row in b[b"data"]
    ]
    assert [image[:, 5].reshape(-1).tolist() for image in got] == expected  # column x = 5, by the published layout
    whole = np.concatenate([batch[b"data"] for batch in batches])
    assert np.array_equal(np.stack(got), whole.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py"])
def test_cifar10_is_what_plain_pickle_reads(tmp_path: Path, out: Store, place: str) -> None:
    batches = list(cifar(tmp_path / "in" / place).values())
    summary = import_dataset(str(tmp_path / "in"), out, "cifar10", rows_per_shard=10)
    assert summary == ImportSummary(42, 4, 5, {"32x32": 42}, {})
    assert sorted(out.list()) == ["test-00000-of-00001.parquet", *(f"train-0000{i}-of-00004.parquet" for i in range(4))]
    check_cifar(rows(out, "train"), batches[:5], b"labels")
    check_cifar(rows(out, "test"), batches[5:], b"labels")
    assert class_names(rows(out).schema, "label") == ("plane", "car", "bird", "cat")
    assert rows(out).schema.equals(HF)


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path, out: Store) -> None:
    batches = cifar(tmp_path / "cifar-100-python", hundred=True)
    assert import_dataset(str(tmp_path), out, "cifar100", split="train").classes == 6
    table = rows(out)
    check_cifar(table, [batches["train"]], b"fine_labels")
    assert table.column("coarse_label").to_pylist() == batches["train"][b"coarse_labels"]
    assert class_names(table.schema, "coarse_label") == ("low", "high")


def test_cifar_in_its_archive_is_the_same(tmp_path: Path, out: Store) -> None:
    cifar(tmp_path / "in" / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "in" / "cifar-10-batches-py", "cifar-10-batches-py")
    import_dataset(str(tmp_path / "cifar-10-python.tar.gz"), out, "cifar10", split="test")
    other = Store(str(tmp_path / "other"))
    import_dataset(str(tmp_path / "in"), other, "cifar10", split="test")
    assert {name: out.read(name) for name in out.list()} == {name: other.read(name) for name in other.list()}


def test_cifar_rewritten_by_python_3(tmp_path: Path, out: Store) -> None:
    batches = cifar(tmp_path / "in", protocol=5, text_keys=True)
    import_dataset(str(tmp_path / "in"), out, "cifar10", split="test")
    assert rows(out).column("label").to_pylist() == batches["test_batch"]["labels"]


def test_two_copies_of_cifar_are_not_mixed(tmp_path: Path, out: Store) -> None:
    cifar(tmp_path / "in" / "cifar-10-batches-py")
    cifar(tmp_path / "in" / "old")
    with pytest.raises(
        DataError, match=r"holds cifar-10-batches-py/batches.meta and old/batches.meta; give the folder"
    ):
        import_dataset(str(tmp_path / "in"), out, "cifar10")
    assert import_dataset(str(tmp_path / "in" / "old"), out, "cifar10").rows == 42


@pytest.mark.parametrize(("protocol", "fortran"), [(0, False), (2, True), (4, False)])
def test_cifar_as_other_programs_rewrite_it(tmp_path: Path, out: Store, protocol: int, fortran: bool) -> None:
    batches = cifar(tmp_path / "in", text_keys=True)
    for name, batch in batches.items():
        other = batch | {"labels": [np.int64(label) for label in batch["labels"]]}
        if fortran:
            other["data"] = np.asfortranarray(batch["data"])
        (tmp_path / "in" / name).write_bytes(pickle.dumps(other, protocol))
    import_dataset(str(tmp_path / "in"), out, "cifar10", split="train")
    as_before = [{key.encode(): value for key, value in batch.items()} for batch in list(batches.values())[:5]]
    check_cifar(rows(out), as_before, b"labels")


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data_batch_3", pickle.dumps(Command()), r"data_batch_3 asks for (posix|nt)\.system"),
        ("batches.meta", pickle.dumps([1]), "batches.meta has no 'label_names'"),
        ("test_batch", pickle.dumps({"labels": [0], "data": np.zeros((1, 5), np.uint8)}), r"no \(N, 3072\) bytes"),
        ("test_batch", pickle.dumps({"labels": [4], "data": np.zeros((1, 3072), np.uint8)}), "a label of 0 to 3"),
        ("test_batch", pickle.dumps({"labels": ["a"], "data": np.zeros((1, 3072), np.uint8)}), "a label of 0 to 3"),
        ("test_batch", pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}), "test_batch has no 'labels'"),
        ("data_batch_5", None, "lacks data_batch_5. Give the folder"),
    ],
)
def test_what_is_not_cifar_is_refused(
    tmp_path: Path, out: Store, file: str, content: bytes | None, message: str
) -> None:
    cifar(tmp_path / "in")
    (tmp_path / "in" / file).unlink()
    if content is not None:
        (tmp_path / "in" / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_dataset(str(tmp_path / "in"), out, "cifar10")
    assert out.list() == {}


def test_a_cut_archive_is_refused(tmp_path: Path, out: Store) -> None:
    cifar(tmp_path / "in" / "x")
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "in" / "x", "x")
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataError, match=r"c\.tar\.gz is not a readable \.tar\.gz file"):
        import_dataset(str(path), out, "cifar10")


# Image folders


def folder_of(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


PNG = as_bytes(random_images(1, 6)[0])
JPEG = as_bytes(random_images(1, 9)[0], "JPEG")


def test_an_image_folder_keeps_bytes_and_drops_nothing_silently(tmp_path: Path, out: Store) -> None:
    files = {
        "dog/b.jpg": JPEG,
        "dog/deep/a [1].png": PNG,
        "cat/broken.png": b"no image",
        "cat/notes.txt": b"a note",
        "cat/.DS_Store": b"x",
        ".git/config": b"x",
        "README.md": b"x",
    }
    summary = import_dataset(folder_of(tmp_path / "in", files), out, "imagefolder")
    assert summary.rows == 3
    assert summary.sizes == {"unreadable": 1, "9x9": 1, "6x6": 1}
    assert summary.unreadable == {"text": 1}
    assert summary.skipped == {"hidden file": 2, "no image (.md)": 1, "no image (.txt)": 1}
    table = rows(out)
    assert list(out.list()) == ["train-00000-of-00001.parquet"]
    assert class_names(table.schema, "label") == ("cat", "dog")
    got = {v["path"]: (v["bytes"], label) for v, label in zip(*table.to_pydict().values(), strict=True)}
    assert got == {
        "cat/broken.png": (b"no image", 0),
        "dog/b.jpg": (JPEG, 1),
        "dog/deep/a [1].png": (PNG, 1),
    }
    dataset = open_dataset(out.uri)
    decoded = decode_unit(dataset, dataset.units()[0], 6)
    assert decoded.rejected.num_rows == 2  # the text and the other size, each with its reason
    assert len(decoded.images) == 1


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_divided_image_folder_has_the_classes_of_all_splits(tmp_path: Path, out: Store, test_name: str) -> None:
    files = {
        "train/b/1.png": PNG,
        "train/a/2.png": PNG,
        "train/a/.h": PNG,
        f"{test_name}/b/3.png": PNG,
        "extra/x.png": PNG,
    }
    source = folder_of(tmp_path / "in", files)
    summary = import_dataset(source, out, "imagefolder")
    assert (summary.rows, summary.classes, summary.shards) == (3, 2, 2)
    assert summary.skipped == {"hidden file": 1, "file of neither split (extra/)": 1}
    assert rows(out, "train").column("label").to_pylist() == [0, 1]
    assert rows(out, "test").column("label").to_pylist() == [1]  # not 0, though test has but one class
    only = Store(str(tmp_path / "only"))
    assert import_dataset(source, only, "imagefolder", split="test").rows == 1
    assert class_names(rows(only).schema, "label") == ("a", "b")


def test_a_class_may_be_called_train(tmp_path: Path, out: Store) -> None:
    source = folder_of(tmp_path / "in", {"train/1.png": PNG, "plane/2.png": PNG})
    assert import_dataset(source, out, "imagefolder", split="test").classes == 2
    assert list(out.list()) == ["test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("files", "found"),
    [({"1.png": PNG, "2.png": PNG}, "it holds 2 files, such as 1.png, 2.png"), ({}, "it does not exist")],
)
def test_no_class_folders(tmp_path: Path, out: Store, files: dict[str, bytes], found: str) -> None:
    with pytest.raises(DataError, match=f"has no class folders: {found}"):
        import_dataset(folder_of(tmp_path / "in", files), out, "imagefolder")


def test_an_image_folder_in_a_bucket(out: Store) -> None:
    source = Store(f"memory://{uuid.uuid4().hex}")
    source.write("a/1.png", PNG)
    source.write("b/2.png", JPEG)
    target = Store(f"memory://{uuid.uuid4().hex}")
    assert import_dataset(source.uri, target, "imagefolder").rows == 2
    assert [v["bytes"] for v in rows(target).column("image").to_pylist()] == [PNG, JPEG]


# WebDataset


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_webdataset_samples_and_what_is_skipped(tmp_path: Path, out: Store) -> None:
    source = tar_of(
        tmp_path / "a.tar",
        [
            ("x/000.jpg", JPEG),
            ("x/000.cls", b"2\n"),
            ("x/001.json", json.dumps({"label": 1, "text": "a"}).encode()),
            ("x/001.PNG", PNG),
            ("x/001.seg.png", b"mask"),
            ("002.jpg", JPEG),
            ("003.cls", b"1"),
            ("004.jpg", JPEG),
            ("004.png", PNG),
            ("004.cls", b"1"),
            ("005.jpg", JPEG),
            ("005.cls", b"one"),
            ("006.jpg", JPEG),
            ("006.json", b'{"label": 1.5}'),
            ("007.jpg", JPEG),
            ("007.cls", b"-1"),
            ("008.webp", b"broken but carried"),
            ("008.cls", b"0"),
        ],
    )
    summary = import_dataset(source, out, "webdataset")
    assert summary.skipped == {
        "sample without a label (.cls or .json)": 1,
        "sample without an image (it has cls)": 1,
        "sample with several images (jpg, png)": 1,
        "label that is not a whole number from 0 to 99999": 3,
    }
    table = rows(out)
    assert [v["bytes"] for v in table.column("image").to_pylist()] == [JPEG, PNG, b"broken but carried"]
    assert table.column("label").to_pylist() == [2, 1, 0]
    assert class_names(table.schema, "label") == ("0", "1", "2")
    assert summary.classes == 3


def test_webdataset_splits_and_globs(tmp_path: Path) -> None:
    for name, label in (("train-0", b"0"), ("train-1", b"1"), ("test-0", b"3")):
        tar_of(tmp_path / "in" / f"{name}.tar", [("a.png", PNG), ("a.cls", label)])
    both, glob, one = (Store(str(tmp_path / name)) for name in ("both", "glob", "one"))
    import_dataset(str(tmp_path / "in"), both, "webdataset")
    assert rows(both, "train").column("label").to_pylist() == [0, 1]
    assert class_names(rows(both, "train").schema, "label") == ("0", "1", "2", "3")
    import_dataset(str(tmp_path / "in" / "train-*.tar"), glob, "webdataset")
    assert rows(glob).column("label").to_pylist() == [0, 1]
    import_dataset(str(tmp_path / "in"), one, "webdataset", split="test", num_classes=10)
    assert len(class_names(rows(one).schema, "label") or ()) == 10


def test_large_members_are_skipped_not_read(tmp_path: Path, out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydvae.data.readers.webdataset.MAX_BYTES", len(PNG))
    source = tar_of(tmp_path / "a.tar", [("a.jpg", PNG + b"x"), ("a.cls", b"0"), ("b.jpg", PNG), ("b.cls", b"0")])
    summary = import_dataset(source, out, "webdataset")
    assert (summary.rows, summary.skipped) == (1, {f"image of more than {len(PNG)} bytes": 1})


def test_headers_of_a_tar_file_do_not_pile_up(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [(f"{i}.jpg", b"") for i in range(50)])
    with tarfile.open(path) as tar:
        held = [len(vars(tar)["members"]) for _ in webdataset._members(tar)]
    assert (len(held), max(held)) == (50, 0)


def test_what_is_no_tar_is_refused(tmp_path: Path, out: Store) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(DataError, match=r"a\.tar is not a readable \.tar file"):
        import_dataset(str(tmp_path / "a.tar"), out, "webdataset")
    with pytest.raises(DataError, match=r"b\.tar does not exist"):
        import_dataset(str(tmp_path / "b.tar"), out, "webdataset")


# Digits


def test_digits_are_scikit_learns(out: Store) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    summary = import_dataset("digits", out, "digits")
    assert summary == ImportSummary(1797, 10, 3, {"32x32": 1797}, {})
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    for split, values, targets in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
        table = rows(out, split)
        assert table.column("label").to_pylist() == targets.tolist()
        got = np.stack([pixels(value) for value in table.column("image").to_pylist()])
        assert got.shape == (len(targets), 32, 32, 3)
        assert (got[..., 0] == got[..., 1]).all()
        # Each block of the enlarged image has about the mean of the pixel it comes from and its neighbors.
        small = got[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1)
        assert np.corrcoef(small, values.reshape(-1))[0, 1] > 0.97
        assert got.max() > 240


def test_faint_digits_are_the_same_with_a_quarter_of_the_contrast(tmp_path: Path) -> None:
    white, faint = Store(str(tmp_path / "white")), Store(str(tmp_path / "faint"))
    for source, store in (("digits", white), ("faint-digits", faint)):
        import_dataset(source, store, "digits", limit_per_class=3)
    for split in ("train", "test"):
        given, got = (
            np.stack([pixels(value) for value in rows(store, split).column("image").to_pylist()]).astype(int)
            for store in (white, faint)
        )
        assert (rows(white, split).column("label")).equals(rows(faint, split).column("label"))
        assert 94 <= got.min() <= 98 and 157 <= got.max() <= 161, "levels 96 to 160, around the middle of 0 to 255"
        assert np.abs(got - (96 + given / 4)).max() <= 2


def test_digits_need_their_word(out: Store) -> None:
    with pytest.raises(ConfigError, match="give the word digits"):
        import_dataset("/data/digits", out, "digits")


# Parquet and selection


def test_parquet_keeps_columns_types_and_metadata(tmp_path: Path, out: Store) -> None:
    names = ["a", "b", "c"]
    table = struct_table([PNG] * 9, [2, 0, 1, 2, 0, 1, 2, 0, 1], note=list("abcdefghi"))
    table = table.set_column(1, "label", table.column("label").cast(pa.int32()))
    table = table.replace_schema_metadata({b"owner": b"me", **huggingface_metadata(names)})
    source = str(write(tmp_path / "in", table, groups=4))
    import_dataset(source, out, "parquet", rows_per_shard=2)
    assert len(out.list()) == 5
    assert rows(out).equals(table)
    stored = pq.read_schema(Path(out.uri) / "train-00000-of-00005.parquet")
    assert stored.equals(table.schema)
    assert stored.metadata == table.schema.metadata
    few = Store(str(tmp_path / "few"))
    summary = import_dataset(source, few, "parquet", num_classes=2, limit_per_class=2)
    assert rows(few).column("note").to_pylist() == list("bcef")
    assert class_names(rows(few).schema, "label") == ("a", "b")
    assert find_classes(open_dataset(few.uri)).count == summary.classes == 2
    assert summary.skipped == {"row outside of the first 2 classes": 3, "row beyond the first 2 of its class": 2}


def test_parquet_splits_number_text_labels_alike(tmp_path: Path, out: Store) -> None:
    write(tmp_path / "in", struct_table([PNG] * 3, ["b", "a", "c"]), "train-0.parquet")
    write(tmp_path / "in", struct_table([PNG] * 2, ["c", "b"]), "test-0.parquet")
    assert import_dataset(str(tmp_path / "in"), out, "parquet", num_classes=2).rows == 3
    assert rows(out, "train").column("label").to_pylist() == ["b", "a"]
    assert rows(out, "test").column("label").to_pylist() == ["b"]


def test_parquet_arrays_pass_through(tmp_path: Path, out: Store) -> None:
    values = random_images(4, 5)[..., 0]
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 25)
    table = pa.table({"image": column, "label": [0, 1, 0, None]})
    summary = import_dataset(str(write(tmp_path / "in", table)), out, "parquet")
    assert summary.sizes == {"5x5": 4}
    assert rows(out).equals(table)  # the row without a label too: it is rejected later, with its reason


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("classes", [1, 3])
def test_selection_takes_the_first_rows_of_the_first_classes(
    tmp_path: Path, out: Store, limit: int, classes: int
) -> None:
    files = {f"{name}/{i}.png": PNG for name in "abc" for i in range(3)}
    source = folder_of(tmp_path / "in", files)
    summary = import_dataset(source, out, "imagefolder", limit_per_class=limit, num_classes=classes)
    kept = [f"{name}/{i}.png" for name in "abc"[:classes] for i in range(min(limit, 3))]
    assert [v["path"] for v in rows(out).column("image").to_pylist()] == kept
    assert summary.rows + sum(summary.skipped.values()) == 9
    assert summary.classes == classes


def test_shards_and_row_groups_are_bounded(tmp_path: Path, out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"a/{i:02d}.png": PNG for i in range(25)}
    source = folder_of(tmp_path / "in", files)
    monkeypatch.setattr(importing, "GROUP_ROWS", 4)
    import_dataset(source, out, "imagefolder", rows_per_shard=10)
    assert group_sizes(out) == [[4, 4, 2], [4, 4, 2], [4, 1]]
    monkeypatch.setattr(importing, "GROUP_BYTES", 3 * len(PNG))
    other = Store(str(tmp_path / "other"))
    import_dataset(source, other, "imagefolder", limit_per_class=5)
    assert group_sizes(other) == [[3, 2]]


def test_importing_twice_gives_the_same_bytes(tmp_path: Path, out: Store) -> None:
    source = folder_of(tmp_path / "in", {"a/1.png": PNG, "b/1.jpg": JPEG})
    other = Store(str(tmp_path / "other"))
    for target in (out, other):
        import_dataset(source, target, "imagefolder")
    assert {name: out.read(name) for name in out.list()} == {name: other.read(name) for name in other.list()}


# Refusals


def test_a_folder_with_parquet_files_is_left_alone(tmp_path: Path, out: Store) -> None:
    out.write("sub/x.parquet", b"mine")
    with pytest.raises(StorageError, match=r"already holds parquet files \(sub/x\.parquet\)"):
        import_dataset(str(tmp_path / "nowhere"), out, "imagefolder")
    assert list(out.list()) == ["sub/x.parquet"]


def test_a_failing_import_leaves_nothing_behind(tmp_path: Path, out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {f"a/{i}.png": PNG for i in range(4)})
    original = Store.write

    def second_fails(self: Store, name: str, data: bytes) -> None:
        if name.startswith("train-00001"):
            raise StorageError("the disk is full")
        original(self, name, data)

    monkeypatch.setattr(Store, "write", second_fails)
    with pytest.raises(StorageError, match="the disk is full"):
        import_dataset(source, out, "imagefolder", rows_per_shard=2)
    assert out.list() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, "no split 'dev'; choose one of train, test"),
        ({"format": "zip"}, "no format 'zip'; choose one of cifar10"),
        ({"rows_per_shard": 0}, "--rows-per-shard is 0; give a positive number"),
        ({"limit_per_class": -1}, "--limit-per-class is -1"),
        ({"num_classes": 0}, "--classes is 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, out: Store, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_dataset(str(tmp_path), out, **({"format": "imagefolder"} | settings))


def test_too_many_classes_and_missing_splits(tmp_path: Path, out: Store) -> None:
    source = folder_of(tmp_path / "in", {"train/a/1.png": PNG, "train/b/1.png": PNG})
    with pytest.raises(DataError, match="has 2 classes, fewer than the 3 asked for"):
        import_dataset(source, out, "imagefolder", num_classes=3)
    with pytest.raises(DataError, match="has no split 'test', only train"):
        import_dataset(source, out, "imagefolder", split="test")
    empty = tar_of(tmp_path / "a.tar", [("a.png", PNG)])
    with pytest.raises(DataError, match=r"holds no rows to import. Skipped: \{'sample without a label"):
        import_dataset(empty, out, "webdataset")


# An import that was cut off


def killed_import(out: Store) -> None:
    """Import digits in a process that is gone, as by SIGKILL, once two of five shards are written."""
    child = os.fork()
    if child == 0:
        write = Store.write

        def dying(store: Store, name: str, data: bytes) -> None:
            write(store, name, data)
            if name == "train-00001-of-00005.parquet":
                os._exit(9)

        Store.write = dying  # type: ignore[method-assign]
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        import_digits(out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def import_digits(out: Store, rows_per_shard: int = 300) -> ImportSummary:
    return import_dataset("digits", out, "digits", split="train", rows_per_shard=rows_per_shard)


def test_half_an_import_is_no_data_set_and_the_same_import_begins_anew(out: Store, tmp_path: Path) -> None:
    killed_import(out)
    (Path(out.path()) / ".tmp-0123").write_bytes(b"half a shard")
    assert [name for name in out.list() if name.startswith("train")] == [
        "train-00000-of-00005.parquet",
        "train-00001-of-00005.parquet",
    ]
    for of in (out.uri, f"{out.uri}/*.parquet", str(tmp_path)):
        with pytest.raises(DataError, match=r"import into .*out has not ended: rows are missing\..*run the same"):
            open_dataset(of)
    assert not importing.imported(out)
    assert import_digits(out, 500).shards == 3  # other shards than before: none of those is left
    whole = Store(str(tmp_path / "whole"))
    import_digits(whole, 500)
    assert out.read_many(list(out.list())) == whole.read_many(list(whole.list()))
    assert sorted(os.listdir(out.path())) == sorted(os.listdir(whole.path())) == list(whole.list())
    assert importing.imported(out)


def test_of_half_an_import_only_its_own_files_are_deleted(out: Store) -> None:
    killed_import(out)
    mine = pa.table({"a": [1]})
    pq.write_table(mine, f"{out.path()}/mine.parquet")
    with pytest.raises(StorageError, match=r"already holds parquet files \(mine\.parquet\)"):
        import_digits(out)
    assert pq.read_table(f"{out.path()}/mine.parquet") == mine
    assert "train-00000-of-00005.parquet" in out.list()


def test_two_imports_into_one_folder(out: Store) -> None:
    with importing._alone(out, []) as store:
        store.write("train-00000-of-00002.parquet", b"")
        with pytest.raises(StorageError, match=r"Another driver is at work on .*out"):
            import_digits(out)
    assert os.listdir(out.path()) == ["train-00000-of-00002.parquet"]
