"""Purifying flagged rows only: the others keep their pixels and play no part in any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data.classes import find_classes
from raydvae.data.codecs import Array
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.flags import Flags, parse_flags
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.errors import ConfigError
from raydvae.purify.algorithm import Summary, purify
from raydvae.reports.collect import write_report
from tests.conftest import small_config
from tests.data.helpers import as_bytes
from tests.data.test_flags import blob, ids_of
from tests.purify.test_algorithm import Dies, hashes


def every(nth: int, data: Dataset) -> Flags:
    ids = ids_of(data)
    return parse_flags(blob(ids, [place % nth == 0 for place in range(len(ids))]), "F", data)


def run(data: Dataset, out: Path, flags: Flags, engine: Dies | None = None) -> Summary:
    return purify(data, find_classes(data, 10), Store(str(out)), small_config(), engine, flags=flags)


def pixels(folder: Path) -> Array:
    data = open_dataset(str(folder), small_config().data)
    classes = find_classes(data, 10)
    return np.concatenate([decode_rows(data, u, data.read(u), classes, 32).images for u in data.units()])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("flagged")
    data = open_dataset(str(digits_folder), small_config().data)
    summary = run(data, out, every(3, data))
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (180, 180, 0)
    return out


def test_only_flagged_rows_change_and_all_stay_in_order(done: Path, digits_folder: Path) -> None:
    changed = (pixels(done) != pixels(digits_folder)).any(axis=(1, 2, 3))
    assert changed.tolist() == [place % 3 == 0 for place in range(180)]
    before, after = pq.read_table(digits_folder), pq.read_table(done)
    assert after["label"].equals(before["label"])
    assert after.schema.types == before.schema.types
    assert "<html" in Path(write_report(Store(str(done)))).read_text()


def test_what_the_other_rows_show_changes_nothing(done: Path, digits_folder: Path, tmp_path: Path) -> None:
    start = 0
    (tmp_path / "other").mkdir()
    for file in sorted(digits_folder.glob("*.parquet")):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for place, row in enumerate(rows, start):
            if place % 3:
                noise = np.random.default_rng(place).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                row["image"]["bytes"] = as_bytes(noise)
        start += len(rows)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "other" / file.name)
    data = open_dataset(str(tmp_path / "other"), small_config().data)
    run(data, tmp_path / "out", every(3, data))
    assert (pixels(tmp_path / "out")[::3] == pixels(done)[::3]).all()


@pytest.mark.parametrize("step", ["pass1", "stage2"])
def test_stopped_it_goes_on_to_the_same_bytes_with_the_same_flags_only(
    step: str, done: Path, digits_data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, every(3, digits_data), Dies(step, after=1))
    with pytest.raises(ConfigError, match=r"flags\.flagged = 60, now it is 90"):
        run(digits_data, tmp_path, every(2, digits_data))
    with pytest.raises(ConfigError, match="flags"):
        purify(digits_data, find_classes(digits_data, 10), Store(str(tmp_path)), small_config())
    run(digits_data, tmp_path, every(3, digits_data))
    assert hashes(tmp_path) == hashes(done)


def test_a_sample_of_the_rows_cannot_be_asked_for_too(digits_data: Dataset, tmp_path: Path) -> None:
    config = small_config(train_rows=50)
    with pytest.raises(ConfigError, match="give one of them"):
        purify(digits_data, find_classes(digits_data), Store(str(tmp_path)), config, flags=every(3, digits_data))
