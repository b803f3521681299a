"""What tests share: a small real data set, small settings, and one Ray cluster for all tests that need one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports Ray: tests of a cluster on loopback need no token, and leave no file in $HOME.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Starting processes is what most tests of a cluster spend their time on: start none that nobody asked for, keep those
# that there are for the next test.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")

import pytest

from raydvae.config import DataConfig, PurifyConfig, StageConfig, digits
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.store import Store
from tests.s3 import quick_retries, s3_proxy, s3_proxy_shared, s3_server  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 real digits at 32 px, in three shards of 60."""
    folder = tmp_path_factory.mktemp("digits")
    import_dataset("digits", Store(str(folder)), "digits", split="test", rows_per_shard=60, limit_per_class=18)
    return folder


@pytest.fixture
def digits_data(digits_folder: Path) -> Dataset:
    """The same as a data set, in units of at most 40 rows: six of them."""
    return open_dataset(str(digits_folder), DataConfig(unit_rows=40))


def small_config(epochs: int = 2, width: int = 4, **changes: object) -> PurifyConfig:
    """The digits preset, small enough for tests: the same code with other numbers."""

    def shrink(stage: StageConfig) -> StageConfig:
        train = dataclasses.replace(stage.train, epochs=epochs, batch_size=32)
        return dataclasses.replace(stage, model=dataclasses.replace(stage.model, width=width), train=train)

    base = digits()
    config = dataclasses.replace(
        base, stage1=shrink(base.stage1), stage2=shrink(base.stage2), data=DataConfig(unit_rows=40), pass_batch=16
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster on loopback. It has more logical cores than this machine may have: nothing here needs speed."""
    import ray

    for attempt in (1, 2):
        try:
            # "local": a cluster of its own, and not the one that was started last on this machine.
            ray.init("local", num_cpus=4, object_store_memory=300 * 2**20, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: begun last, it would leave the other core idle."""
    items.sort(key=lambda item: not any(item.iter_markers("ray")))
