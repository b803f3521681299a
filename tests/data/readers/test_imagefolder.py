"""Image folders as people have them: names of splits, wrapping folders, junk, links, tables of labels."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from raydvae.data import importing
from raydvae.data.dataset import open_dataset
from raydvae.data.importing import ImportSummary, import_dataset
from raydvae.data.readers.imagefolder import open_imagefolder
from raydvae.data.schema import class_names
from raydvae.data.store import Store
from raydvae.errors import DataError, RaydvaeError
from tests.data.helpers import as_bytes, random_images

IMAGES = [as_bytes(image) for image in random_images(8)]


def folder_of(root: Path, *names: str) -> str:
    """Write images, the i-th with the bytes of ``IMAGES[i]``."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGES[number])
    return str(root)


def put(source: str, name: str, data: bytes | str) -> None:
    path = Path(source, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def imported(source: str, split: str | None = None) -> tuple[ImportSummary, dict[str, list[tuple[int, str]]]]:
    """Return the summary, and which image (place in ``IMAGES``) and class name each row of each split has."""
    out = Store(f"{source}-out-{split}")
    summary = import_dataset(source, out, "imagefolder", split=split)
    found: dict[str, list[tuple[int, str]]] = {}
    for part in summary.parts:
        dataset = open_dataset(out.uri, split=part)  # type: ignore[arg-type]
        table = pa.concat_tables([dataset.read(unit) for unit in dataset.units()])
        names = class_names(table.schema, "label") or ()
        pairs = zip(table.column("image").to_pylist(), table.column("label").to_pylist(), strict=True)
        found[part] = [(IMAGES.index(value["bytes"]), names[label]) for value, label in pairs]
    return summary, found


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAINING", "TESTING"),
        ("training", "validation"),
        ("training_set", "test_set"),
        ("train", "dev"),
        ("Training Data", "valid"),
        ("train_images", "val_images"),
    ],
)
@pytest.mark.parametrize("wrap", ["", "archive/", "name-1.0/data/"])
def test_splits_by_the_names_of_folders(tmp_path: Path, train: str, test: str, wrap: str) -> None:
    names = [f"{wrap}{train}/cat/1.png", f"{wrap}{train}/dog/2.png", f"{wrap}{test}/dog/3.png"]
    source = folder_of(tmp_path / "in", *names)
    put(source, "README.md", "hello")
    summary, found = imported(source)
    assert found == {"train": [(0, "cat"), (1, "dog")], "test": [(2, "dog")]}
    assert summary.skipped == {"no image (.md)": 1}
    said = "; ".join(summary.notes)
    assert (f"train is the folder {wrap}{train}, test" in said) == ((train, test) != ("train", "test"))
    assert (f"classes are the folders in {wrap}" in said) == bool(wrap)


def test_splits_in_folders_of_the_same_name(tmp_path: Path) -> None:
    names = ["training_set/cats/1.png", "training_set/dogs/2.png", "test_set/dogs/3.png"]
    source = folder_of(tmp_path / "in", *(f"{name.split('/')[0]}/{name}" for name in names))
    summary, found = imported(source)
    assert found == {"train": [(0, "cats"), (1, "dogs")], "test": [(2, "dogs")]}
    assert summary.notes == ("train is the folder training_set/training_set, test is the folder test_set/test_set",)


def test_all_of_train_val_and_test(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "train/a/1.png", "val/a/2.png", "test/b/3.png", "extra/c/4.png", "5.png")
    summary, found = imported(source)
    assert found == {"train": [(0, "a")], "test": [(2, "b")]}
    assert summary.skipped == {
        "file of neither split (val/)": 1,
        "file of neither split (extra/)": 1,
        "file of neither split": 1,
    }


