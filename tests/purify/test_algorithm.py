from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from raydvae.config import PurifyConfig, TrainConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.errors import ConfigError, DataError
from raydvae.purify.algorithm import Summary, purify
from raydvae.training.checkpoint import load_state
from raydvae.training.job import Progress, TrainJob
from tests.conftest import small_config


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.parquet"))}


def run(data: Dataset, out: Path, config: PurifyConfig, engine: Any = None) -> Summary:
    return purify(data, find_classes(data), Store(str(out)), config, engine)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run(open_dataset(str(digits_folder), small_config().data), out, small_config())
    return out


def test_every_row_comes_out_in_order_and_schema(undisturbed: Path, digits_data: Dataset) -> None:
    before = pads.dataset(digits_data.store.root).to_table()
    after = pads.dataset(str(undisturbed)).to_table()
    assert after.schema.equals(before.schema)
    assert after["label"].to_pylist() == before["label"].to_pylist()
    assert after["image"].combine_chunks().field("path").equals(before["image"].combine_chunks().field("path"))
    changed = np.mean([a != b for a, b in zip(after["image"].to_pylist(), before["image"].to_pylist(), strict=True)])
    assert changed == 1.0, "every image was purified"


def test_the_output_folder_holds_data_and_our_folder_only(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir() if path.suffix != ".parquet"}
    assert names == {"_raydvae"}
    assert not (undisturbed / "_raydvae" / "work").exists()
    metrics = [json.loads(line) for line in (undisturbed / "_raydvae/stage1/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [0, 1]
    assert {"loss", "distortion", "residual", "kld", "psnr", "psnr_sum", "grad_norm", "images_per_second"} <= set(
        metrics[0]
    )
    assert list((undisturbed / "_raydvae/stage2/tensorboard").iterdir())


def test_cores_do_not_change_a_byte(undisturbed: Path, digits_data: Dataset, tmp_path: Path) -> None:
    run(digits_data, tmp_path, small_config(), InProcess(threads=1))
    assert hashes(tmp_path) == hashes(undisturbed)


def test_another_seed_changes_every_file(undisturbed: Path, digits_data: Dataset, tmp_path: Path) -> None:
    run(digits_data, tmp_path, small_config(seed=1))
    mine, theirs = hashes(tmp_path), hashes(undisturbed)
    assert mine.keys() == theirs.keys()
    assert all(mine[name] != theirs[name] for name in mine)


class Dies(InProcess):
    """An engine that stops after a number of epochs or units, as a killed process does."""

    def __init__(self, step: str, after: int) -> None:
        super().__init__()
        self.step, self.after = step, after

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        left = self.after

        def count(metrics: dict[str, float]) -> None:
            nonlocal left
            left -= 1
            if job.name == self.step and left == 0:
                raise KeyboardInterrupt

        super().train(job, count)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        for done, record in enumerate(super().map(work, units), start=1):
            yield record
            if work.name == self.step and done == self.after:
                raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["stage1", "pass1", "stage2", "pass3"])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    step: str, undisturbed: Path, digits_data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, small_config(), Dies(step, after=1))
    assert hashes(tmp_path) != hashes(undisturbed)
    seen: list[str] = []

    class Counts(InProcess):
        def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
            seen.extend(f"{work.name}/{unit.id}" for unit in units)
            return super().map(work, units)

    summary = run(digits_data, tmp_path, small_config(), Counts())
    assert hashes(tmp_path) == hashes(undisturbed)
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (180, 180, 0)
    assert len(seen) == {"stage1": 12, "pass1": 5 + 6, "stage2": 6, "pass3": 5}[step], (
        "committed units are not done again"
    )


def test_a_complete_run_is_not_touched(undisturbed: Path, digits_data: Dataset) -> None:
    def stamps() -> dict[Path, int]:
        files = [path for path in undisturbed.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.name != "driver.json"}

    before = stamps()
    summary = run(digits_data, undisturbed, small_config())
    assert summary.complete
    assert before == stamps()


def test_other_settings_in_the_same_folder_are_refused_by_name(undisturbed: Path, digits_data: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"config\.seed = 0, now it is 5"):
        run(digits_data, undisturbed, small_config(seed=5))
    with pytest.raises(ConfigError, match=r"stage1\.train\.epochs = 2, now it is 3"):
        run(digits_data, undisturbed, small_config(epochs=3))


def test_intermediates_are_kept_on_request(digits_data: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run(digits_data, tmp_path, small_config(keep_intermediate=True))
    assert hashes(tmp_path) == hashes(undisturbed)
    for name in ("p1", "p2"):
        folder = tmp_path / "_raydvae/work" / name
        assert hashes(folder).keys() == hashes(tmp_path).keys()
        assert sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet")) == 180


def test_the_mean_of_z_and_truncation_are_options(digits_data: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run(digits_data, tmp_path / "mean", small_config(sample_z=False))
    run(digits_data, tmp_path / "cut", small_config(quantize="truncate"))
    results = [hashes(undisturbed), hashes(tmp_path / "mean"), hashes(tmp_path / "cut")]
    assert len({json.dumps(result) for result in results}) == 3


def test_too_many_bad_rows_end_the_run_before_training(digits_folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(next(digits_folder.glob("*.parquet")))
    rows = table.to_pylist()
    for row in rows[:10]:
        row["image"]["bytes"] = b"no image"
    source = tmp_path / "source"
    source.mkdir()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows, table.schema), source / "train-0.parquet")
    with pytest.raises(DataError, match=r"10 of 60 rows cannot be used, more than the limit of 1\.0%"):
        run(open_dataset(str(source), small_config().data), tmp_path / "out", small_config())


def test_slices_of_a_begun_run_hold_for_other_workers(digits_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, small_config(), Dies("stage1", after=1))
    engine = InProcess()
    engine.workers = 5  # type: ignore[misc]
    with pytest.raises(ConfigError, match="5 workers cannot share 4 slices"):
        run(digits_data, tmp_path, small_config(), engine)


def test_training_settings_reach_the_training(digits_data: Dataset, tmp_path: Path) -> None:
    config = small_config()
    train = dataclasses.replace(config.stage1.train, batch_size=90)
    config = dataclasses.replace(config, stage1=dataclasses.replace(config.stage1, train=train))
    assert isinstance(train, TrainConfig)
    steps: list[int] = []

    class Counts(InProcess):
        def train(self, job: TrainJob, progress: Progress | None = None) -> None:
            def count(metrics: dict[str, float]) -> None:
                state, _ = load_state(job.store, job.about)
                assert state is not None
                steps.append(int(state.optimizer["0.step"]))

            super().train(job, count)

    run(digits_data, tmp_path, config, Counts())
    assert steps == [2, 4, 6, 12]  # epochs of stage 1 have 2 batches of 90 rows, those of stage 2 six of 32


def test_a_run_that_is_not_finished_has_a_report_too(digits_data: Dataset, tmp_path: Path) -> None:
    from raydvae.reports.collect import write_report

    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, small_config(), Dies("pass1", after=2))
    page = Path(write_report(Store(str(tmp_path)))).read_text()
    assert "<html" in page


def test_killed_while_it_cleans_up_it_is_complete(
    undisturbed: Path, digits_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Store.delete

    def dies(self: Store, name: str) -> None:
        delete(self, f"{name}/p1/test-00000-of-00003-r0000000000.parquet" if name == "work" else name)
        if name == "work":
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, small_config())
    monkeypatch.undo()
    assert run(digits_data, tmp_path, small_config()).complete
    assert hashes(tmp_path) == hashes(undisturbed)
