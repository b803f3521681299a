"""Purification while storage fails: from S3 to S3 through a proxy that injects faults, and onto a full disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from raydvae.config import PurifyConfig
from raydvae.data import retry
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.store import TEMPORARY, Store
from raydvae.data.units import Unit
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.errors import StorageError
from raydvae.purify.algorithm import Summary, purify
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes
from tests.s3 import Proxy, S3Server


def config() -> PurifyConfig:
    return small_config(epochs=1)


def run(source: Dataset, out: Store, engine: InProcess | None = None) -> Summary:
    return purify(source, find_classes(source), out, config(), engine or InProcess(threads=1))


def remote_hashes(out: Store) -> dict[str, str]:
    names = [name for name in out.list() if name.endswith(".parquet") and "/" not in name]
    return {name: hashlib.sha256(data).hexdigest() for name, data in out.read_many(names).items()}


class AfterFirstUnit(InProcess):
    """An engine during whose pass 1 something happens, once the first unit is committed; ``seen`` are all units."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        super().__init__(threads=1)
        self.happens = happens
        self.seen: list[str] = []

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        for number, record in enumerate(super().map(work, units)):
            self.seen.append(f"{work.name}/{record['unit']}")
            yield record
            if work.name == "pass1" and number == 0:
                self.happens()


@pytest.fixture(scope="module")
def digits60(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real digits in three shards."""
    folder = tmp_path_factory.mktemp("digits60")
    import_dataset("digits", Store(str(folder)), "digits", split="test", rows_per_shard=20, limit_per_class=6)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits60: Path) -> dict[str, str]:
    """What a run without any fault, on a local disk, makes."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(open_dataset(str(digits60), config().data), Store(str(out)))
    assert len(hashes(out)) == 3
    return hashes(out)


@pytest.fixture
def bucket(s3_server: S3Server, digits60: Path) -> str:
    """The URI of a bucket that holds the digits in ``in/``."""
    store = s3_server.store()
    for path in sorted(digits60.rglob("*")):
        if path.is_file():
            store.write(f"in/{path.relative_to(digits60)}", path.read_bytes())
    return store.uri


@pytest.mark.parametrize(
    ("kind", "rate", "operations"),
    [("error", 0.05, ()), ("cut", 0.2, ("GetObject",)), ("reset", 0.1, ())],
    ids=["5 % of requests fail", "bodies are cut", "connections are reset"],
)
def test_faults_that_pass_change_no_byte(
    s3_proxy: Proxy,
    quick_retries: retry.Policy,
    bucket: str,
    undisturbed: dict[str, str],
    kind: str,
    rate: float,
    operations: tuple[str, ...],
) -> None:
    before = retry.count()
    s3_proxy.inject(kind, seed=5, rate=rate, operations=operations)
    source = open_dataset(f"{bucket}/in", config().data, s3_proxy.options)
    out = Store(f"{bucket}/out", s3_proxy.options)
    summary = run(source, out)
    assert s3_proxy.injected[kind] >= 3
    assert retry.count() > before
    s3_proxy.calm()
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (60, 60, 0)
    assert remote_hashes(out) == undisturbed
    assert {name.split("/")[0] for name in out.list()} == {*undisturbed, "_raydvae"}


def test_a_key_revoked_in_the_middle_ends_the_run_which_a_good_key_goes_on_with(
    s3_server: S3Server, s3_proxy: Proxy, bucket: str, undisturbed: dict[str, str]
) -> None:
    source = open_dataset(f"{bucket}/in", config().data, s3_proxy.options)
    out = Store(f"{bucket}/out", s3_proxy.options)
    first = AfterFirstUnit(lambda: s3_proxy.inject("revoked"))
    with pytest.raises(StorageError, match="permission denied.*the key; what was committed is kept") as caught:
        run(source, out, first)
    assert caught.value.exit_code == 4
    kept = list(Store(f"{bucket}/out/_raydvae/commits/pass1", s3_server.options).list())
    assert [f"pass1/{name.removesuffix('.json')}" for name in kept] == first.seen and len(kept) == 1

    s3_proxy.calm()
    again = AfterFirstUnit()
    run(source, out, again)
    assert not set(first.seen) & set(again.seen), "a committed unit was done again"
    assert remote_hashes(out) == undisturbed


FULL_DISK = """
import json, os, sys
from pathlib import Path
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.errors import StorageError
from tests.faults.test_storage import AfterFirstUnit, config, hashes, run

source, out = open_dataset(sys.argv[1], config().data), Path(sys.argv[2])
ballast = out.parent / "ballast"

def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

first, again = AfterFirstUnit(fill), AfterFirstUnit()
try:
    run(source, Store(str(out)), first)
    raise SystemExit("the disk was not full")
except StorageError as error:
    said, code = str(error), error.exit_code
files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
ballast.unlink()
run(source, Store(str(out)), again)
print(json.dumps({"said": said, "code": code, "files": files, "first": first.seen, "again": again.seen,
                  "hashes": hashes(out)}))
"""


def small_disk(mount: Path) -> list[str]:
    """The start of a command that runs with a file system of 32 MiB at ``mount``, that nobody else sees."""
    start = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=32m tmpfs "{mount}" && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system (unshare -rm)")
    return start


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(
    digits60: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    command = [*small_disk(tmp_path), sys.executable, "-c", FULL_DISK, str(digits60), str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "the disk is full" in told["said"] and "what was committed is kept" in told["said"]
    assert told["code"] == StorageError.exit_code == 4
    assert not [name for name in told["files"] if Path(name).name.startswith(TEMPORARY)]
    kept = [name for name in told["files"] if name.startswith("_raydvae/commits/pass1/")]
    assert [f"pass1/{Path(name).stem}" for name in kept] == told["first"] and len(kept) == 1
    assert not set(told["first"]) & set(told["again"]), "a committed unit was done again"
    assert told["hashes"] == undisturbed
