"""Storage: atomic writes, names that stay inside, one behavior on disks and object stores, clear errors."""

from __future__ import annotations

import errno
import os
import pickle
import uuid
from pathlib import Path

import pytest

from raydvae.data.store import Store, absolute, checksum
from raydvae.errors import ConfigError, StorageError


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def test_reads_back_what_was_written(store: Store) -> None:
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    store.write("c.bin", b"")
    store.write_json("d.json", {"x": [1, 2.5, None]})
    assert store.read("a/b.bin") == b"two"
    assert store.read("c.bin") == b""
    assert store.read_json("d.json") == {"x": [1, 2.5, None]}
    assert {name: size for name, size in store.list().items() if name != "d.json"} == {"a/b.bin": 3, "c.bin": 0}
    assert list(store.list("a")) == ["a/b.bin"]
    assert store.list("nowhere") == {}
    with store.open("a/b.bin") as file:
        file.seek(1)
        assert file.read() == b"wo"


def test_sub_delete_and_exists(store: Store) -> None:
    store.sub("x").write("y/z", b"1")
    assert store.exists("x/y/z")
    assert store.is_file("x/y/z")
    assert not store.is_file("x/y")
    store.delete("x")
    assert not store.exists("x/y/z")
    store.delete("x")  # nothing there: nothing happens


def test_reads_many_files_and_parts_in_the_order_asked(store: Store) -> None:
    names = ["b", "a", "photo [1].jpg", "what?.jpg", "star*.jpg"]
    for number, name in enumerate(names):
        store.write(name, bytes([number]) * 4 + b"tail")
    assert store.read_many(names) == {name: bytes([number]) * 4 + b"tail" for number, name in enumerate(names)}
    assert store.read_spans([("a", 3, 5), ("b", 0, 1), ("a", 0, 1)]) == [b"\x01t", b"\x00", b"\x01"]
    assert store.read_many([]) == {}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a\0b"])
def test_names_cannot_leave_the_root(store: Store, name: str) -> None:
    for action in (store.path, store.read, store.exists, store.delete, store.sub, lambda n: store.write(n, b"")):
        with pytest.raises(StorageError, match="leads out of"):
            action(name)


def test_missing_files_are_named(store: Store) -> None:
    with pytest.raises(StorageError, match=r"Cannot read .*nothing\.bin: there is no such file"):
        store.read("nothing.bin")
    with pytest.raises(StorageError, match=r"nothing\.bin"):
        store.read_many(["nothing.bin"])
    store.write("bad.json", b"{")
    with pytest.raises(StorageError, match=r"bad\.json is not valid JSON"):
        store.read_json("bad.json")


def test_a_store_survives_pickling(store: Store) -> None:
    store.write("x", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read("x") == b"1"
    assert (copy.uri, copy.options) == (store.uri, store.options)


def test_options_are_never_shown() -> None:
    assert "secret" not in repr(Store("memory://x", {"key": "secret"}))


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failing_write_keeps_the_old_content_and_leaves_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = Store(str(tmp_path))
    store.write("a.parquet", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(StorageError, match="the disk is full.*run the same command again"):
            store.write("a.parquet", b"new")
    assert store.read("a.parquet") == b"old"
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_interrupting_a_write_leaves_no_stray_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Store(str(tmp_path)).write("a", b"new")
    assert os.listdir(tmp_path) == []


def test_no_half_written_file_is_ever_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    original = os.fsync

    def look(handle: int) -> None:
        seen.append([name for name in os.listdir(tmp_path) if not name.startswith(".")])
        original(handle)

    monkeypatch.setattr(os, "fsync", look)
    Store(str(tmp_path)).write("a.parquet", b"x" * 10**6)
    assert seen == [[]]
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_long_names_in_any_script_can_be_written(tmp_path: Path) -> None:
    name = "\u6f22" * 80  # 240 bytes, close to what file systems allow
    store = Store(str(tmp_path))
    store.write(name, b"1")
    assert store.read(name) == b"1"


def test_a_file_where_a_folder_is_needed_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Cannot write"):
        Store(str(tmp_path)).write("file/x", b"1")


@pytest.mark.parametrize("uri", ["", "nosuchscheme://x"])
def test_unusable_addresses_are_configuration_errors(uri: str) -> None:
    with pytest.raises(ConfigError):
        Store(uri)


def test_addresses_mean_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("x") == str(tmp_path / "x")
    assert absolute("s3://bucket/x/") == "s3://bucket/x"
    assert absolute("memory://") == "memory://"
    assert absolute("file:///") == "file:///"


def test_checksum_is_sha256() -> None:
    assert checksum(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
