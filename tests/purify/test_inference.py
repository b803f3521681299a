"""A unit's passes: the same bytes on any number of threads, and those of the plain model."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from torch import nn

from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.rows import Rows, decode_rows
from raydvae.data.store import Store
from raydvae.engine import each, one_thread
from raydvae.models.dvae import DVAE
from raydvae.purify.inference import Inference, subtract, to_uint8
from raydvae.seeds import derive
from raydvae.training.checkpoint import save_model
from raydvae.training.feed import to_float
from raydvae.training.loop import TrainState
from tests.conftest import small_config

CPU = torch.device("cpu")
CONFIG = small_config(pass_batch=8, keep_intermediate=True)


@pytest.fixture
def rows(digits_data: Dataset) -> Rows:
    unit = digits_data.units()[0]  # 40 rows: five batches
    return decode_rows(digits_data, unit, digits_data.read(unit), find_classes(digits_data), 32)


@pytest.fixture
def model() -> DVAE:
    torch.manual_seed(0)
    model = DVAE(CONFIG.stage1.model)
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32), torch.arange(8), None)  # statistics that are not those of the start
    return model.eval().requires_grad_(False)


def test_any_number_of_threads_gives_the_same_bytes(model: DVAE, rows: Rows) -> None:
    inference = Inference(model, CONFIG, CPU)
    results = []
    for cores in (1, 2, 5):
        with one_thread(CPU, cores):
            results.append([*inference.subtracted(rows), *inference.purified(rows), inference.reconstructed(rows)])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert one is not None
            assert np.array_equal(one, other)


def test_a_pass_is_the_plain_model_batch_by_batch(model: DVAE, rows: Rows, tmp_path: object) -> None:
    """The fast pass (folded normalization, threads) against the model as it was trained; bytes differ by rounding."""
    store = Store(str(tmp_path))
    save_model(store, TrainState(1, model.state_dict(), {}), {"task": "test"})
    fast = Inference.load(store, CONFIG.stage1.model, CONFIG, CPU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.model.modules())
    with one_thread(CPU, 2):
        x1, p_hat = fast.subtracted(rows)
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        x = to_float(torch.from_numpy(rows.images[part]).permute(0, 3, 1, 2))
        y = torch.from_numpy(rows.labels[part])
        seed = derive(CONFIG.seed, "pass", 1, rows.unit.id, start)
        noise = torch.randn(model.latent_shape(len(x)), generator=torch.Generator().manual_seed(seed))
        expected = model(x, y, noise).p_hat.permute(0, 2, 3, 1)
        torch.testing.assert_close(torch.from_numpy(p_hat[part]), expected, rtol=1e-4, atol=1e-4)
        plain = to_uint8(subtract(model, x, y, noise), "round").permute(0, 2, 3, 1).numpy()
        assert np.abs(plain.astype(int) - x1[part]).max() <= 1


def test_without_sampling_a_batch_is_all_that_counts(model: DVAE, rows: Rows) -> None:
    inference = Inference(model, dataclasses.replace(CONFIG, sample_z=False), CPU)
    other = dataclasses.replace(rows, unit=dataclasses.replace(rows.unit, id="another"))
    assert np.array_equal(inference.reconstructed(rows), inference.reconstructed(other))


def test_no_rows_are_no_images(model: DVAE, rows: Rows) -> None:
    none = dataclasses.replace(rows, images=rows.images[:0], labels=rows.labels[:0])
    assert Inference(model, CONFIG, CPU).subtracted(none)[0].shape == (0, 32, 32, 3)


def test_parts_are_computed_on_as_many_threads_as_there_are_cores() -> None:
    meeting = threading.Barrier(2, timeout=20)  # passes only if two are there at once

    def work(part: int) -> tuple[int, int]:
        meeting.wait()
        return part, torch.get_num_threads()

    before = torch.get_num_threads()
    with one_thread(CPU, 2):
        assert each(work, range(4)) == [(part, 1) for part in range(4)]
    assert torch.get_num_threads() == before
    assert each(lambda part: part, range(3)) == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_pass_is_the_cpu_s_within_a_level(model: DVAE, rows: Rows) -> None:
    config = dataclasses.replace(CONFIG, sample_z=False)
    on_cpu = Inference(model, config, CPU).purified(rows)[1]
    gpu = torch.device("cuda")
    on_gpu = Inference(model.to(gpu), config, gpu).purified(rows)[1]
    assert np.abs(on_cpu.astype(int) - on_gpu).max() <= 1
