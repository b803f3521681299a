"""Tables made from the digits: what is computed once, what a stopped table does again, cards and pages."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raydvae.cli.main import run
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.importing import import_dataset
from raydvae.data.manifest import Run
from raydvae.data.store import Store
from raydvae.engine import InProcess, Silent
from raydvae.errors import ConfigError
from raydvae.evaluation import making
from raydvae.evaluation.bench import Bench
from raydvae.evaluation.cards import summed
from raydvae.evaluation.chains import Chains
from raydvae.evaluation.making import make_table, plan
from raydvae.evaluation.matrix import shared
from raydvae.evaluation.passes import AddEstimate
from raydvae.evaluation.steps import Source
from raydvae.evaluation.tables import TABLES
from raydvae.purify.algorithm import purify
from raydvae.reports.tables import DIGITS, write_tables
from raydvae.training.checkpoint import MODEL
from tests.evaluation.tiny import tiny

ONE_ROW = {"8": ("lsp 0.4", "lsp 0.08"), "9": ("lsp 0.4",), "16": (), "fig6": ("lsp", "lsp larger")}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "subset", lambda *_: tiny())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One folder for all tables, as a user would have it."""
    return Store(str(tmp_path_factory.mktemp("tables")))


def files(folder: Store) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.list() if name.endswith(".parquet")}


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_every_table(name: str, out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "8":  # a share of 8 % is one row of each class
        monkeypatch.setattr(making, "subset", lambda *_: tiny(rows=13))
    planned = plan(name, "digits", "subset", rows=ONE_ROW.get(name, ("lsp",)))
    cards, _ = make_table(planned, out, InProcess(), Silent())
    assert len(cards) == len(planned.cells)
    assert all(isinstance(card["value"], float) for card in cards)
    pages = write_tables(planned.table, cards, out)
    page = Path(pages["page"]).read_text()
    assert "<script" not in page
    for card in cards:
        if card["paper"] is not None:
            assert f"{card['paper']:.{DIGITS[card['unit']]}f}" in page
    again = make_table(planned, out, InProcess(), Silent())
    assert again[0] == cards
    assert not again[1].done, "nothing is done twice"


def test_one_diffusion_model_serves_all_poisons(out: Store) -> None:
    planned = plan("2", "digits", "subset", rows=("lsp", "clean"), columns=("ava",))
    cards, _ = make_table(planned, out, InProcess(), Silent())
    assert sum(step.kind == "diffusion" for step in shared(planned.cells).values()) == 1
    assert {card["paper"] for card in cards if card["column"] == "ava"} == {89.61, 81.15}


def test_purification_by_steps_is_algorithm_1_to_the_byte(tmp_path: Path) -> None:
    scale = tiny()
    train, test = Source("faint-digits", "train", 6), Source("faint-digits", "test", 6)
    bench = Bench(Store(str(tmp_path / "bench")), train, scale.image_size, scale.data, InProcess(threads=1))
    chains = Chains(scale, train, test, 0)
    p3 = chains.purified(train)
    bench.result(p3)
    whole = Store(str(tmp_path / "whole"))
    data = open_dataset(train.folder(bench).uri, scale.data)
    purify(data, find_classes(data), whole, scale.purify, InProcess(threads=1))
    made = {name: data for name, data in files(bench.home(p3)).items() if not name.startswith("_")}
    assert made == {name: data for name, data in files(whole).items() if not name.startswith("_")}
    assert made


class Stops(InProcess):
    """An engine that is interrupted after the first epoch of one of its trainings; ``epochs`` are all that it did."""

    def __init__(self, at: int = 0) -> None:
        super().__init__(threads=1)
        self.left, self.epochs = at, 0

    def train(self, job: Any, progress: Any = None) -> None:
        self.left -= 1

        def stop(metrics: dict[str, float]) -> None:
            self.epochs += 1
            if self.left == 0:
                raise KeyboardInterrupt

        super().train(job, stop)


def test_a_stopped_table_does_no_finished_step_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "subset", lambda *_: tiny(epochs=2))
    planned = plan("7", "digits", "subset", rows=("lsp",), columns=("2", "ours"))
    whole = Stops()
    straight, first = make_table(planned, Store(str(tmp_path / "straight")), whole, Silent())
    assert len(first.done) == planned.steps == len(shared(planned.cells))

    out = Store(str(tmp_path / "stopped"))
    stopped = Stops(at=3)  # both stages are trained, and the first classifier is in the middle
    with pytest.raises(KeyboardInterrupt):
        make_table(planned, out, stopped, Silent())
    done = {path.split("/")[1] for path in out.list() if path.endswith("/step.json")}
    assert Counter(key.split("-")[0] for key in done)["model"] == 2
    assert not out.list("cards")
    going_on = Stops()
    cards, last = make_table(planned, out, going_on, Silent())
    assert not set(last.done) & done
    assert len(last.done) + len(done) == planned.steps
    assert stopped.epochs + going_on.epochs == whole.epochs, "no epoch was trained again"
    assert [card["value"] for card in cards] == [card["value"] for card in straight]
    (sessions,) = {step["sessions"] for step in cards[0]["config"].values() if step["step"] == "classified"}
    assert sessions == 2, "the card says that the classifier's time is of two sessions"


