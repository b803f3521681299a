from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raydvae.data import lease as module
from raydvae.data import retry
from raydvae.data import store as store_module
from raydvae.data.lease import FILE, Lease, read_holder
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import Silent, held
from raydvae.errors import DataError, Interrupted, StorageError
from tests.s3 import Proxy, S3Server

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


def compete(store: Store, drivers: int) -> tuple[int, int]:
    """Start so many drivers on a folder at once; return how many worked, all the time, and how many were refused."""
    gate, over, working, refused = threading.Barrier(drivers), threading.Event(), [], []

    def drive(number: int) -> None:
        gate.wait()
        try:
            with Lease(store):
                working.append(number)
                over.wait(60)
        except StorageError:
            refused.append(number)
            if len(refused) == drivers - 1:
                over.set()

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(working), len(refused)


def test_of_drivers_that_start_at_once_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compete(Store(str(tmp_path / "waiting")), 4) == (1, 3)
    monkeypatch.setattr(module, "SETTLE", {True: 0.0, False: 0.0})  # what decides is the comparison
    for number in range(5):
        assert compete(Store(str(tmp_path / str(number))), 16) == (1, 15)


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


def note_of(store: Store) -> dict[str, Any]:
    found = read_holder(store)
    assert found is not None
    return found


def test_epochs_grow_and_a_damaged_note_is_nobodys(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for epoch in (1, 2):
        with Lease(store) as lease:
            assert (lease.term.epoch, note_of(store)["epoch"]) == (epoch, epoch)
    for text in (b"", b"{}", b"[]", b"null", b"\xff", b'{"id": "x", "state": "running", "pid": "1"}'):
        store.write(FILE, text)
        assert read_holder(store) is None
        with Lease(store):
            assert note_of(store)["state"] == "running"


@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_whoever_lost_the_folder_writes_and_deletes_nothing(
    place: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH", 0.0)
    root = {"local": lambda: Store(str(tmp_path)), "memory": lambda: Store(f"memory://{tmp_path}")}
    home = root.get(place, s3_server.store)()
    with Lease(home) as lease:
        fenced = home.fenced(lease.term)
        sent: Store = pickle.loads(pickle.dumps(fenced.sub("stage1")))
        sent.write("state", b"mine")
        elsewhere(home)
        for store, name in ((fenced, "stage1/state"), (sent, "state"), (sent.sub("deeper"), "new")):
            with pytest.raises(StorageError, match="Another driver is at work.*process 1 on far"):
                store.write(name, b"late")
        with pytest.raises(StorageError, match="Another driver"):
            fenced.delete("stage1")
        assert home.read("stage1/state") == b"mine"
        assert [name for name in home.list() if name.startswith(("stage1/", ".tmp-"))] == ["stage1/state"]
        with pytest.raises(StorageError, match="Another driver"):
            lease.check()
    assert note_of(home)["id"] == "theirs"


def test_a_note_that_was_deleted_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    store = Store(str(tmp_path))
    with Lease(store) as lease:
        store.delete(FILE)
        lease.check()
        store.fenced(lease.term).write("file", b"ours")
        deadline = time.monotonic() + 20
        while not store.exists(FILE):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert note_of(store)["id"] == lease.note["id"]


def test_a_process_stopped_in_the_middle_of_a_write_is_waited_for_and_then_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_PATIENCE", 0.1)
    store = Store(str(tmp_path))
    with (
        store.exclusive(),
        pytest.raises(StorageError, match=r"Another driver is at work.*driver\.lock.*let it go on or end it"),
        Lease(store),
    ):
        pass


def test_of_two_drivers_whose_requests_fail_on_s3_one_works(
    s3_server: S3Server, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's request to take the folder fails until a second one has taken it: then it is too late."""
    monkeypatch.setattr(retry, "POLICY", retry.Policy(first=0.02, longest=0.05, tries=1000))
    name = s3_server.store().root
    first, second = Store(f"s3://{name}/run", s3_proxy.options), Store(f"s3://{name}/run", s3_server.options)
    s3_proxy.inject("slow down", operations=("PutObject",))
    ended: list[BaseException | None] = []

    def late() -> None:
        try:
            with Lease(first):
                ended.append(None)
        except StorageError as error:
            ended.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    while not s3_proxy.injected["slow down"]:
        time.sleep(0.01)
    with Lease(second) as lease:
        s3_proxy.calm()
        thread.join(60)
        assert "Another driver is at work" in str(ended[0])
        assert note_of(second)["id"] == lease.note["id"]


def test_an_answer_that_was_lost_is_not_another_driver(
    s3_proxy: Proxy, quick_retries: retry.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    for seed in range(4):  # whether the server did what was asked before the connection is reset is drawn
        store = s3_proxy.store()
        s3_proxy.inject("reset", seed=seed, operations=("PutObject",), times=3)
        with Lease(store) as lease:
            began = note_of(store)["renewed"]
            deadline = time.monotonic() + 20
            while note_of(store)["renewed"] == began:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            lease.check()
        assert note_of(store)["state"] == "done"
        s3_proxy.calm()


def test_of_drivers_that_start_at_once_on_s3_one_works(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE", {True: 0.0, False: 0.0})  # what decides is the comparison, not the waiting
    for begin in ("new", "dead"):
        place = s3_server.store().sub(begin)
        if begin == "dead":
            elsewhere(place)
            place.write_json(FILE, note_of(place) | {"state": "stopped"})
        assert compete(place, 6) == (1, 5)


def test_a_password_in_an_error_is_not_noted(tmp_path: Path) -> None:
    home = Store(str(tmp_path))
    with pytest.raises(DataError), Lease(home):
        raise DataError("Nothing at s3://me:of-secrets@bucket/data.")
    assert home.read_json(FILE)["error"] == "Nothing at s3://***@bucket/data."
