from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raydvae.data import lease as module
from raydvae.data.lease import FILE, Lease, read_holder
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import Silent, held
from raydvae.errors import Interrupted, StorageError

HOLD = """
import sys, time
from raydvae.data.lease import Lease
from raydvae.data.store import Store
with Lease(Store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_driver_is_not_disturbed_and_a_killed_one_is_taken_over_from_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with (
        pytest.raises(StorageError, match=f"Another driver is at work.*process {process.pid}"),
        Lease(Store(str(tmp_path))),
    ):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Lease(Store(str(tmp_path))):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert json.loads((tmp_path / FILE).read_text())["state"] == "done"


def test_a_second_driver_in_the_same_process_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Lease(store), pytest.raises(StorageError, match="Another driver"), Lease(store):
        pass


def test_of_drivers_that_start_at_once_one_works(tmp_path: Path) -> None:
    gate, working, refused = threading.Barrier(4), [], []

    def drive(number: int) -> None:
        gate.wait()
        try:
            with Lease(Store(str(tmp_path))):
                working.append(number)
                done.wait(30)
        except StorageError:
            refused.append(number)
            if len(refused) == 3:
                done.set()

    done = threading.Event()
    threads = [threading.Thread(target=drive, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(working), len(refused)) == (1, 3)


def elsewhere(store: Store) -> dict[str, object]:
    note = {"machine": "another", "host": "far", "pid": 1, "id": "theirs", "state": "running", "renewed": 1.0}
    store.write_json(FILE, note)
    return note


def test_a_silent_driver_elsewhere_is_waited_for_then_taken_over_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    store = Store(str(tmp_path))
    note = elsewhere(store)
    with Lease(store):
        pass
    store.write_json(FILE, note)
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    timer = threading.Timer(0.5, lambda: store.write_json(FILE, note | {"renewed": 2.0}))
    timer.start()
    with pytest.raises(StorageError, match="process 1 on far"), Lease(store):
        pass


def test_a_driver_that_lost_its_folder_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    store = Store(str(tmp_path))
    with Lease(store) as lease:
        elsewhere(store)
        assert lease._lost.wait(20)
        with pytest.raises(StorageError, match="Another driver"):
            lease.check()
    assert read_holder(store) is not None and read_holder(store)["id"] == "theirs"  # type: ignore[index]


def test_progress_and_the_end_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))

    def work() -> None:
        with Lease(store) as lease:
            lease.begin("pass1", 100, "rows")
            lease.advance(40)
            raise StorageError("The disk is full.")

    with pytest.raises(StorageError):
        work()
    note = read_holder(store)
    assert note is not None
    assert (note["state"], note["error"]) == ("failed", "The disk is full.")
    assert (note["step"], note["done"], note["total"], note["unit"]) == ("pass1", 40, 100, "rows")
    with pytest.raises(Interrupted), Lease(store):
        raise Interrupted
    note = read_holder(store)
    assert note is not None and (note["state"], note["error"]) == ("stopped", None)


def test_what_killed_writes_have_left_is_deleted_at_the_end(tmp_path: Path) -> None:
    left = [tmp_path / ".tmp-1", tmp_path / "_raydvae/stage1/.tmp-2"]
    other = tmp_path / "_raydvae/stage1/state.safetensors"
    for path in (*left, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with pytest.raises(KeyError), held(Run(Store(str(tmp_path))), Silent(), "purify"):
        raise KeyError
    assert all(path.exists() for path in left)
    with held(Run(Store(str(tmp_path))), Silent(), "purify"):
        (tmp_path / ".tmp-3").write_bytes(b"of a process that writes now")
    assert not any(path.exists() for path in left)
    assert (tmp_path / ".tmp-3").exists() and other.exists()