@pytest.mark.parametrize("wrap", ["archive", "data", "a/b/c", "cats-vs-dogs"])
def test_one_folder_of_folders_wraps_them(tmp_path: Path, wrap: str) -> None:
    source = folder_of(tmp_path / "in", f"{wrap}/cat/1.png", f"{wrap}/dog/2.png", f"{wrap}/dog/x/3.png")
    put(source, f"{wrap}/notes.txt", "x")
    put(source, f"{wrap}/.DS_Store", "x")
    summary, found = imported(source)
    assert found == {"train": [(0, "cat"), (1, "dog"), (2, "dog")]}
    assert summary.notes == (f"classes are the folders in {wrap}/",)


def test_one_class_is_a_class(tmp_path: Path) -> None:
    summary, found = imported(folder_of(tmp_path / "in", "cat/1.png", "cat/2.png"))
    assert found == {"train": [(0, "cat"), (1, "cat")]}
    assert summary.notes == ()


def test_one_class_with_folders_beside_images_is_doubted(tmp_path: Path) -> None:
    summary, found = imported(folder_of(tmp_path / "in", "x/cat/1.png", "x/dog/2.png", "x/logo.png"))
    assert found == {"train": [(0, "x"), (1, "x"), (2, "x")]}
    assert "all rows are of the class x; if the folders in it (cat, dog) are the classes" in summary.notes[0]


def test_classes_that_hold_only_folders_are_doubted(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "fold1/cat/1.png", "fold1/dog/2.png", "fold2/cat/3.png", "eel/4.png")
    summary, found = imported(source)
    assert [name for _, name in found["train"]] == ["eel", "fold1", "fold1", "fold2"]
    assert len(summary.notes) == 1
    assert "fold1, fold2 hold only folders, no images: rows are of the classes eel, fold1, fold2" in summary.notes[0]


def test_junk_of_operating_systems_is_no_class(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "cat/1.png", "dog/2.jpg")
    junk = ["__MACOSX/cat/._1.png", "__MACOSX/cat/1.png", "cat/Thumbs.db", "cat/desktop.ini", "@eaDir/1.png/x.jpg"]
    for name in [*junk, ".ipynb_checkpoints/1.png", "cat/._1.png"]:
        put(source, name, b"x")
    summary, found = imported(source)
    assert found == {"train": [(0, "cat"), (1, "dog")]}
    assert summary.skipped == {
        "hidden file": 3,
        "file of the operating system (__MACOSX)": 1,
        "file of the operating system (Thumbs.db)": 1,
        "file of the operating system (desktop.ini)": 1,
        "file of the operating system (@eaDir)": 1,
    }


def test_files_that_are_no_images_are_counted_and_make_no_class(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "cat/1.png", "dog/0f3ba2")  # one without an ending, known by its bytes
    for name in ("annotations/1.xml", "annotations/2.xml", "cat/LICENSE", "cat/x.csv", "cat/odd.\x1bxt"):
        put(source, name, "text")
    summary, found = imported(source)
    assert found == {"train": [(0, "cat"), (1, "dog")]}
    assert summary.skipped == {
        "no image (.xml)": 2,
        "no image (LICENSE)": 1,
        "no image (.csv)": 1,
        "no image (.\\x1bxt)": 1,
    }


def test_images_that_cannot_be_read_are_counted_by_what_they_are(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "cat/1.png")
    for name, data in {
        "cat/2.jpg": b"<html>404</html>",
        "cat/3.jpg": b"",
        "cat/4.png": IMAGES[1][:20],
        "dog/5.heic": b"\0\0\0\x18ftypheic",
        "dog/6.heic": b"\0\0\0\x18ftypheic",
    }.items():
        put(source, name, data)
    out = Store(f"{source}-out")
    summary = import_dataset(source, out, "imagefolder")
    assert (summary.rows, summary.sizes) == (6, {"8x8": 1, "unreadable": 5})
    assert summary.unreadable == {"HTML": 1, "empty": 1, "damaged PNG": 1, "HEIC": 2}
    assert "5 of 6 images cannot be read: 2 HEIC, 1 HTML, 1 empty, 1 damaged PNG" in summary.notes[0]


