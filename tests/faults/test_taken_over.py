"""A driver that is stopped for a while, taken over from, and then goes on: it writes nothing more and ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydvae.data import lease
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.purify.algorithm import purify
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes

DRIVER = """
import os, signal, sys
from raydvae.data import lease, manifest
from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.store import Store
from raydvae.errors import RaydvaeError
from raydvae.purify.algorithm import purify
from tests.conftest import small_config

source, out, moment, nth = sys.argv[1:]
lease._machine = lambda: "another"
write, left = Store.write, int(nth)

def stops(self, name, data):
    global left
    if f"{self.uri}/{name}".removeprefix(out).startswith(moment):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
    write(self, name, data)

Store.write = stops
data = open_dataset(source, small_config().data)
try:
    purify(data, find_classes(data), Store(out), small_config())
except RaydvaeError as error:
    print(error)
    raise SystemExit(error.exit_code)
"""


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """All files but the lease's, with the time they were last written."""
    found = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("driver.")]
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    data = open_dataset(str(digits_folder), small_config().data)
    purify(data, find_classes(data), Store(str(out)), small_config())
    return hashes(out)


@pytest.mark.parametrize(
    ("moment", "nth", "ends"),
    [
        ("/_raydvae/stage1/state", 2, True),
        ("/_raydvae/stage1/model", 1, False),
        ("/_raydvae/commits/pass1/", 2, False),
        ("/test-", 2, True),
        ("/_raydvae/summary", 3, False),
    ],
)
def test_a_driver_that_was_taken_over_writes_nothing_more(
    moment: str,
    nth: int,
    ends: bool,
    digits_folder: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", DRIVER, str(digits_folder), str(out), moment, str(nth)]
    root = Path(__file__).parents[2]
    stale = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        _, how = os.waitpid(stale.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how), "it ended before the moment came"
        monkeypatch.setattr(lease, "PATIENCE", 0.3)
        data = open_dataset(str(digits_folder), small_config().data)
        if ends:
            purify(data, find_classes(data), Store(str(out)), small_config())
            before, said = files(out), go_on(stale)
        else:
            with lease.Lease(Store(str(out / "_raydvae"))):
                before = files(out)
                said = go_on(stale)
    finally:
        stale.kill()
        assert stale.stdout is not None
        stale.stdout.close()
    assert "Another driver is at work" in said
    assert files(out) == before
    if ends:
        assert hashes(out) == undisturbed
        assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    shutil.rmtree(out)


def go_on(stale: subprocess.Popen[str]) -> str:
    """Let a stopped process go on, and return its last words once it has ended by itself."""
    os.kill(stale.pid, signal.SIGCONT)
    said, _ = stale.communicate(timeout=120)
    assert stale.returncode == 4, said
    return said
