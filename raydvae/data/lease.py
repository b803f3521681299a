"""One driver at a time on a folder, and what it is doing: ``_raydvae/driver.json``.

The file names its holder and is renewed every few seconds; object stores have no locks. A holder on this machine is
looked up, and a dead one is taken over from at once. A holder elsewhere is dead when its file is not renewed for
`PATIENCE` seconds by our own clock, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any

from raydvae.data import retry
from raydvae.data.store import Store
from raydvae.errors import Interrupted, RaydvaeError, StorageError

FILE = "driver.json"
INTERVAL = 5.0  # seconds between two renewals
PATIENCE = 20.0  # seconds without a renewal after which a holder elsewhere is taken for dead
_HELD: set[str] = set()  # ids of this process' leases: it may not have been able to note the end of one
SETTLE = {True: 0.05, False: 0.5}  # seconds that two drivers starting at once need to see each other; local or not


class Lease:
    """The right to work on the folder ``home``; a context. Another living driver is `StorageError`."""

    def __init__(self, home: Store) -> None:
        self.home = home
        self.note: dict[str, Any] = {}
        self._lost = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="raydvae-lease")

    def __enter__(self) -> Lease:
        holder = read_holder(self.home)
        if holder is not None and holder["state"] == "running":
            self._wait_for(holder)
        self.note = {**_me(), "id": uuid.uuid4().hex, "state": "running", "began": time.time(), "done": 0}
        _HELD.add(str(self.note["id"]))
        self._write()
        time.sleep(SETTLE[self.home.is_local])
        current = read_holder(self.home)
        if current is None or current["id"] != self.note["id"]:
            _HELD.discard(str(self.note["id"]))
            raise _taken(self.home, current or {})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        _HELD.discard(str(self.note["id"]))
        if self._lost.is_set():
            return
        state = "done" if error is None else "stopped" if _is_stop(error) else "failed"
        told = (
            None if error is None or _is_stop(error) else str(error) if isinstance(error, RaydvaeError) else repr(error)
        )
        self.note |= {"state": state, "error": told}
        with contextlib.suppress(RaydvaeError):  # what made the run fail may be the storage
            self._write()

    def begin(self, step: str, total: int, unit: str) -> None:
        """Note that a step of ``total`` epochs or rows began."""
        self.note = {**self.note, "step": step, "total": total, "unit": unit, "done": 0, "step_began": time.time()}

    def advance(self, done: int) -> None:
        """Note how much of the step is done."""
        self.note = {**self.note, "done": done}

    def check(self) -> None:
        """Raise `StorageError` if another driver has taken the folder over."""
        if self._lost.is_set():
            raise _taken(self.home, {})

    def _write(self) -> None:
        self.home.write_json(FILE, self.note | {"renewed": time.time(), "retries": retry.count()})

    def _renew(self) -> None:
        while not self._over.wait(INTERVAL):
            with contextlib.suppress(RaydvaeError):  # storage may be away for a while; the work itself will tell
                current = read_holder(self.home)
                if current is not None and current["id"] != self.note["id"]:
                    self._lost.set()
                    return
                self._write()

    def _wait_for(self, holder: dict[str, Any]) -> None:
        """Return when ``holder`` is dead; raise where it lives."""
        me = _me()
        if holder.get("machine") == me["machine"]:
            mine = holder["pid"] == me["pid"] and holder.get("process_began") == me["process_began"]
            if holder["id"] in _HELD if mine else _is_alive(int(holder["pid"]), str(holder.get("process_began"))):
                raise _taken(self.home, holder)
            return
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            now = read_holder(self.home)
            if now is None or now["state"] != "running":
                return
            if now["renewed"] != holder["renewed"]:
                raise _taken(self.home, now)


def read_holder(home: Store) -> dict[str, Any] | None:
    """Return what the last driver noted of itself, or None where there was none."""
    if not home.exists(FILE):
        return None
    note: dict[str, Any] = home.read_json(FILE)
    return note


def _taken(home: Store, holder: dict[str, Any]) -> StorageError:
    who = f" (process {holder['pid']} on {holder['host']})" if "pid" in holder else ""
    return StorageError(
        f"Another driver is at work on {home.uri.rsplit('/', 1)[0]}{who}. Wait until it ends, stop it, or give another "
        "folder."
    )


def _is_stop(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | Interrupted | GeneratorExit)


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_began": _process_began(os.getpid()),
    }


def _machine() -> str:
    """Return what tells this boot of this machine, and this container, from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_began(pid: int) -> str:
    """Return when a process began, in ticks of the kernel: process ids are used again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *rest = file.read().rpartition(")")[2].split()
            return "dead" if state == "Z" else rest[18]
    except (OSError, IndexError):
        return ""


def _is_alive(pid: int, began: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process_began(pid) == began