def test_nothing_but_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    source = str(tmp_path / "in")
    for number in range(3):
        put(source, f"cat/{number}.heic", b"\0\0\0\x18ftypheic")
    out = Store(f"{source}-out")
    with pytest.raises(
        DataError, match=r"None of the 3 images in .*in can be read: 3 HEIC. Convert them to one of JPEG"
    ):
        import_dataset(source, out, "imagefolder")
    assert out.list() == {}


def test_linked_classes_are_followed_and_a_lost_image_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "far", "cat/1.png", "dog/2.png")
    (tmp_path / "in").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "far" / name)
    assert imported(str(tmp_path / "in"))[1] == {"train": [(0, "cat"), (1, "dog")]}
    (tmp_path / "far" / "cat" / "3.png").symlink_to("/nowhere/3.png")
    with pytest.raises(DataError, match=r"cat/3.png is a link to /nowhere/3.png, which is not there"):
        import_dataset(str(tmp_path / "in"), Store(str(tmp_path / "out")), "imagefolder")


def test_names_that_are_not_utf8_are_kept_as_escapes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "cat/1.png")
    os.makedirs(os.fsencode(source) + b"/\xe9t\xe9")
    for name, data in ((b"cat/caf\xe9.png", IMAGES[1]), (b"\xe9t\xe9/2.png", IMAGES[2])):
        with open(os.path.join(os.fsencode(source), name), "wb") as file:
            file.write(data)
    out = Store(f"{source}-out")
    import_dataset(source, out, "imagefolder")
    dataset = open_dataset(out.uri)
    table = dataset.read(dataset.units()[0])
    assert [v["path"] for v in table.column("image").to_pylist()] == [
        "cat/1.png",
        r"cat/caf\xe9.png",
        r"\xe9t\xe9/2.png",
    ]
    assert [IMAGES.index(v["bytes"]) for v in table.column("image").to_pylist()] == [0, 1, 2]
    assert class_names(table.schema, "label") == ("cat", r"\xe9t\xe9")


# Tables of labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file_name,label\n1.png,dog\n2.png,cat\nimages/3.png,dog\n"),
        ("metadata.csv", "label,file_name\ndog,images/1.png\ncat,images/2.png\ndog,images/3.png\n"),
        ("images/metadata.csv", "file_name,text,label\n1.png,x,dog\n2.png,y,cat\n3.png,z,dog\n"),
        ("train.csv", "id,Class\r\n1,dog\r\n2,cat\r\n3,dog\r\n"),
        ("labels.tsv", "File Name\tLabel\n1.png\tdog\n2.png\tcat\n3.png\tdog\n"),
        ("labels.csv", "\ufefffilename;category\n.\\images\\1.png;dog\n2.png;cat\n3.png;dog\n"),
        (
            "images/metadata.jsonl",
            '{"file_name": "1.png", "label": "dog"}\n{"file_name": "2.png", "label": "cat"}\n\n'
            '{"file_name": "3.png", "label": "dog"}\n',
        ),
    ],
)
@pytest.mark.parametrize("wrap", ["", "archive/"])
def test_a_table_beside_the_images_tells_labels(tmp_path: Path, name: str, text: str, wrap: str) -> None:
    source = folder_of(tmp_path / "in", *(f"{wrap}images/{number}.png" for number in (1, 2, 3)))
    put(source, wrap + name, text)
    summary, found = imported(source)
    assert found == {"train": [(0, "dog"), (1, "cat"), (2, "dog")]}
    assert (summary.classes, summary.skipped) == (2, {})
    assert summary.notes == (f"labels are taken from {wrap}{name}",)


@pytest.mark.parametrize(("folder", "table"), [("train", "train.csv"), ("Train_images", "train_labels.csv")])
def test_a_table_called_as_a_folder_is_of_its_images(tmp_path: Path, folder: str, table: str) -> None:
    source = folder_of(tmp_path / "in", f"{folder}/1.png", f"{folder}/2.png", "test/1.png", "test/2.png")
    put(source, table, "id,label\n1,cat\n2,dog\n")
    assert imported(source, "train")[1] == {"train": [(0, "cat"), (1, "dog")]}
    everything = import_dataset(source, Store(f"{source}-all"), "imagefolder")
    assert everything.skipped == {"image that the table gives no label": 2}


