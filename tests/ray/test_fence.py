"""A driver that lost its folder: its workers on the cluster write nothing either."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.lease import FILE, Lease
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.distributed.passes import stream
from raydvae.distributed.train import train_alone
from raydvae.errors import StorageError
from raydvae.purify.algorithm import purify, training
from raydvae.purify.passes import SubtractPass
from tests.conftest import small_config

pytestmark = pytest.mark.ray


def test_workers_of_a_driver_that_was_taken_over_write_nothing(
    digits_data: Dataset, tmp_path: Path, ray_cluster: None
) -> None:
    out, config, classes = Store(str(tmp_path)), small_config(), find_classes(digits_data)
    purify(digits_data, classes, out, config, until="stage1")
    before = {name for name in out.list() if "driver." not in name}
    with Lease(out.sub("_raydvae")) as lease:
        run = Run(out.fenced(lease.term))
        theirs = {"id": "theirs", "state": "running", "pid": 1, "host": "far", "renewed": 1.0}
        out.write_json(f"_raydvae/{FILE}", theirs)
        home = run.home.sub("stage1")
        work = SubtractPass("pass1", run, digits_data, classes, config, config.stage1.model, home)
        with pytest.raises(StorageError, match="Another driver is at work.*process 1 on far"):
            list(stream(work, digits_data.units(), 1, use_gpu=False))
        job = training(run.home.sub("stage2"), "stage2", config.stage2, digits_data, classes, config)
        with pytest.raises(StorageError, match="Another driver is at work.*process 1 on far"):
            train_alone(job, use_gpu=False, cores=1)
    assert {name for name in out.list() if "driver." not in name} == before
