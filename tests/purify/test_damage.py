"""Files of a run that were deleted, cut or changed: noticed, told, and made again with the bytes they had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from raydvae.data import damage
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset
from raydvae.data.store import Store
from raydvae.data.units import Unit
from raydvae.engine import InProcess, Record, UnitWork
from raydvae.errors import DataError, StorageError
from raydvae.purify.algorithm import Summary, purify
from raydvae.reports.status import lines, status
from raydvae.training.job import Progress, TrainJob
from tests.conftest import small_config
from tests.purify.test_algorithm import Dies, hashes

Harm = Callable[[Path], None]
UNIT = "test-00001-of-00003-r0000000000"


class Counts(InProcess):
    """An engine that notes what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def train(self, job: TrainJob, progress: Progress | None = None) -> None:
        self.seen.append(job.name)
        super().train(job, progress)

    def map(self, work: UnitWork, units: Sequence[Unit]) -> Iterator[Record]:
        self.seen.extend(f"{work.name}/{unit.id}" for unit in units)
        return super().map(work, units)


def run(data: Dataset, out: Path, engine: InProcess | None = None, verify: bool = False) -> Summary:
    return purify(data, find_classes(data), Store(str(out)), small_config(), engine, verify=verify)


def again(data: Dataset, out: Path, verify: bool = False) -> list[str]:
    engine = Counts()
    assert run(data, out, engine, verify).complete
    return engine.seen


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


