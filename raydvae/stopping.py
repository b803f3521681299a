"""Being asked to stop: SIGTERM, as Kubernetes, Ray, batch systems and preempted machines send it.

The handler raises `Interrupted` where the main thread is, and leaves a flag. The exception ends whatever is waited for;
the flag is for what an exception does not reach: other threads, and the few places (finalizers, callbacks of native
code) where Python drops exceptions. So loops over rows, units and steps call `check`.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from raydvae.errors import Interrupted

_asked = threading.Event()
_listens = False


def listen() -> None:
    """Stop on SIGTERM from now on. To be called in the main thread of a command, never by a library's user."""
    global _listens
    _listens = True
    _asked.clear()
    signal.signal(signal.SIGTERM, _stop)


def listen_again() -> None:
    """Take SIGTERM back from a library that took it, as ``ray.init`` does; nothing where nobody listened."""
    if _listens and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def check() -> None:
    """Raise `Interrupted` if this process was asked to stop."""
    if _asked.is_set():
        raise Interrupted


def sleep(seconds: float) -> None:
    """Wait so long, in any thread; raise `Interrupted` as soon as this process is asked to stop."""
    _asked.wait(seconds)
    check()


def _stop(signum: int, frame: FrameType | None) -> None:
    _asked.set()
    raise Interrupted
