"""Any other fsspec store, here HTTP: the same reads with the same retries, one operation at a time."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data import retry
from raydvae.data.store import Store
from raydvae.errors import ConfigError, StorageError
from tests.s3 import Proxy


@pytest.fixture
def web(s3_proxy: Proxy) -> Store:
    """A bucket's objects as plain web pages."""
    bucket = s3_proxy.store()
    for number in range(20):
        bucket.fs.pipe_file(bucket.path(f"f{number}"), bytes([number]) * 100, ACL="public-read")
    bucket.fs.pipe_file(bucket.path("x.parquet"), _parquet(), ACL="public-read")
    return Store(f"{s3_proxy.url}/{bucket.root}")


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": range(1000)}), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize("kind", ["error", "reset", "cut"])
def test_reads_survive_faults_that_pass(s3_proxy: Proxy, web: Store, quick_retries: retry.Policy, kind: str) -> None:
    names = [f"f{number}" for number in range(20)]
    before = retry.count()
    s3_proxy.inject(kind, seed=3, rate=0.25, operations=("GetObject",))
    assert web.read_many(names) == {name: bytes([number]) * 100 for number, name in enumerate(names)}
    assert [web.read(name) for name in names] == [bytes([number]) * 100 for number in range(20)]
    assert web.read_spans([("f1", 1, 3), ("f2", 98, 100)]) == [b"\1\1", b"\2\2"]
    for _ in range(5):
        with web.open("x.parquet") as source:
            assert pq.read_table(source).num_rows == 1000
    assert web.exists("f1") and web.size("f1") == 100 and not web.exists("none")
    assert s3_proxy.injected[kind] > 3
    assert retry.count() > before


def test_what_does_not_pass_is_given_up(s3_proxy: Proxy, web: Store, quick_retries: retry.Policy) -> None:
    s3_proxy.inject("error", operations=("GetObject",))
    with pytest.raises(StorageError, match=r"Cannot read http://.*/f1: 8 tries in .* failed"):
        web.read("f1")
    s3_proxy.calm()
    s3_proxy.inject("cut", operations=("GetObject",))
    with pytest.raises(StorageError, match="8 tries in .* failed"):
        web.read_many(["f1", "f2"])
    s3_proxy.calm()
    before = retry.count()
    with pytest.raises(StorageError, match="no such file"):
        web.read("none")
    assert retry.count() == before


def test_options_that_a_file_system_does_not_take_are_named(web: Store) -> None:
    odd = Store(web.uri, {"nonsense": "a-value"})  # this one passes them on, and looks at them with the first request
    for call in (lambda: odd.read("f1"), lambda: Store("reference://x", {"nonsense": "a-value"})):
        with pytest.raises(ConfigError, match="with the storage options nonsense. Check their names") as caught:
            call()
        assert "a-value" not in str(caught.value)


def test_addresses_are_shown_without_their_passwords() -> None:
    store = Store("memory://user:hidden@host/x")
    assert "hidden" not in repr(store)
    with pytest.raises(StorageError) as caught:
        store.read("none")
    assert "hidden" not in str(caught.value)


def test_an_archive_that_is_not_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="cannot be opened: there is no such file"):
        Store("zip://x::/no/such/archive.zip")
