"""One driver at a time on a folder, and what it is doing: ``_raydvae/driver.json``.

The file names its holder and is renewed every few seconds. It is only replaced by whoever knows what it held just
before (`Store.swap`), so of two that want it one gets it. A holder on this machine is looked up, and a dead one is
taken over from at once. A holder elsewhere is dead when its file is not renewed for `PATIENCE` seconds by our own
clock, so clocks need not agree.

A holder taken for dead may only have been stopped. Its number (``epoch``) is then lower than the new holder's, and
whatever it still writes runs into its fence: see `Term`, which travels with the stores of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from raydvae.data import retry
from raydvae.data.failures import hide
from raydvae.data.shapes import parse_json
from raydvae.data.store import Store
from raydvae.errors import Interrupted, RaydvaeError, StorageError

FILE = "driver.json"
INTERVAL = 5.0  # seconds between two renewals
PATIENCE = 20.0  # seconds without a renewal after which a holder elsewhere is taken for dead
FRESH = 1.0  # seconds for which a process takes an object store's answer that the lease is its own for true
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine is suspended
_HELD: set[str] = set()  # ids of this process' leases: it may not have been able to note the end of one
_SEEN: dict[str, float] = {}  # when this process last saw a lease in force, by id
SETTLE = {True: 0.05, False: 0.5}  # seconds that two drivers starting at once need to see each other; local or not


@dataclass(frozen=True, slots=True)
class Term:
    """The time in which a lease is in force: the fence of a run's stores, on whatever machine they are written to.

    On local file systems another driver cannot take over between the check and the write. On others it can, if the
    write takes longer than `PATIENCE`; what could come to harm by that is written by `Store.swap`.
    """

    home: Store
    id: str
    epoch: int

    def check(self, fresh: bool = False) -> None:
        """Raise `StorageError` if another driver has taken the folder over; a lease that is gone is nobody else's."""
        asked = time.clock_gettime(CLOCK)
        if not (fresh or self.home.is_local) and asked - _SEEN.get(self.id, -FRESH) < FRESH:
            return
        holder = read_holder(self.home)
        if holder is not None and holder["id"] != self.id:
            raise _taken(self.home, holder)
        _SEEN[self.id] = asked

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """See `raydvae.data.store.Fence`."""
        with self.home.exclusive():
            self.check()
            yield


class Lease:
    """The right to work on the folder ``home``; a context. Another living driver is `StorageError`."""

    def __init__(self, home: Store) -> None:
        self.home = home.fenced(None)
        self.note: dict[str, Any] = {}
        self.before: dict[str, Any] | None = None  # what the driver before has noted last
        self._tag: str | None = None  # of the note that is to be replaced
        self._lost = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="raydvae-lease")

    @property
    def term(self) -> Term:
        """What fences the writes of this driver and its workers."""
        return Term(self.home, str(self.note["id"]), int(self.note["epoch"]))

    def __enter__(self) -> Lease:
        name = uuid.uuid4().hex
        _HELD.add(name)
        try:
            while True:
                holder, self._tag = _read(self.home)
                if holder is not None and holder["state"] == "running":
                    self._wait_for(holder)
                self.before = holder
                epoch = 1 + (holder or {}).get("epoch", 0)
                began = {"state": "running", "began": time.time(), "done": 0}
                self.note = {**_me(), "id": name, "epoch": epoch, **began}
                if self._write():  # else somebody was faster, who is to be looked at in turn
                    break
            # Where nothing compares (see `Store.swap`) the last of those who wrote at once has it.
            time.sleep(SETTLE[self.home.is_local])
            current = read_holder(self.home)
            if current is None or current["id"] != name:
                raise _taken(self.home, current or {})
        except BaseException:
            _HELD.discard(name)
            raise
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
        self.note |= {"state": state, "error": told and hide(told)}
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
        self.term.check()

    def _write(self) -> bool:
        """Put the note in place of the one that was read; return whether that was still there, or is ours."""
        while True:
            note = self.note | {"renewed": time.time(), "retries": retry.count()}
            asked = time.clock_gettime(CLOCK)
            tag = self.home.swap(FILE, (json.dumps(note, indent=1, sort_keys=True) + "\n").encode(), self._tag)
            if tag is None:
                holder, tag = _read(self.home)
                if holder is not None and holder["id"] != self.note["id"]:
                    return False
                if holder is None:  # deleted, or damaged: nobody's
                    self._tag = tag
                    continue
            self._tag = tag  # of what was written now, or by a try whose answer was lost
            _SEEN[self.note["id"]] = asked
            return True

    def _renew(self) -> None:
        while not self._over.wait(INTERVAL):
            with contextlib.suppress(RaydvaeError):  # storage may be away for a while; the work itself will tell
                if not self._write():
                    self._lost.set()
                    return

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
    """Return what the last driver noted of itself; None where there was none, or its note is damaged: nobody's."""
    return _read(home)[0]


def _read(home: Store) -> tuple[dict[str, Any] | None, str | None]:
    found = home.read_tagged(FILE)
    if found is None:
        return None, None
    data, tag = found
    try:
        note = parse_json(data)
    except ValueError:
        return None, tag
    return (note if _is_note(note) else None), tag


def _is_note(note: Any) -> bool:
    """Whether a note has all that those who read it count on."""
    if not isinstance(note, dict):
        return False
    numbers = ["pid", "renewed", *(("total", "done", "step_began") if note.get("step") else ())]
    texts = ["id", "state", "host", *(("step", "unit") if note.get("step") else ())]
    return (
        all(isinstance(note.get(name), int | float) for name in numbers)
        and all(isinstance(note.get(name), str) for name in texts)
        and isinstance(note.get("epoch", 0), int)
    )


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
