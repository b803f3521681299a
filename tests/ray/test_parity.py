"""The Ray path on two workers against `purify.algorithm` in one process: same bytes.

That one worker on Ray gives them too is shown by tests/faults/test_driver.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydvae.config import dump_toml
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.distributed.engine import RayEngine
from raydvae.errors import DataError
from raydvae.purify.algorithm import purify
from tests.conftest import small_config
from tests.purify.test_algorithm import hashes

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> dict[str, str]:
    from raydvae.data.dataset import open_dataset

    out = tmp_path_factory.mktemp("local")
    data = open_dataset(str(digits_folder), small_config().data)
    purify(data, find_classes(data), Store(str(out)), small_config())
    return hashes(out)


def test_two_workers_give_the_bytes_of_one_process(local: dict[str, str], digits_folder: Path, tmp_path: Path) -> None:
    """As a user runs it, on a cluster of the command's own, without what the tests set for theirs."""
    settings, out = tmp_path / "settings.toml", tmp_path / "out"
    settings.write_text(dump_toml(small_config()))
    command = ["purify", str(digits_folder), str(out), "--config", str(settings), "--workers", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "raydvae.cli.main", *command],
        capture_output=True, text=True, timeout=500, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # all of stdout
    assert (result["rows_in"], result["rows_out"]) == (180, 180)
    assert hashes(out) == local
    for step in ("pass1", "pass3"):
        assert len(list((out / "_raydvae/commits" / step).glob("*.json"))) == 6


def test_an_error_of_ours_crosses_the_cluster_as_itself(
    digits_data: Dataset, tmp_path: Path, ray_cluster: None
) -> None:
    """A source that vanishes between planning and reading: a clear error, not a traceback of Ray's."""
    import shutil

    copy = tmp_path / "source"
    shutil.copytree(digits_data.store.root, copy)
    from raydvae.data.dataset import open_dataset

    data = open_dataset(str(copy), small_config().data)
    out = Store(str(tmp_path / "out"))

    class Vanishes(RayEngine):
        def map(self, work, units):  # type: ignore[no-untyped-def]
            shutil.rmtree(copy)
            return super().map(work, units)

    with Vanishes(1) as engine, pytest.raises(Exception, match="no such file or folder") as caught:
        purify(data, find_classes(data), out, small_config(), engine)
    assert type(caught.value).__module__ == "raydvae.errors"
    assert not isinstance(caught.value, DataError)