HARMS = {"deleted": Path.unlink, "cut": cut, "flipped": flip, "empty": lambda path: path.write_bytes(b"")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    from raydvae.data.dataset import open_dataset

    out = tmp_path_factory.mktemp("done")
    run(open_dataset(str(digits_folder), small_config().data), out)
    return out


@pytest.fixture(scope="module")
def at_stage2(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """A run that was stopped after the first epoch of stage 2."""
    from raydvae.data.dataset import open_dataset

    out = tmp_path_factory.mktemp("stage2")
    with pytest.raises(KeyboardInterrupt):
        run(open_dataset(str(digits_folder), small_config().data), out, Dies("stage2", after=1))
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_output_is_named_and_made_again_alone(
    harm: Harm, copied: Path, done: Path, digits_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    harm(copied / f"{UNIT}.parquet")
    assert hashes(copied) != hashes(done)
    assert again(digits_data, copied) == [f"pass1/{UNIT}", f"pass3/{UNIT}"]
    assert hashes(copied) == hashes(done)
    assert (
        "1 file is damaged" in caplog.text
        and f"{UNIT}.parquet" in caplog.text
        and "Doing units again: 1." in caplog.text
    )
    assert "work/p1" not in caplog.text, "which was deleted on purpose"
    assert again(digits_data, copied) == []
    assert not (copied / "_raydvae/work").exists()


def test_many_damaged_outputs_are_counted_and_the_first_named(
    copied: Path, done: Path, digits_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = sorted(copied.glob("*.parquet"))
    for path in outputs:
        path.unlink()
    seen = again(digits_data, copied)
    assert seen == [f"{step}/{path.stem}" for step in ("pass1", "pass3") for path in outputs], "nothing was trained"
    assert hashes(copied) == hashes(done)
    assert "6 files are damaged" in caplog.text and f"{outputs[2].name} is missing, and 3 more" in caplog.text


@pytest.mark.parametrize("step", ["pass1", "pass3"])
@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b'{"unit": 3', b"\xff\xfe", b'{"unit": "other"}'])
def test_a_damaged_commit_record_is_no_commit(
    step: str, text: bytes, copied: Path, done: Path, digits_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    record = copied / f"_raydvae/commits/{step}/{UNIT}.json"
    kept = json.loads(record.read_bytes())
    record.write_bytes(text)
    again(digits_data, copied)
    assert json.loads(record.read_bytes()) == kept
    assert hashes(copied) == hashes(done)
    assert "is no commit record" in caplog.text


def test_a_record_with_a_changed_number_is_no_commit(copied: Path, done: Path, digits_data: Dataset) -> None:
    record = copied / f"_raydvae/commits/pass1/{UNIT}.json"
    kept = record.read_bytes()
    for old, new in ((b'"rows_in": 40', b'"rows_in": 41'), (b'"rows_out": 40', b'"rows_out": 39')):
        assert old in kept
        record.write_bytes(kept.replace(old, new))
        again(digits_data, copied)
        assert record.read_bytes() == kept and hashes(copied) == hashes(done)


def test_large_outputs_are_compared_when_that_is_asked_for(
    copied: Path, done: Path, digits_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "CHEAP", 1000)
    flip(copied / f"{UNIT}.parquet")
    assert again(digits_data, copied) == [] and hashes(copied) != hashes(done)
    assert again(digits_data, copied, verify=True) == [f"pass1/{UNIT}", f"pass3/{UNIT}"]
    assert hashes(copied) == hashes(done)


def test_stopped_while_it_mends_it_goes_on_mending(copied: Path, done: Path, digits_data: Dataset) -> None:
    for path in copied.glob("*.parquet"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, copied, Dies("pass1", after=2))
    assert not list(copied.glob("*.parquet"))
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, copied, Dies("pass3", after=1))
    assert again(digits_data, copied)[0].startswith("pass3/")
    assert hashes(copied) == hashes(done)


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("cheap", [True, False], ids=["compared first", "compared when read"])
def test_damage_to_p1_is_noticed_and_its_unit_made_again(
    harm: Harm,
    cheap: bool,
    at_stage2: Path,
    done: Path,
    digits_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(damage, "CHEAP", damage.CHEAP if cheap else 1000)
    out = Path(shutil.copytree(at_stage2, tmp_path / "out"))
    harm(out / f"_raydvae/work/p1/{UNIT}.parquet")
    seen = again(digits_data, out)
    assert [name for name in seen if name.startswith("pass1/")] == [f"pass1/{UNIT}"]
    assert f"1 file is damaged: _raydvae/work/p1/{UNIT}.parquet" in caplog.text
    assert hashes(out) == hashes(done)
    model = "_raydvae/stage2/model.safetensors"
    assert (out / model).read_bytes() == (done / model).read_bytes()


@pytest.mark.parametrize("at", [0.3, 0.999], ids=["pixels", "footer"])
def test_damage_to_p1_before_pass_3_is_noticed_when_it_is_read(
    at: float, done: Path, digits_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "CHEAP", 1000)
    with pytest.raises(KeyboardInterrupt):
        run(digits_data, tmp_path, Dies("pass3", after=2))
    left = sorted({path.name for path in (tmp_path / "_raydvae/work/p1").iterdir()} - set(hashes(tmp_path)))
    flip(tmp_path / "_raydvae/work/p1" / left[0], at)
    seen = again(digits_data, tmp_path)
    assert [name for name in seen if name.startswith("pass1/")] == [f"pass1/{left[0].removesuffix('.parquet')}"]
    assert hashes(tmp_path) == hashes(done)


def test_a_flipped_weight_is_told_and_changes_no_output(
    copied: Path, done: Path, digits_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    flip(copied / "_raydvae/stage2/model.safetensors", 0.9)
    run(digits_data, copied)
    assert "stage2/model.safetensors is damaged" in caplog.text, "the data set is whole, so nothing else happens"
    (copied / f"{UNIT}.parquet").unlink()
    with pytest.raises(DataError, match=r"stage2/model\.safetensors is damaged.*delete the folder"):
        run(digits_data, copied)
    shutil.rmtree(copied / "_raydvae/stage2")
    seen = again(digits_data, copied)
    assert seen.count("stage2") == 1 and "stage1" not in seen
    assert [name for name in seen if name.startswith("pass3/")] == [f"pass3/{UNIT}"]
    assert hashes(copied) == hashes(done)


def test_a_damaged_copy_of_a_lent_model_is_copied_again(done: Path, digits_data: Dataset, tmp_path: Path) -> None:
    def borrow() -> None:
        models = damage.Run(Store(str(done)))
        purify(digits_data, find_classes(digits_data), Store(str(tmp_path)), small_config(seed=3), models=models)

    borrow()
    before = hashes(tmp_path)
    flip(tmp_path / "_raydvae/stage2/model.safetensors")
    (tmp_path / f"{UNIT}.parquet").unlink()
    borrow()
    assert hashes(tmp_path) == before


def test_another_model_than_the_one_that_made_the_outputs_is_refused(
    copied: Path, digits_data: Dataset, tmp_path: Path
) -> None:
    other = small_config(seed=4)
    purify(digits_data, find_classes(digits_data), Store(str(tmp_path / "other")), other, until="stage1")
    shutil.copy(tmp_path / "other/_raydvae/stage1/model.safetensors", copied / "_raydvae/stage1/model.safetensors")
    (copied / f"{UNIT}.parquet").unlink()
    with pytest.raises(DataError, match="is not the model that made what pass1 has committed"):
        run(digits_data, copied)


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_state_begins_the_stage_anew_and_ends_the_same(
    harm: Harm, at_stage2: Path, done: Path, digits_data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(at_stage2, tmp_path / "out"))
    harm(out / "_raydvae/stage2/state.safetensors")
    again(digits_data, out)
    assert hashes(out) == hashes(done)
    if harm is not Path.unlink:
        assert "state.safetensors is damaged: the training begins anew" in caplog.text


SUMMARIES = [b"", b"[]", b'{"complete": true, "strange": 1}', b"\xff", b'{"seconds": {"pass1": "1"}}', b'{"rows": 3}']
SUMMARIES += [b'{"complete": true, "rows_in": 180, "rows_out": 170}', b'{"history": {"stage1": [3]}}']


@pytest.mark.parametrize("text", SUMMARIES)
def test_a_damaged_summary_is_made_again(text: bytes, copied: Path, done: Path, digits_data: Dataset) -> None:
    (copied / "_raydvae/summary.json").write_bytes(text)
    assert again(digits_data, copied) == []
    summary = Summary.load(damage.Run(Store(str(copied))))
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (180, 180, 0)
    assert len(summary.history["stage2"]) == 2


def test_damaged_metrics_are_nobodys_end(at_stage2: Path, done: Path, digits_data: Dataset, tmp_path: Path) -> None:
    out = Path(shutil.copytree(at_stage2, tmp_path / "out"))
    (out / "_raydvae/stage2/metrics.jsonl").write_bytes(b'{"epoch": 0\xff\n[]\n')
    again(digits_data, out)
    assert hashes(out) == hashes(done)
    lines = (out / "_raydvae/stage2/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_status_tells_of_damage_and_what_mends_it(copied: Path) -> None:
    assert status(Store(str(copied)))["damaged"] == []
    (copied / f"{UNIT}.parquet").unlink()
    cut(copied / "test-00002-of-00003-r0000000000.parquet")
    (copied / f"_raydvae/commits/pass1/{UNIT}.json").write_bytes(b"")
    told = status(Store(str(copied)))
    assert told["steps"]["pass3"]["done"] == 4
    (line,) = [line for line in lines(told) if line.startswith("  damaged")]
    assert "3 files are damaged" in line and f"{UNIT}.parquet is missing" in line and "raydvae purify" in line


def test_a_lost_run_json_is_no_new_run(copied: Path, digits_data: Dataset) -> None:
    (copied / "_raydvae/run.json").unlink()
    for lost in (lambda: None, lambda: [path.unlink() for path in copied.glob("*.parquet")]):
        lost()
        with pytest.raises(StorageError, match=r"_raydvae/run\.json is missing.*Put it back from a copy"):
            again(digits_data, copied)


def test_a_lost_model_of_a_complete_run_is_told_of(
    copied: Path, digits_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "_raydvae/stage2/model.safetensors").unlink()
    assert again(digits_data, copied) == []
    assert "stage2/model.safetensors is missing: its models cannot be lent" in caplog.text