def test_what_a_step_is_made_from_is_whole_or_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def made(folder: str, column: str) -> tuple[list[float], Counter[str]]:
        planned, out = plan("7", "digits", "subset", rows=("lsp",), columns=(column,)), Store(str(tmp_path / folder))
        cards, bench = make_table(planned, out, InProcess(threads=1), Silent())
        return [card["value"] for card in cards if card["column"] == planned.cells[0].column], Counter(
            key.split("-")[0] for key in bench.done
        )

    def data(kind: str) -> list[str]:
        return [name for name in out.list("steps") if f"/{kind}-" in name and name.endswith((".parquet", MODEL))]

    out, whole = Store(str(tmp_path / "out")), Store(str(tmp_path / "whole"))
    for folder in ("whole", "out"):
        made(folder, "2")
    out.delete(next(name for name in data("poisoned") if "_raydvae" not in name))
    (part,) = data("subtracted")
    out.write(part, out.read(part)[:-1])
    models = data("model")
    for name in models:
        out.write(name, out.read(name)[:-1] + b"?")
    expected, undisturbed = made("whole", "ours")
    found, done = made("out", "ours")
    assert undisturbed == {"purified": 1, "classified": 1}
    assert found == expected
    assert done == {"purified": 1, "classified": 1, "poisoned": 1, "subtracted": 1, "model": len(models)}
    assert caplog.text.count("has damaged files") == 2 + len(models)
    assert files(out) == files(whole)


@pytest.mark.parametrize("damage", [b"", b"{}"])
def test_damaged_records_of_a_table_are_made_again(damage: bytes, tmp_path: Path) -> None:
    planned, out = plan("7", "digits", "subset", rows=("lsp",), columns=("3",)), Store(str(tmp_path))
    cards, _ = make_table(planned, out, InProcess(threads=1), Silent())
    records = [name for name in out.list() if name.endswith(("/step.json", "/spent.json"))]
    for name in [*out.list("cards"), *records]:
        out.write(name, damage)
    again, _ = make_table(planned, out, InProcess(threads=1), Silent())
    assert [card["value"] for card in again] == [card["value"] for card in cards]


def test_no_record_of_a_step_holds_a_password(tmp_path: Path) -> None:
    source = Source("s3://me:of-secrets@bucket/data", "train")
    bench = Bench(Store(str(tmp_path)), source, 16, tiny().data, InProcess(threads=1))
    bench.given[source.key] = open_dataset(str(digits_of(tmp_path / "digits")), tiny().data)
    bench.result(source)
    assert all(b"of-secrets" not in data for data in bench.out.read_many(list(bench.out.list())).values())
    about = bench.home(source).read_json("_raydvae/step.json")["about"]
    assert about["uri"] == "s3://***@bucket/data"


def digits_of(folder: Path) -> Path:
    import_dataset("digits", Store(str(folder)), "digits", split="test", limit_per_class=1)
    return folder


def card(row: str, column: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    data = {"uri": "digits", "rows": 60, "classes": 10, "image_size": 16}
    made = {"device": "cpu", "workers": 1, "versions": {"raydvae": "0"}, "data": data, "config": {}, "scale": "subset"}
    known = {"unit": "%", "paper": None, "paper_doubt": "", "seconds": 1.0}
    return {"row": row, "column": column, "seed": seed, "value": value, **made, **known, **more}


def test_cards_become_mean_and_spread(tmp_path: Path) -> None:
    """Of 90, 92 and 97: mean 93, and a sample variance of (9 + 1 + 16) / 2."""
    cards = [card("lsp", "ours", seed, value, paper=91.2) for seed, value in enumerate((90.0, 92.0, 97.0))]
    cards += [card("rem", "at", 0, 40.0, paper=59.34, paper_doubt="copied")]
    found = summed(cards)["lsp", "ours"]
    assert (found.mean, found.seeds) == (93, 3)
    assert found.spread == pytest.approx(13**0.5)
    written = write_tables(TABLES["4"], cards, Store(str(tmp_path)))
    text = Path(written["markdown"]).read_text()
    assert "93.00 ± 3.61 (91.20)" in text
    assert "40.00 (59.34*)" in text
    assert "REM, AT: copied" in text
    page = Path(written["page"]).read_text()
    assert 'title="copied"' in page
    assert "93.00 ± 3.61" in page


def test_wrong_calls_end_with_a_message(
    tmp_path: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert run(["table", "2", "--data", "digits", "--scale", "full", *out]) == 2
    assert "no full scale" in capsys.readouterr().err
    assert run(["table", "2", "--data", str(digits_folder), *out]) == 2
    assert "not divided" in capsys.readouterr().err
    assert run(["table", "2", "--data", "digits", "--columns", "magic", *out]) == 2
    assert "'magic' among the columns" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_rows_to_grow_a_poison_from(tmp_path: Path) -> None:
    planned = plan("8", "digits", "subset", rows=("lsp 0.01",))
    with pytest.raises(ConfigError, match=r"0\.01 of the 60 rows"):
        make_table(planned, Store(str(tmp_path)), InProcess(), Silent())


def test_a_pass_travels_without_its_model(digits_data: Dataset, tmp_path: Path) -> None:
    run, config = Run(Store(str(tmp_path))), tiny().purify
    made = (config, config.stage1.model, Store(str(tmp_path)))
    work = AddEstimate("rebuild", run, digits_data, find_classes(digits_data), *made, clean=digits_data)
    there = pickle.loads(pickle.dumps(work))
    assert there.clean.files == digits_data.files
    assert there.inference is None


def test_the_command_ends_with_its_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["table", "10", "--data", "digits", "--rows", "lsp", "--columns", "p", "--out", str(tmp_path), "--json"]
    assert run(args) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["cells"], result["steps_done"]) == (1, 4)
    (path,) = tmp_path.glob("cards/table-10/lsp--p--seed0--*.json")
    made = json.loads(path.read_text())
    # LSP's noise is 4.0 long before the clipping at black and white and the rounding to bytes.
    assert 1.0 < made["value"] < 4.0
    assert made["paper"] == 0.99
    assert {"device", "versions", "data", "seconds", "config"} <= made.keys()