def test_accents_that_are_stored_in_two_ways_are_the_same(tmp_path: Path) -> None:
    one, two = "caf\u00e9", "cafe\u0301"
    source = folder_of(tmp_path / "in", f"train/{one}/1.png", "train/dog/2.png", f"test/{two}/3.png", "test/dog/4.png")
    summary, found = imported(source)
    assert summary.classes == 2
    assert found == {"train": [(0, one), (1, "dog")], "test": [(2, one), (3, "dog")]}
    assert summary.notes == (f"folders that differ only in how accents are stored are one class: {one}",)
    source = folder_of(tmp_path / "one", f"{two}/1.png", "dog/2.png")
    assert imported(source)[1] == {"train": [(0, two), (1, "dog")]}  # as it is, where there is but one way
    source = folder_of(tmp_path / "table", f"images/{two}1.png", f"images/{one}2.png")
    put(source, "labels.csv", f"file_name,label\n{one}1.png,cat\nimages/{two}2.png,dog\n")
    assert imported(source)[1] == {"train": [(0, "cat"), (1, "dog")]}


@pytest.mark.parametrize(
    ("labels", "found", "skipped"),
    [
        (["1", "nan", "0", "-1"], [(0, "1"), (2, "0")], 2),
        (["1.0", "NaN", "0.0", "-1.0"], [(0, "1"), (2, "0")], 2),
        (["1", "-1", "1", "-1"], [(0, "1"), (1, "-1"), (2, "1"), (3, "-1")], 0),
        (["naan", "nan", "naan", "nan"], [(0, "naan"), (1, "nan"), (2, "naan"), (3, "nan")], 0),
        (["0.5", "-1", "1", "0"], [(0, "0.5"), (1, "-1"), (2, "1"), (3, "0")], 0),
    ],
)
def test_missing_numbers_of_a_table_are_no_classes(
    tmp_path: Path, labels: list[str], found: list[tuple[int, str]], skipped: int
) -> None:
    source = folder_of(tmp_path / "in", *(f"images/{row}.png" for row in range(4)))
    put(source, "labels.csv", "id,label\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels)))
    summary, rows = imported(source)
    assert rows == {"train": found}
    assert summary.skipped == ({"image that the table gives no label": skipped} if skipped else {})


def test_lists_and_objects_are_no_labels(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "images/0.png", "images/1.png", "images/2.png")
    put(
        source,
        "metadata.jsonl",
        '{"file_name": "images/0.png", "label": {"a": 1}}\n{"file_name": "images/1.png", "label": [1]}\n'
        '{"file_name": "images/2.png", "label": 0}\n',
    )
    summary, rows = imported(source)
    assert rows == {"train": [(2, "0")]}
    assert summary.skipped["row of metadata.jsonl without a label"] == 2


def test_tables_of_splits_and_labels_that_are_numbers(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "train/1.png", "train/2.png", "test/3.png", "test/4.png")
    put(source, "train/metadata.csv", "file_name,label\n1.png,2\n2.png,0.0\nlost.png,1\n")
    put(source, "test/metadata.csv", "file_name,label\n3.png,2\n4.png,\n")
    summary, found = imported(source)
    assert found == {"train": [(0, "2"), (1, "0")], "test": [(2, "2")]}
    assert summary.classes == 3
    assert summary.skipped == {
        "row of train/metadata.csv without an image": 1,
        "row of test/metadata.csv without a label": 1,
        "image that the table gives no label": 1,
    }


def test_lines_of_a_table_that_lack_a_column(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "images/1.png", "images/2.png", "images/3.png")
    put(source, "m.jsonl", '{"file_name": "1.png", "label": true}\n{"label": 2}\n{"file_name": "3.png"}\n')
    put(source, "images/x.csv", "file_name,label\n2.png\n\x00\n")
    summary, found = imported(source)
    assert found == {"train": [(0, "1")]}
    assert summary.skipped == {
        "row of images/x.csv without a label": 1,
        "row of images/x.csv without an image": 1,
        "row of m.jsonl without an image": 1,
        "row of m.jsonl without a label": 1,
        "image that the table gives no label": 2,
    }


def test_images_without_any_folder_and_a_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "1.png", "2.png")
    put(source, "labels.csv", "file_name,label\n1.png,b\n2.png,a\n")
    put(source, "sample_submission.csv", "file_name,label\n1.png,a\n2.png,a\n")
    assert imported(source)[1] == {"train": [(0, "b"), (1, "a")]}


