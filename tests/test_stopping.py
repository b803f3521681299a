from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from raydvae import stopping
from raydvae.config import DataConfig
from raydvae.data.codecs import decode, size_of
from raydvae.errors import Interrupted, RaydvaeError


@pytest.fixture
def listening() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    stopping.listen()
    yield
    signal.signal(signal.SIGTERM, before)
    stopping._asked.clear()
    stopping._listens = False


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_no_handler_of_errors_takes_a_stop_for_one() -> None:
    assert not issubclass(Interrupted, Exception)
    assert not issubclass(Interrupted, RaydvaeError)


@pytest.mark.parametrize("read", [lambda data: decode(data, DataConfig()), size_of])
def test_a_stop_while_an_image_is_read_is_no_bad_image(
    listening: None, monkeypatch: pytest.MonkeyPatch, read: object
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    opened = Image.open

    def stopped(*args: object, **options: object) -> object:
        stop()
        return opened(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", stopped)
    with pytest.raises(Interrupted):
        read(buffer.getvalue())  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_drops_is_seen_at_the_next_check(listening: None) -> None:
    class Last:
        def __del__(self) -> None:
            stop()

    last = Last()
    del last  # Python writes what a finalizer raises, and goes on
    with pytest.raises(Interrupted):
        stopping.check()


def test_other_threads_stop_too(listening: None) -> None:
    seen: list[BaseException] = []
    waits = threading.Event()

    def work() -> None:
        try:
            waits.set()
            stopping.sleep(3600)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    waits.wait()
    with pytest.raises(Interrupted):
        stop()
    thread.join(60)
    assert [type(error) for error in seen] == [Interrupted]


def test_nobody_is_stopped_where_nobody_listened() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopping.listen_again()
    assert signal.getsignal(signal.SIGTERM) is before
    stopping.check()


@pytest.mark.ray
def test_ray_does_not_keep_the_signal(tmp_path: object) -> None:
    """`ray.init` has SIGTERM end the process with code 15; a command ends with 130 all the same."""
    program = textwrap.dedent(
        """
        import os, signal, stat
        from raydvae.cli.main import guarded
        from raydvae.distributed.engine import RayEngine

        def work():
            with RayEngine(2) as engine:
                engine.connect()
                import ray
                folder = os.path.dirname(ray._private.worker._global_node.get_temp_dir_path())
                print(oct(stat.S_IMODE(os.stat(folder).st_mode)), folder, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return 0

        raise SystemExit(guarded(work))
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == Interrupted.exit_code, done.stderr
    assert "Interrupted. What was committed is kept" in done.stderr
    mode, folder = done.stdout.split()
    assert mode == "0o700", "other users of the machine could plant files among Ray's"
    assert not os.path.exists(folder), "it is deleted at the end"
