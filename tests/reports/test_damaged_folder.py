"""Reports of folders whose files are damaged or a stranger's: one sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydvae.data.store import Store
from raydvae.errors import DataError
from raydvae.reports.collect import write_report
from raydvae.reports.status import lines, status
from tests.fuzz.targets import ACCURACIES, COMMIT, JSONS, RUN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in JSONS.items():
        (tmp_path / "_raydvae" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_raydvae" / name).write_text(json.dumps(value))
    return tmp_path


def test_a_sound_folder_has_a_report(folder: Path) -> None:
    assert write_report(Store(str(folder))).endswith("report.html")
    assert lines(status(Store(str(folder))))[0].startswith("purify run")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("run.json", [], r"run\.json is damaged"),
        ("run.json", RUN | {"source": {}}, r"run\.json is damaged or not ours: source\.uri is missing"),
        (
            "run.json",
            RUN | {"classes": {"count": 3, "names": ["a"]}},
            r"run\.json is damaged or not ours: it has 3 classes",
        ),
        ("run.json", RUN | {"config": {"preset": []}}, r"run\.json is damaged or not ours: config\.preset is a list"),
        ("run.json", RUN | {"source": RUN["source"] | {"files": [["a", "1", 6, "0"]]}}, r"files\[0\]\[1\] is a text"),
        ("run.json", RUN | {"source": RUN["source"] | {"files": [[]]}}, r"files\[0\] has 0 entries"),
        ("run.json", RUN | {"config": {}}, r"config\.preset is missing"),
        ("run.json", {name: RUN[name] for name in RUN if name != "classes"}, r"classes is missing"),
        ("commits/pass1/a-r0000000000.json", "", r"commits/pass1/a-r0000000000\.json is damaged"),
        ("commits/pass1/a-r0000000000.json", [], r"commits/pass1/a-r0000000000\.json is damaged"),
        ("commits/pass1/a-r0000000000.json", COMMIT | {"rows_rejected": "0"}, r"a-r0000000000\.json is damaged"),
        ("commits/pass1/a-r0000000000.json", COMMIT | {"p_norms": {"9": [1, 1, 1]}}, r"it has norms of other classes"),
        ("commits/pass3/a-r0000000000.json", COMMIT | {"psnr_counts": [1]}, r"psnr_counts has 1 entries"),
        ("accuracies.json", ACCURACIES | {"clean": "x"}, r"accuracies\.json is damaged.*Delete it"),
        ("accuracies.json", [1], r"accuracies\.json is damaged.*Delete it"),
    ],
)
def test_a_damaged_file_is_named(name: str, value: Any, says: str, folder: Path) -> None:
    (folder / "_raydvae" / name).write_text(json.dumps(value) if value != "" else "")
    with pytest.raises(DataError, match=says):
        write_report(Store(str(folder)))


def test_an_endless_count_is_no_class_of_the_report(folder: Path) -> None:
    name = folder / "_raydvae/commits/pass1/a-r0000000000.json"
    name.write_text(json.dumps(COMMIT | {"p_norms": {"0": [float("inf"), 1, 1]}}))
    assert "Mean length of p̂" not in Path(write_report(Store(str(folder)))).read_text()


@pytest.mark.parametrize("samples", [None, b"damaged"])
def test_without_samples_and_source_there_are_no_pictures(
    samples: bytes | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "_raydvae/summary.json").write_text(json.dumps({"complete": True, "rows_in": 6, "rows_out": 6}))
    if samples:
        (folder / "_raydvae/samples.safetensors").write_bytes(samples)
    assert "<html" in Path(write_report(Store(str(folder)))).read_text()
    assert "The report has no pictures. Name the run's source with --source" in caplog.text
    assert "/nowhere does not exist" in caplog.text
    assert ("samples.safetensors is damaged" in caplog.text) == bool(samples)


@pytest.mark.parametrize("value", ["[]", "{}", '{"complete": 1}', '{"history": {"stage1": [1]}}', "", "[" * 9000])
@pytest.mark.parametrize("name", ["summary.json", "driver.json"])
def test_what_can_be_made_again_is(name: str, value: str, folder: Path) -> None:
    (folder / "_raydvae" / name).write_text(value)
    assert write_report(Store(str(folder))).endswith("report.html")
    assert lines(status(Store(str(folder))))
