"""Growing a poison: what is added is the D-VAE's estimate, and it comes of the poisoned rows alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.detection.configs import GrowConfig
from raydvae.detection.growing import grow
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.errors import ConfigError, DataError
from raydvae.purify.inference import load_dvae
from tests.conftest import small_config
from tests.data.helpers import as_bytes, random_images, struct_table, write
from tests.purify.test_algorithm import Dies, hashes

CONFIG = GrowConfig(purify=small_config(sample_z=False), steps=5)


def run(
    poisoned: Dataset, clean: Dataset, out: Path, engine: InProcess | None = None, steps: int = 5
) -> dict[str, int]:
    config = dataclasses.replace(CONFIG, steps=steps)
    return grow(poisoned, clean, find_classes(clean), Store(str(out)), config, engine or InProcess())


@pytest.fixture(scope="module")
def few(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("few")
    first = sorted(digits_folder.glob("*.parquet"))[0]
    (folder / first.name).write_bytes(first.read_bytes())
    return open_dataset(str(folder), DataConfig(unit_rows=40))


@pytest.fixture(scope="module")
def grown(few: Dataset, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grown")
    counts = run(few, open_dataset(str(digits_folder), DataConfig(unit_rows=40)), out)
    assert counts == {"rows_in": 180, "rows_out": 180, "rows_rejected": 0, "rows_poisoned": 180}
    return out


def images(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    classes = find_classes(data)
    rows = [decode_rows(data, unit, data.read(unit), classes, 32) for unit in data.units()]
    return np.concatenate([r.images for r in rows]), np.concatenate([r.labels for r in rows])


@torch.no_grad()
def test_what_is_added_is_what_the_model_estimates(grown: Path, digits_data: Dataset) -> None:
    before, labels = images(digits_data)
    model = load_dvae(Store(str(grown / "_raydvae/stage1")), CONFIG.purify.stage1.model)
    x = torch.from_numpy(before).permute(0, 3, 1, 2).float() / 255
    p_hat = model(x, torch.from_numpy(labels), None).p_hat
    expected = ((x + p_hat).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    after = images(open_dataset(str(grown)))[0]
    assert np.abs(after - expected).max() <= 1  # batches of other sizes differ in the last bit, which rounding may show
    assert (after != expected).mean() < 1e-3
    table = pq.read_table(grown / "_raydvae/poison.parquet")
    assert table["poisoned"].to_pylist() == [True] * 180
    norms = np.linalg.norm((after.astype(float) - before).reshape(180, -1) / 255, axis=1)
    np.testing.assert_allclose(table["norm"].to_numpy(), norms)


def test_there_are_as_many_steps_as_asked_for_however_few_the_rows(grown: Path) -> None:
    # 60 rows in batches of 32 are two steps, so three epochs make five
    assert len((grown / "_raydvae/stage1/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("step", ["stage1", "poison"])
def test_stopped_it_goes_on_to_the_same_bytes(
    step: str, grown: Path, few: Dataset, digits_data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(few, digits_data, tmp_path, Dies(step, after=2))
    done: list[str] = []

    class Counts(InProcess):
        def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
            done.extend(unit.id for unit in units)
            return super().map(work, units)

    with pytest.raises(ConfigError, match="epochs = 3, now it is 25"):
        run(few, digits_data, tmp_path, steps=50)
    run(few, digits_data, tmp_path, Counts())
    assert hashes(tmp_path) == hashes(grown)
    assert len(done) == (6 if step == "stage1" else 4)


def test_data_of_other_labels_are_refused(few: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "in", struct_table([as_bytes(image) for image in random_images(4)], ["a", "b"] * 2))
    other = open_dataset(str(tmp_path / "in"))
    with pytest.raises(DataError, match="of other classes"):
        run(few, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
