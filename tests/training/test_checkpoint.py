"""What a training leaves: the same bytes each time, checked when they are read, and not replaced by a stale driver."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from raydvae.config import DVAEConfig, RateLossConfig, TrainConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.lease import FILE, Lease, read_holder
from raydvae.data.store import Store
from raydvae.engine import InProcess
from raydvae.errors import ConfigError, DataError, StorageError
from raydvae.training.checkpoint import (
    METRICS,
    MODEL,
    STATE,
    load_history,
    load_model,
    load_state,
    save_model,
    save_state,
)
from raydvae.training.job import TrainJob
from raydvae.training.loop import TrainState
from raydvae.training.tasks import VAETask
from tests.s3 import Proxy, S3Server

ABOUT = {"seed": 3}


def job(data: Dataset, folder: Path, epochs: int = 2) -> TrainJob:
    task = VAETask(DVAEConfig(num_classes=10, image_size=32, width=4), RateLossConfig(kld_target=1.0))
    config = TrainConfig(epochs=epochs, batch_size=64, slices=4)
    return TrainJob(
        name="stage1",
        task=task,
        data=data,
        classes=find_classes(data),
        image_size=32,
        config=config,
        seed=1,
        store=Store(str(folder)),
        keep=(0,),
    )


def state(epoch: int, weight: float = 0.0) -> TrainState:
    model = {"a": torch.full((3, 2), weight), "b": torch.arange(4)}
    line = {"epoch": 0, "loss": 0.5, "images_per_second": 100.0 * epoch}
    return TrainState(epoch, model, {"0.exp_avg": torch.ones(3, 2)}, [line])


def stop_after(epochs: int) -> object:
    def progress(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == epochs - 1:
            raise KeyboardInterrupt

    return progress


def test_equal_trainings_leave_equal_files_stopped_or_not(digits_data: Dataset, tmp_path: Path) -> None:
    files = (MODEL, "kept/epoch-000001.safetensors")
    for name in ("one", "two"):
        InProcess().train(job(digits_data, tmp_path / name))
    with pytest.raises(KeyboardInterrupt):
        InProcess(threads=1).train(job(digits_data, tmp_path / "stopped"), stop_after(1))  # type: ignore[arg-type]
    resumed = job(digits_data, tmp_path / "stopped")
    InProcess().train(resumed)
    for file in files:
        found = {(tmp_path / name / file).read_bytes() for name in ("one", "two", "stopped")}
        assert len(found) == 1, file
        assert b"images_per_second" not in found.pop()
    # How fast it was is told all the same, of the epochs before it was stopped too.
    assert all(line["images_per_second"] > 0 for line in resumed.history())
    written = [json.loads(line) for line in (tmp_path / "stopped" / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in written] == [0, 1] and written == resumed.history()


def test_equal_states_are_equal_files_that_others_can_read(tmp_path: Path) -> None:
    stores = [Store(str(tmp_path / str(number))) for number in range(20)]
    for store in stores:
        save_state(store, state(1), ABOUT)
        save_model(store, state(2), ABOUT)
    assert len({store.read(MODEL) for store in stores}) == 1
    with safe_open(tmp_path / "0" / MODEL, "pt") as file:
        assert file.get_tensor("a").tolist() == [[0, 0]] * 3 and file.get_tensor("b").tolist() == [0, 1, 2, 3]
        assert json.loads(file.metadata()["about"]) == ABOUT


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    save_model(store, state(1), ABOUT)
    whole = store.read(MODEL)
    sound = load_model(store)
    for at in range(len(whole)):
        for bit in (1, 32):
            data = bytearray(whole)
            data[at] ^= bit
            store.write(MODEL, bytes(data))
            with pytest.raises(DataError, match=r"model\.safetensors is damaged.*Put it back.*or delete the folder"):
                load_model(store)
    for data in (b"", whole[:-1], whole + b"\0", whole[:9], b"\xff" * 40):
        store.write(MODEL, data)
        with pytest.raises(DataError, match="is damaged"):
            load_history(store)
    store.write(MODEL, whole)
    assert load_model(store)[1] == sound[1]


def test_files_of_the_version_before_are_read_and_those_of_later_ones_refused(tmp_path: Path) -> None:
    store, history = Store(str(tmp_path)), [{"epoch": 0, "loss": 0.5, "images_per_second": 7.0}]
    meta = {"format": "1", "about": json.dumps(ABOUT), "history": json.dumps(history)}
    store.write(MODEL, save(state(1).model, metadata=meta))
    tensors, weights = load_model(store, ABOUT)
    assert tensors["b"].tolist() == [0, 1, 2, 3] and load_history(store) == history
    save_model(store, state(1), ABOUT)
    assert load_model(store)[1] == weights, "the sum is of the weights alone"
    save_model(store, state(1, weight=1.0), ABOUT)
    assert load_model(store)[1] != weights
    store.write(MODEL, save(state(1).model, metadata=meta | {"format": "2"}))
    with pytest.raises(DataError, match="it has no checksum"):
        load_model(store)


def test_a_state_goes_on_and_a_damaged_one_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path))
    save_state(store, state(1, 2.0), ABOUT)
    found = load_state(store, ABOUT)[0]
    assert found is not None and found.epoch == 1 and found.model["a"].tolist() == [[2, 2]] * 3
    assert found.optimizer["0.exp_avg"].tolist() == [[1, 1]] * 3
    with pytest.raises(ConfigError, match="a training with other settings"):
        load_state(store, {"seed": 4})
    store.write(STATE, store.read(STATE)[:-1])
    assert load_state(store, ABOUT)[0] is None
    assert "state.safetensors is damaged: the training begins anew" in caplog.text


def test_a_late_request_of_a_stale_driver_replaces_no_state(s3_server: S3Server) -> None:
    home = s3_server.store()
    with Lease(home) as lease:
        stale = home.sub("stage1").fenced(lease.term)
        tag = save_state(stale, state(1, 1.0), ABOUT)
        assert load_state(stale, ABOUT)[1] == tag
        # Another driver takes over just after the first one has made sure that the folder is its own.
        lease.term.check(fresh=True)
        home.write_json(FILE, dataclasses.asdict(lease.term) | read_holder(home) | {"id": "theirs", "home": ""})  # type: ignore[operator]
        save_state(home.sub("stage1"), state(2, 2.0), ABOUT)
        newer = home.read(f"stage1/{STATE}")
        with pytest.raises(StorageError, match="Another driver is at work"):
            save_state(stale, state(2, 1.5), ABOUT, tag)
        assert home.read(f"stage1/{STATE}") == newer


def test_a_state_whose_answer_was_lost_is_saved(s3_proxy: Proxy, quick_retries: object) -> None:
    home = s3_proxy.store()
    with Lease(home) as lease:
        store, tag = home.sub("stage1").fenced(lease.term), None
        s3_proxy.inject("reset", seed=1, operations=("PutObject",), rate=0.5)
        for epoch in range(1, 12):
            tag = save_state(store, state(epoch, epoch), ABOUT, tag)
            found = load_state(store, ABOUT)[0]
            assert found is not None and found.epoch == epoch
        assert s3_proxy.injected["reset"] > 3
        s3_proxy.calm()
