"""The store on a real S3 server: few requests, nothing stale, nothing half, clear errors, no secrets."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import random
import socket
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data import retry, s3
from raydvae.data.failures import hide
from raydvae.data.store import Store
from raydvae.errors import ConfigError, StorageError
from tests.s3 import PAGE, Proxy, S3Server


def test_reads_back_what_was_written(s3_server: S3Server) -> None:
    store = s3_server.store().sub("a folder")
    names = ["b", "a/c", "photo [1].jpg", "what?.jpg", "star*.jpg", "50 % + ü.jpg"]
    for number, name in enumerate(names):
        store.write(name, bytes([number]) * 4 + b"tail")
    store.write("empty", b"")
    assert store.read_many(names) == {name: bytes([number]) * 4 + b"tail" for number, name in enumerate(names)}
    assert store.read("empty") == b""
    assert store.read_spans([("a/c", 3, 5), ("b", 0, 1), ("b", 2, 2), ("b", 7, 8)]) == [b"\x01t", b"\0", b"", b"l"]
    assert store.list() == dict.fromkeys(sorted(names), 8) | {"empty": 0}
    assert (store.exists("a"), store.is_file("a"), store.is_file("a/c"), store.size("b")) == (True, False, True, 8)
    assert (store.exists(), store.exists("c"), store.exists("a/")) == (True, False, True)
    store.delete("a")
    store.delete("a")
    assert not store.exists("a/c") and store.exists("b")


def test_a_listing_is_one_request_a_page_and_looks_at_no_object(s3_proxy: Proxy) -> None:
    store = s3_proxy.store()
    count = 8 * PAGE + 1
    store.fs.pipe({f"{store.root}/deep/{number % 3}/{number:05d}": b"x" for number in range(count)})
    s3_proxy.calm()
    assert len(store.list("deep")) == count
    assert s3_proxy.requests == {"ListObjectsV2": 9}
    s3_proxy.calm()
    store.delete("deep")
    assert store.list() == {}
    assert s3_proxy.requests["DeleteObjects"] == 1 and "DeleteObject" not in s3_proxy.requests


def test_the_number_of_requests_of_each_call(s3_proxy: Proxy) -> None:
    store = s3_proxy.store()

    def requests_of(call: object) -> dict[str, int]:
        s3_proxy.calm()
        call()  # type: ignore[operator]
        return dict(s3_proxy.requests)

    assert requests_of(lambda: store.write("a/b", b"123")) == {"PutObject": 1}
    assert requests_of(lambda: store.read("a/b")) == {"GetObject": 1}
    assert requests_of(lambda: store.read_spans([("a/b", 0, 1), ("a/b", 1, 2)])) == {"GetObject": 2}
    assert requests_of(lambda: store.exists("a/b")) == {"HeadObject": 1}
    assert requests_of(lambda: store.exists("a")) == {"HeadObject": 1, "ListObjectsV2": 1}
    assert requests_of(lambda: store.exists("no")) == {"HeadObject": 1, "ListObjectsV2": 1}
    assert requests_of(lambda: store.is_file("a/b")) == {"HeadObject": 1}


def test_what_another_process_wrote_or_deleted_is_seen_at_once(s3_server: S3Server) -> None:
    mine = s3_server.store()
    bucket = mine.uri.removeprefix("s3://")
    other = Store(mine.uri, mine.options | {"use_ssl": False, "max_concurrency": 3})
    assert other.fs is not mine.fs, "another connection with a memory of its own"
    assert mine.list() == {} and not mine.exists("a/x") and not mine.is_file("a/x")
    other.write("a/x", b"1")
    assert mine.list() == {"a/x": 1} and mine.exists("a") and mine.is_file("a/x")
    other.write("a/x", b"22")
    assert mine.list() == {"a/x": 2} and mine.size("a/x") == 2 and mine.read("a/x") == b"22"
    other.delete("a")
    assert mine.list() == {} and not mine.exists("a") and not mine.is_file("a/x")
    assert not mine.fs.dircache.get(bucket)


def test_objects_that_a_bulk_delete_leaves_are_noticed(s3_proxy: Proxy, quick_retries: retry.Policy) -> None:
    store = s3_proxy.store()
    store.write("folder/x", b"1")
    s3_proxy.inject("not allowed", operations=("DeleteObjects",))
    with pytest.raises(StorageError, match=r"Cannot delete .*folder: permission denied \(Access Denied\)"):
        store.delete("folder")
    s3_proxy.calm()
    s3_proxy.inject("not deleted", times=2, operations=("DeleteObjects",))
    store.delete("folder")
    assert store.list() == {}


def test_markers_of_empty_folders_are_no_files(s3_server: S3Server) -> None:
    store = s3_server.store()
    store.fs.call_s3("put_object", Bucket=store.root, Key="data/", Body=b"")
    store.fs.call_s3("put_object", Bucket=store.root, Key="data/sub/", Body=b"")
    store.write("data/x", b"1")
    assert store.list() == {"data/x": 1}
    assert store.sub("data").list() == {"x": 1}


@pytest.mark.parametrize("kind", ["error", "reset", "cut"])
def test_every_call_survives_faults_that_pass(s3_proxy: Proxy, quick_retries: retry.Policy, kind: str) -> None:
    store = s3_proxy.store()
    names = [f"f{number:03d}" for number in range(30)]
    data = {name: os.urandom(200) for name in names}
    before = retry.count()
    s3_proxy.inject(kind, seed=7, rate=0.25)
    for name, each in data.items():
        store.write(name, each)
    assert store.read_many(names) == data
    assert {name: store.read(name) for name in names} == data
    assert store.read_spans([(name, 10, 20) for name in names]) == [data[name][10:20] for name in names]
    assert store.list() == dict.fromkeys(names, 200)
    assert all(store.exists(name) and store.is_file(name) for name in names[:5])
    store.delete("f000")
    assert store.list() == dict.fromkeys(names[1:], 200)
    assert s3_proxy.injected[kind] > 10
    assert retry.count() > before


def test_only_what_failed_is_fetched_again(s3_proxy: Proxy, quick_retries: retry.Policy) -> None:
    store = s3_proxy.store()
    names = [f"f{number}" for number in range(20)]
    for name in names:
        store.write(name, name.encode())
    s3_proxy.calm()
    s3_proxy.inject("slow down", times=3)
    assert store.read_many(names) == {name: name.encode() for name in names}
    assert s3_proxy.requests == {"GetObject": 23}


def test_parquet_and_tar_are_read_through_cut_connections(
    s3_proxy: Proxy, quick_retries: retry.Policy, tmp_path: Path
) -> None:
    store = s3_proxy.store()
    table = pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 300_000), "y": np.arange(300_000)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=50_000, compression="none")
    store.write("t.parquet", (tmp_path / "t.parquet").read_bytes())
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "t.parquet", "inside.parquet")
    store.write("t.tar", (tmp_path / "t.tar").read_bytes())
    s3_proxy.inject("cut", seed=1, rate=0.3, operations=("GetObject",))
    with store.open("t.parquet") as source, pq.ParquetFile(source) as file:
        assert file.metadata.num_row_groups == 6
        assert pa.concat_tables([file.read_row_group(group) for group in range(6)]).equals(table)
    with store.open("t.tar") as source, tarfile.open(fileobj=source, mode="r:") as tar:
        member = tar.extractfile("inside.parquet")
        assert member is not None and member.read() == (tmp_path / "t.parquet").read_bytes()
    assert s3_proxy.injected["cut"] >= 2


def test_a_body_that_is_always_cut_is_an_error_and_never_data(s3_proxy: Proxy, quick_retries: retry.Policy) -> None:
    store = s3_proxy.store()
    pq.write_table(pa.table({"x": range(1000)}), sink := pa.BufferOutputStream())
    store.write("x.parquet", sink.getvalue().to_pybytes())
    s3_proxy.inject("cut", operations=("GetObject",))
    for call in (
        lambda: store.read("x.parquet"),
        lambda: store.read_many(["x.parquet"]),
        lambda: store.read_spans([("x.parquet", 0, 100)]),
        lambda: pq.ParquetFile(store.open("x.parquet")),
    ):
        with pytest.raises(StorageError, match=r"Cannot read s3://.*x\.parquet: 8 tries in .* failed.*run the same"):
            call()


def test_parts_beyond_the_end_are_an_error(s3_server: S3Server, quick_retries: retry.Policy) -> None:
    store = s3_server.store()
    store.write("x", b"12345")
    with pytest.raises(StorageError, match="only 2 of 7 bytes"):
        store.read_spans([("x", 3, 10)])
    with pytest.raises(StorageError, match="Cannot read"):
        store.read_spans([("x", 30, 40)])


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(s3_server: S3Server) -> None:
    store = s3_server.store()
    store.write("x", bytes(3 * 2**20))
    with store.open("x") as file:
        file.read(10)
        store.write("x", b"1" * (3 * 2**20))
        file.seek(2 * 2**20)
        with pytest.raises(StorageError, match="Cannot read"):
            file.read(2**20)


@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
def test_large_files_are_uploaded_in_parts_and_appear_whole(
    s3_proxy: Proxy, quick_retries: retry.Policy, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr(s3, "PART", 5 * 2**20)  # the least that S3 allows
    store, data = s3_proxy.store(), np.random.default_rng(0).bytes(11 * 2**20)
    store.write("x", b"old")
    s3_proxy.inject("revoked", operations=(operation,))
    with pytest.raises(StorageError, match="permission denied"):
        store.write("x", data)
    assert (store.read("x"), store.fs.list_multipart_uploads(store.root)) == (b"old", [])
    assert s3_proxy.requests["AbortMultipartUpload"] == 1
    s3_proxy.calm()
    s3_proxy.inject("error", times=2, operations=(operation,))
    store.write("x", data)
    assert store.read("x") == data
    assert s3_proxy.requests["UploadPart"] == 3 + 2 * (operation == "UploadPart"), "only failed parts are sent again"


@pytest.mark.parametrize("kind", ["reset", "upload lost"])
def test_an_upload_whose_completion_got_no_answer_is_whole_too(
    s3_proxy: Proxy, quick_retries: retry.Policy, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(s3, "PART", 5 * 2**20)
    store, data = s3_proxy.store(), np.random.default_rng(0).bytes(10 * 2**20)
    seed = next(n for n in range(100) if _second_draw(n) >= 0.5)  # resets after the server did it
    # Completing twice is fine with some stores; others know the upload no more.
    s3_proxy.inject(kind, seed=seed, times=1, operations=("CompleteMultipartUpload",))
    store.write("x", data)
    assert store.read("x") == data
    assert s3_proxy.requests["UploadPart"] == {"reset": 2, "upload lost": 4}[kind]
    assert store.fs.list_multipart_uploads(store.root) == []


def _second_draw(seed: int) -> float:
    draw = random.Random(seed)
    draw.random()
    return draw.random()


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    store = Store("s3://no-such-bucket/folder", s3_server.options)
    before = retry.count()
    for call in (
        lambda: store.list(),
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.exists("x"),
        lambda: store.open("x"),
    ):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/folder.*bucket does not exist.*Create it"):
            call()
    assert retry.count() == before
    assert not Store("s3://no-such-bucket", s3_server.options).exists()


def test_a_refused_key_is_final_and_is_not_taken_for_a_missing_file(s3_proxy: Proxy) -> None:
    store = s3_proxy.store()
    store.write("x", b"1")
    s3_proxy.calm()
    s3_proxy.inject("revoked")
    calls = [
        lambda: store.list(),
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.exists("x"),
        lambda: store.is_file("x"),
        lambda: store.delete("x"),
        lambda: store.open("x"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"permission denied \(.*\). Check the rights or the key"):
            call()
    assert s3_proxy.requests.total() == len(calls)


def test_an_endpoint_that_nobody_listens_at_is_named(quick_retries: retry.Policy) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        store = Store("s3://bucket/x", {"endpoint_url": url, "key": "a-key", "secret": "a-secret"})
        with pytest.raises(StorageError, match=f"8 tries in .*{url}.*Check the network, the endpoint") as caught:
            store.list()
    assert "a-secret" not in str(caught.value)


def test_a_server_that_stops_answering_is_given_up(s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3_proxy.store()
    store.write("x", b"1")
    monkeypatch.setattr(retry, "POLICY", retry.Policy(tries=3, first=0.01, hung=0.2))
    s3_proxy.calm()
    s3_proxy.inject("slow", seconds=30.0, times=1)
    assert store.read("x") == b"1"
    s3_proxy.inject("slow", seconds=30.0)
    with pytest.raises(StorageError, match="3 tries"):
        store.read("x")


def test_options_that_s3_does_not_have_are_named(s3_server: S3Server) -> None:
    for name in ("anonymous", "endpoint", "loop"):
        with pytest.raises(ConfigError, match=f"no storage option '{name}'.*endpoint_url, anon, profile"):
            Store("s3://bucket", {name: "a-value"})
    with pytest.raises(ConfigError, match="'secret' must be text") as caught:
        Store("s3://bucket", {"secret": 12345})
    assert "12345" not in str(caught.value)
    with pytest.raises(StorageError, match=r"nobody.* could not be found"):
        Store("s3://bucket", {"profile": "nobody"}).list()


def test_endpoint_and_keys_may_come_from_the_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3_server.store()
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    with pytest.raises(StorageError, match=r"credentials.*anon=true"):
        Store(bucket.uri, {"max_concurrency": 2}).list()
    anonymous = Store(bucket.uri, {"anon": True})
    anonymous.fs.call_s3("put_bucket_acl", Bucket=bucket.root, ACL="public-read-write")
    assert anonymous.list() == {}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    store = Store(bucket.uri, {"max_concurrency": 3})
    store.write("x", b"1")
    assert bucket.read("x") == b"1"


def test_no_secret_is_in_errors_logs_or_representations(
    s3_proxy: Proxy, quick_retries: retry.Policy, caplog: pytest.LogCaptureFixture
) -> None:
    secret = s3_proxy.options["secret"]
    store = s3_proxy.store()
    s3_proxy.inject("error", times=3)
    s3_proxy.inject("talkative")
    with caplog.at_level(logging.DEBUG, logger="raydvae"), pytest.raises(StorageError, match="Not the sig") as caught:
        store.list()
    assert len(caplog.records) == 3
    assert secret not in "".join([repr(store), str(caught.value), caplog.text])
    assert hide(f"x {secret} y", {"client_kwargs": {"aws_secret_access_key": secret}}) == "x *** y"
    assert hide("https://user:hidden@host/x?y=a@b") == "https://***@host/x?y=a@b"


def test_a_pickled_store_carries_no_connection_and_works_elsewhere(s3_server: S3Server) -> None:
    store = s3_server.store()
    store.write("x", b"1")
    assert set(store.__reduce__()[1][1]) == set(s3_server.options)
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def _read_in_child(store: Store, name: str) -> None:
    os._exit(0 if store.read(name) == b"1" and Store(store.uri, store.options).read(name) == b"1" else 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_gets_connections_of_its_own(s3_server: S3Server, method: str) -> None:
    store = s3_server.store()
    store.write("x", b"1")
    child = multiprocessing.get_context(method).Process(target=_read_in_child, args=(store, "x"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert store.read("x") == b"1", "the parent's connections still work"


def test_reading_uses_the_file_s_own_bytes_only(s3_proxy: Proxy) -> None:
    store = s3_proxy.store()
    store.write("x", bytes(range(256)))
    with store.open("x") as file:
        assert (file.readable(), file.seekable(), file.tell()) == (True, True, 0)
        assert file.read(3) == b"\0\1\2" and file.tell() == 3
        assert file.seek(-2, os.SEEK_END) == 254 and file.read() == b"\xfe\xff" and file.read(5) == b""
        buffer = bytearray(4)
        file.seek(1)
        assert file.readinto(buffer) == 4 and buffer == b"\1\2\3\4"
    assert file.closed
    assert s3_proxy.requests["GetObject"] <= 3, "what was read in advance is not asked for again"