def test_images_in_numbered_folders_and_a_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "images/000/1.png", "images/001/1.png")
    put(source, "labels.csv", "path,label\nimages/000/1.png,b\nimages/001/1.png,a\n")
    assert imported(source)[1] == {"train": [(0, "b"), (1, "a")]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,kind\n1.png,a\n",
            r"labels.csv has no columns file_name and label \(it has name, kind\). Call the columns",
        ),
        ("", r"labels.csv has no columns file_name and label \(it has no rows\)"),
        ("file_name,label\nx.png,a\n", r"labels.csv names none of the images in its column 'file_name'"),
        (b"file_name,label\n\xff\xfe,a\n", r"labels.csv cannot be read as a table in UTF-8"),
        ("file_name,label\n1.png,a\n1.png,b\n", r"labels.csv gives images/1.png the label 'b', and 'a' before"),
    ],
)
def test_a_table_that_is_of_no_use_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    source = folder_of(tmp_path / "in", "images/1.png", "images/2.png")
    put(source, "labels.csv", text)
    with pytest.raises(DataError, match=message):
        import_dataset(source, Store(f"{source}-out"), "imagefolder")


def test_damaged_tables_are_an_error_of_ours(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "images/1.png", "images/2.png")
    whole = {
        "labels.csv": b'file_name,label\n1.png,"a"\n2.png,b\n',
        "m.jsonl": b'{"file_name": "1.png", "label": 1}\n{"file_name": "2.png", "label": [2]}\n',
    }
    rng = random.Random(0)
    for _ in range(200):
        for name, text in whole.items():
            data = bytearray(text)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.choice(b'\0\n\r",;\t{}[]:\\\xff09ax')
            put(source, name, bytes(data))
        with contextlib.suppress(RaydvaeError):
            items = list(open_imagefolder(source, None).parts[""].scan())
            assert len(items) >= 2


def test_class_folders_count_before_a_table(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", "cat/1.png", "dog/2.png")
    put(source, "labels.csv", "file_name,label\n1.png,x\n2.png,y\n")
    assert imported(source)[1] == {"train": [(0, "cat"), (1, "dog")]}
    other = folder_of(tmp_path / "one", "cat/1.png")
    put(other, "notes.csv", "a,b\n1,2\n")  # of no use, and a class called cat needs none
    assert imported(other)[1] == {"train": [(0, "cat")]}


@pytest.mark.parametrize("names", [("images/1.png",), ("train/1.png", "test/2.png")])
def test_folders_called_as_no_class_is_are_doubted(tmp_path: Path, names: tuple[str, ...]) -> None:
    summary, _ = imported(folder_of(tmp_path / "in", *names))
    assert len(summary.notes) == 1
    assert "as the folders are called; if those are none, put the images into one folder a class" in summary.notes[0]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a.zip is a file, no folder of images. Unpack it"):
        import_dataset(str(tmp_path / "a.zip"), Store(str(tmp_path / "out")), "imagefolder")


def test_reasons_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MAX_REASONS", 2)
    source = folder_of(tmp_path / "in", "cat/1.png")
    for number in range(5):
        put(source, f"cat/x.e{number}", "text")
    assert imported(source)[0].skipped == {"no image (.e0)": 1, "no image (.e1)": 1, "other reasons": 3}
