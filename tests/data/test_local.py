"""Listings of local folders: links are followed, each real folder once, and no link leads round in circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydvae.data.local import linked_folders, local_files
from raydvae.data.store import Store


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def link(at: Path, to: Path | str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to)


def test_a_folder_without_links_is_listed_as_fsspec_does(tmp_path: Path) -> None:
    files(tmp_path, "b/2", "b/1", "a/x/y", "a-b", "a/.h/z", "_w/q", ".top", "c.parquet")
    (tmp_path / "empty").mkdir()
    store = Store(str(tmp_path))
    cut = len(store.root) + 1
    expected = {path[cut:]: info["size"] for path, info in sorted(store.fs.find(store.root, detail=True).items())}
    assert list(store.list().items()) == list(expected.items())
    assert len(expected) == 8
    assert store.list("a") == {"a/.h/z": 6, "a/x/y": 5}
    assert store.list("a-b") == {"a-b": 3}
    assert store.list("nowhere") == store.list("empty") == {}


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    files(tmp_path, "out/deep/1", "out/2", "in/0")
    link(tmp_path / "in/more", "../out")
    link(tmp_path / "in/one", tmp_path / "out/2")
    assert local_files(str(tmp_path / "in")) == {"0": 4, "more/2": 5, "more/deep/1": 10, "one": 5}
    assert linked_folders(str(tmp_path / "in")) == {"more": str(tmp_path / "out")}
    link(tmp_path / "way", "in")
    assert Store(str(tmp_path / "way")).list() == Store(str(tmp_path / "in")).list()
    assert linked_folders(str(tmp_path / "way")) == {"more": str(tmp_path / "out")}


@pytest.mark.parametrize("to", [".", "..", "../../in", "/"], ids=["itself", "above", "round", "all"])
def test_loops_end(tmp_path: Path, to: str) -> None:
    files(tmp_path, "in/a/1")
    link(tmp_path / "in/a/loop", to if to != "/" else tmp_path)
    link(tmp_path / "in/b", "a")
    assert local_files(str(tmp_path / "in")) == {"a/1": 6}


def test_two_folders_that_link_to_each_other(tmp_path: Path) -> None:
    files(tmp_path, "x/1", "y/2")
    link(tmp_path / "x/y", "../y")
    link(tmp_path / "y/x", "../x")
    assert list(local_files(str(tmp_path / "x"))) == ["1", "y/2"]
    assert list(local_files(str(tmp_path))) == ["x/1", "y/2"]


def test_each_real_folder_is_there_once_and_visible_if_it_can_be(tmp_path: Path) -> None:
    files(tmp_path, "in/.v1/1", "in/real/2", "out/3")
    for name in ("data", "zdata"):
        link(tmp_path / "in" / name, ".v1")
    link(tmp_path / "in/also", "real")
    for name in ("m", "k"):
        link(tmp_path / "in" / name, "../out")
    link(tmp_path / "in/.hidden", "../out")
    assert list(local_files(str(tmp_path / "in"))) == ["data/1", "k/3", "real/2"]


def test_a_link_that_leads_nowhere_is_an_empty_file_and_a_pipe_is_none(tmp_path: Path) -> None:
    files(tmp_path, "a")
    link(tmp_path / "lost", "nowhere")
    link(tmp_path / "self", "self")
    os.mkfifo(tmp_path / "pipe")
    assert local_files(str(tmp_path)) == {"a": 1, "lost": 0, "self": 0}
