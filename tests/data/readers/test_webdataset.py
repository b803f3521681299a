"""WebDataset files as people have them: keys and extensions as the `webdataset` library has them, and damage."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from raydvae.data.dataset import open_dataset
from raydvae.data.importing import ImportSummary, import_dataset
from raydvae.data.readers import webdataset
from raydvae.data.schema import class_names
from raydvae.data.store import Store
from raydvae.errors import DataError, RaydvaeError
from tests.data.helpers import as_bytes, random_images

IMAGES = [as_bytes(image) for image in random_images(8)]
Members = list[tuple[str, bytes]]


def tar_of(path: Path, members: Members, mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def samples(*labels: bytes, key: str = "{}", image: str = "png", label: str = "cls") -> Members:
    """Return members of a sample for each label, the i-th with ``IMAGES[i]``."""
    out: Members = []
    for number, text in enumerate(labels):
        name = key.format(number)
        out += [(f"{name}.{image}", IMAGES[number]), (f"{name}.{label}", text)]
    return out


def imported(source: str, split: str | None = None) -> tuple[ImportSummary, list[tuple[str, int, str]]]:
    """Return the summary, and each row's path, image (place in ``IMAGES``) and class name."""
    out = Store(f"{source}-out")
    summary = import_dataset(source, out, "webdataset", split=split)
    dataset = open_dataset(out.uri)
    table = pa.concat_tables([dataset.read(unit) for unit in dataset.units()])
    names = class_names(table.schema, "label") or ()
    pairs = zip(table.column("image").to_pylist(), table.column("label").to_pylist(), strict=True)
    return summary, [(value["path"], IMAGES.index(value["bytes"]), names[label]) for value, label in pairs]


@pytest.mark.parametrize("image", ["png", "JPG", "Jpeg", "webp", "bmp", "gif", "tif", "TIFF", "avif", "ppm"])
@pytest.mark.parametrize("key", ["{:05}", "x/{}", "./a.b/c.d/{}", "été-{}"])
def test_keys_become_paths(tmp_path: Path, image: str, key: str) -> None:
    source = tar_of(tmp_path / "a.tar", samples(b"2", b"0\n", key=key, image=image))
    assert imported(source)[1] == [(key.format(0), 0, "2"), (key.format(1), 1, "0")]


@pytest.mark.parametrize("name", ["a.tar.gz", "A.TGZ"])
def test_compressed_files_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydvae.data.importing.GROUP_ROWS", 2)
    members = samples(b"2", b"0", b"1", b"1", b"0")
    tar_of(tmp_path / "in" / name, members, "w:gz")
    tar_of(tmp_path / "in" / "b.tar", members[:4])
    expected = [("0", 0, "2"), ("1", 1, "0"), ("2", 2, "1"), ("3", 3, "1"), ("4", 4, "0"), ("0", 0, "2"), ("1", 1, "0")]
    assert imported(str(tmp_path / "in"))[1] == expected
    assert imported(str(tmp_path / "in" / name))[1] == expected[:5]


def test_a_compressed_file_under_another_name_is_named(tmp_path: Path) -> None:
    source = tar_of(tmp_path / "a.tar", samples(b"0"), "w:gz")
    with pytest.raises(DataError, match=r"a.tar is not a readable .tar file: .*; call it .tar.gz"):
        imported(source)
    source = tar_of(tmp_path / "b.tar.bz2", samples(b"0"), "w:bz2")
    with pytest.raises(DataError, match=r"b.tar.bz2 is not .*; it is bzip2 data: unpack it, or pack it as .tar.gz"):
        imported(source)


def test_texts_are_class_names(tmp_path: Path) -> None:
    tar_of(tmp_path / "in" / "train-0.tar", samples(b"dog\n", b" cat ", b"7"))
    tar_of(tmp_path / "in" / "train-1.tar", samples("été".encode(), b"dog", b""))
    tar_of(tmp_path / "in" / "test-0.tar", samples(b"cat"))
    summary, found = imported(str(tmp_path / "in"), "train")
    assert [name for _, _, name in found] == ["dog", "cat", "7", "été", "dog"]
    assert summary.classes == 4
    assert summary.notes == ("labels are texts: the sorted texts are the classes",)
    assert summary.skipped == {"label that is empty or has more than 200 letters": 1}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0], ["1", "0"]),
        ([1.0, True], ["1", "1"]),
        (["1", "0"], ["1", "0"]),
        (["dog", "cat"], ["dog", "cat"]),
    ],
)
def test_labels_in_json(tmp_path: Path, labels: list[object], names: list[str]) -> None:
    texts = [json.dumps({"label": label, "caption": "x"}).encode() for label in labels]
    source = tar_of(tmp_path / "a.tar", samples(*texts, label="json"))
    assert [name for _, _, name in imported(source)[1]] == names


def test_why_samples_are_skipped(tmp_path: Path) -> None:
    members = [
        *samples(b"1"),
        ("a.jpg", b"x"),
        ("a.json", b'{"url": 1, "caption": "\\u001b[31m", "\\u001b": 2}'),
        ("b.jpg", b"x"),
        ("b.json", b'{"class": 3'),
        ("c.jpg", b"x"),
        ("c.json", b"[1]"),
        ("d.jpg", b"x"),
        ("d.txt", b"a caption is no label"),
        ("e.seg.png", b"x"),
        ("e.cls", b"1"),
        ("f.jpg", b"x"),
        ("f.cls", b"\xff\xfe"),
        ("g.jpg", b"x"),
        ("g.PNG", b"x"),
        ("g.cls", b"1"),
        ("._h.jpg", b"x"),
        ("README", b"x"),
        ("__meta__/x.jpg", b"x"),
        ("i.jpg", b"x"),
        ("i.seg.png", b"a mask"),
        ("i.seg.json", b"of it"),
        ("i.cls", b"one"),
        ("j.jpg", b"x"),
        ("j.cls", b"1.5"),
    ]
    summary, found = imported(tar_of(tmp_path / "a.tar", members))
    assert found == [("0", 0, "1")]
    assert summary.skipped == {
        '.json without "label" (it has \\x1b, caption, url)': 1,
        ".json that cannot be read": 1,
        '.json without "label" (it has no names)': 1,
        "sample without a label (.cls or .json)": 1,
        "sample without an image (it has cls, seg.png)": 1,
        ".cls that cannot be read": 1,
        "sample with several images (jpg, png)": 1,
        "hidden file": 1,
        "member without an extension": 1,
        "label that is not a whole number from 0 to 99999": 2,
    }


