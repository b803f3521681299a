"""Nothing is sent to an address that a stranger's file names, and no password of an address is kept or shown."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raydvae.cli.main import run
from raydvae.config import digits, to_dict
from raydvae.data.dataset import open_dataset
from raydvae.data.failures import hide
from raydvae.data.inspection import inspect_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.reports.collect import write_report
from tests.data.helpers import as_bytes, random_images, struct_table, write

TABLE = struct_table([as_bytes(image) for image in random_images(6)], [0, 1, 2, 0, 1, 2])


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A stranger's server: its address, and the headers of each request that it got."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/data", asked
    server.shutdown()
    server.server_close()


def stranger(folder: Path, uri: str, kind: str = "purify") -> Path:
    write(folder, TABLE)
    home = folder / "_raydvae"
    home.mkdir()
    known = {
        "format": 1,
        "versions": {},
        "kind": kind,
        "config": to_dict(digits()),
        "source": {"uri": uri, "files": [], "rows": 6},
    }
    (home / "run.json").write_text(json.dumps(known | {"classes": {"count": 3, "names": None}}))
    return folder


@pytest.mark.parametrize("prefix", ["", "simplecache::", "filecache::"])
def test_inspect_asks_nobody_a_run_names(
    prefix: str, tmp_path: Path, listener: tuple[str, list[dict[str, str]]]
) -> None:
    address, asked = listener
    folder = stranger(tmp_path / "data", prefix + address)
    about = inspect_dataset(str(folder), {})
    assert [step["source"] for step in about["lineage"]] == [prefix + address]
    assert asked == []


def test_options_go_to_the_store_that_they_were_given_for(
    tmp_path: Path, listener: tuple[str, list[dict[str, str]]]
) -> None:
    address, asked = listener
    secret = {"headers": {"Authorization": "Bearer of-secrets"}}
    store = Store("http://127.0.0.1:1/run", secret)
    assert store.beside(address) is None
    assert store.beside("http://127.0.0.1:1/other").options == secret  # type: ignore[union-attr]
    assert asked == []


@pytest.mark.parametrize(
    ("store", "named", "same"),
    [
        ("s3://bucket/run", "s3://bucket/source", True),
        ("s3://bucket/run", "s3://stranger/source", False),
        ("s3://bucket/run", "http://stranger/source", False),
        ("s3://bucket/run", "/etc", False),
        ("s3://bucket/run", "", False),
        ("/data/run", "/data/source", True),
        ("/data/run", "http://stranger/source", False),
        ("/data/run", "simplecache::http://stranger/source", False),
        ("s3://bucket/run", "s3://key:secret@bucket/source", False),
    ],
)
def test_what_lies_in_the_same_store(store: str, named: str, same: bool) -> None:
    found = Store(store, {"anon": True} if store.startswith("s3") else {}).beside(named)
    assert (found is not None and found.address == named) == same


def test_a_report_asks_nobody_a_run_names(tmp_path: Path, listener: tuple[str, list[dict[str, str]]]) -> None:
    address, asked = listener
    folder = stranger(tmp_path / "data", address)
    (folder / "_raydvae/summary.json").write_text(json.dumps({"complete": True, "rows_in": 6, "rows_out": 6}))
    assert write_report(Store(str(folder))).endswith("report.html")
    assert asked == []


def test_lineage_is_followed_within_a_store(tmp_path: Path) -> None:
    source = write(tmp_path / "in", TABLE)
    for before, after in (("in", "once"), ("once", "twice")):
        assert run(["defend", "bdr", str(tmp_path / before), str(tmp_path / after)]) == 0
    lineage = inspect_dataset(str(tmp_path / "twice"))["lineage"]
    assert [(step["kind"], step["source"]) for step in lineage] == [
        ("defend", str(tmp_path / "once")),
        ("defend", str(source)),
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://user:hidden@host/x", "ftp://***@host/x"),
        ("s3://AKIA:hid/den+x@bucket/a", "s3://***@bucket/a"),
        ("https://host/x?X-Amz-Signature=hidden&y=1", "https://host/x?X-Amz-Signature=***&y=1"),
        ("https://host/x?sv=1&sig=hidden", "https://host/x?sv=1&sig=***"),
        ('{"a": "s3://b/x", "c": "d:e@f"}', '{"a": "s3://b/x", "c": "d:e@f"}'),
        ("http://host:8080/path@x", "http://host:8080/path@x"),
        ("s3://bucket/user@domain/x", "s3://bucket/user@domain/x"),
    ],
)
def test_what_is_hidden_of_addresses(text: str, shown: str) -> None:
    assert hide(text) == shown


def test_a_password_of_an_address_is_neither_kept_nor_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Store("memory://user:hidden@host/secrets")
    write(tmp_path, TABLE)
    source.write("a.parquet", (tmp_path / "train-0.parquet").read_bytes())
    out = tmp_path / "out"
    assert run(["defend", "bdr", source.address, str(out), "--json"]) == 0
    assert run(["defend", "bdr", source.address, str(out), "--json"]) == 0  # the same run, gone on with
    assert run(["inspect", source.address]) == 0
    assert run(["defend", "bdr", source.address + "/none", str(out / "no")]) != 0
    assert "hidden" not in "".join(capsys.readouterr())
    for path in (out / "_raydvae").rglob("*"):
        assert path.is_dir() or b"hidden" not in path.read_bytes(), path
    assert open_dataset(source.address).rows == 6


def test_what_a_run_notes_of_itself_is_the_user_s_alone(tmp_path: Path) -> None:
    write(tmp_path / "in", TABLE)
    assert run(["defend", "bdr", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    home = tmp_path / "out/_raydvae"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.glob("*.json")}
    assert {"run.json", "driver.json"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert all(path.stat().st_mode & 0o044 for path in (tmp_path / "out").glob("*.parquet"))
    assert Run(Store(str(tmp_path / "out"))).exists()
