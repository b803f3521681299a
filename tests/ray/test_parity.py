"""The Ray path on two workers against `purify.algorithm` in one process: same bytes.

That one worker on Ray gives them too is shown by tests/faults/test_driver.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raydvae.data.dataset import Dataset, find_classes
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


def test_ray_gives_the_bytes_of_one_process(
    local: dict[str, str], digits_data: Dataset, tmp_path: Path, ray_cluster: None
) -> None:
    epochs: list[dict[str, float]] = []

    class Watching:
        def step(self, name: str, total: int, unit: str):  # type: ignore[no-untyped-def]
            from contextlib import nullcontext

            return nullcontext(epochs.append)

    with RayEngine(2) as engine:
        summary = purify(
            digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config(), engine, Watching()
        )
    assert hashes(tmp_path) == local
    assert (summary.rows_in, summary.rows_out) == (180, 180)
    assert sum("rows_in" in event for event in epochs) == 12, "six units in each of two passes were told of"


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