def test_links_in_a_tar_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in samples(b"1"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0.png"
        tar.addfile(link)
    assert imported(str(path))[0].skipped == {"member that is a link or no plain file": 1}


# Samples that would overwrite each other


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.jpg", b"x"), ("0.JPG", b"y"), ("0.cls", b"1")], r"0.jpg and 0.JPG in one sample.* 'jpg' of key '0'"),
        (samples(b"0", b"1", key="same"), r"same.png and same.png in one sample.* 'png' of key 'same'"),
        ([("a/x\n.jpg", b"x"), ("a/x\n.jpg", b"y")], r"a/x\\n.jpg and a/x\\n.jpg in one sample"),
        (
            samples(b"0", b"1", key="a.b.{:06}"),
            r"2 samples under one key, 'a': a.b.000000.png, a.b.000000.cls, .* first dot",
        ),
        (samples(b"0", b"1", key="d.x/22.{:02}"), r"2 samples under one key, 'd.x/22'"),
        (
            samples(b"0") + samples(b"1", key="0.{}"),
            r"2 samples under one key, '0': 0.png, 0.cls, 0.0.png, 0.0.cls. A key",
        ),
        (samples(b"{}", b"{}", key="v1.{}", label="json"), r"2 samples under one key, 'v1'"),
        (
            [(f"{i}.png", IMAGES[i]) for i in range(3)] + [(f"{i}.cls", b"0") for i in range(3)],
            r"not sorted by key: members of '0' lie apart.*tar --sort=name",
        ),
        ([*samples(b"0", b"1"), ("0.json", b"{}")], r"not sorted by key: members of '0' lie apart"),
    ],
)
def test_members_of_unclear_samples_are_named(tmp_path: Path, members: Members, message: str) -> None:
    source = tar_of(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=rf"a.tar .*{message}"):
        imported(source)
    assert Store(f"{source}-out").list() == {}


def test_equal_keys_of_whole_samples_are_all_rows(tmp_path: Path) -> None:
    tar_of(tmp_path / "in" / "a.tar", samples(b"0", b"1") + samples(b"2"))
    tar_of(tmp_path / "in" / "b.tar", samples(b"1"))
    assert imported(str(tmp_path / "in"))[1] == [("0", 0, "0"), ("1", 1, "1"), ("0", 0, "2"), ("0", 0, "1")]


# Damage


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = Path(tar_of(tmp_path / "a.tar", samples(b"0", b"1"))).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    with tarfile.open(tmp_path / "a.tar") as tar:
        headers = [member.offset for member in tar]
    for size in {*range(1, end, 311), *headers[1:], end, end - 1}:
        (tmp_path / "a.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a.tar (is not a readable .tar file|has no end mark|is damaged)"):
            imported(str(tmp_path / "a.tar"))
    (tmp_path / "a.tar").write_bytes(whole[: end + 512])
    assert imported(str(tmp_path / "a.tar"))[0].rows == 2


def test_a_cut_compressed_file_is_refused(tmp_path: Path) -> None:
    path = Path(tar_of(tmp_path / "a.tar.gz", samples(b"0", b"1"), "w:gz"))
    whole = path.read_bytes()
    for size in range(20, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a.tar.gz is not a readable .tar file"):
            imported(str(path))


def test_a_damaged_header_does_not_end_the_file(tmp_path: Path) -> None:
    path = Path(tar_of(tmp_path / "a.tar", samples(b"0", b"1", b"2")))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    data = bytearray(path.read_bytes())
    data[third + 5] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=rf"a.tar is damaged at byte {third}"):
        imported(str(path))


def test_files_that_were_joined_are_refused(tmp_path: Path) -> None:
    parts = [Path(tar_of(tmp_path / f"{n}.tar", samples(b"0", key=n))).read_bytes() for n in ("x", "y")]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match="has more behind its end, two files in one"):
        imported(str(tmp_path / "a.tar"))


def test_a_header_that_promises_gigabytes_is_not_believed(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
    with pytest.raises(DataError, match="is not a readable .tar file: a header of 8589934592 bytes"):
        imported(str(tmp_path / "a.tar.gz"))


def test_damage_of_any_kind_is_an_error_of_ours(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = {"a.tar": "w", "b.tar.gz": "w:gz"}
    labels = [b'{"label": 1}', b'{"label": "a"}']
    whole = {
        n: Path(tar_of(tmp_path / n, samples(*labels, label="json"), mode)).read_bytes() for n, mode in names.items()
    }
    slowest = 0.0
    for _ in range(300):
        name = rng.choice(list(whole))
        data = bytearray(whole[name])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data) if name != "a.tar" else 4096)] = rng.randrange(256)
        (tmp_path / name).write_bytes(bytes(data))
        begun = time.monotonic()
        try:
            source = webdataset.open_webdataset(str(tmp_path / name), None).parts[""]
            list(source.scan())
        except RaydvaeError:
            pass
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 5
