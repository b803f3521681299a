"""Tables as cells, and cells as steps that are shared."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from raydvae.errors import ConfigError
from raydvae.evaluation.matrix import Cell, expand, shared
from raydvae.evaluation.steps import Source
from raydvae.evaluation.tables import TABLES, find_table
from tests.evaluation.tiny import tiny

TRAIN, TEST = Source("faint-digits", "train", 6), Source("faint-digits", "test", 6)


def cells(name: str, *rows: str, columns: tuple[str, ...] = (), seeds: int = 1) -> list[Cell]:
    return expand(TABLES[name], tiny(), TRAIN, TEST, seeds, rows, columns)


def kinds(made: list[Cell]) -> Counter[str]:
    return Counter(step.kind for step in shared(made).values())


def test_ablations_share_their_models() -> None:
    """Of six methods: one poison; stage 1, stage 2, and the one D-VAE of a purification without stage 1."""
    made = cells("7", "lsp")
    assert len(made) == 6
    assert kinds(made) == Counter(
        source=2, poisoned=1, model=3, subtracted=1, purified=2, twice=1, reconstructed=2, classified=6
    )


def test_tables_share_steps() -> None:
    seven, one = shared(cells("7", "lsp")), shared(cells("1", "lsp"))
    both = seven.keys() & one.keys()
    assert Counter(seven[key].kind for key in both) == Counter(source=2, poisoned=1, model=1)
    two, three = shared(cells("2", "ops", columns=("bdr", "gray", "jpeg"))), shared(cells("3", "ops", columns=("iss",)))
    assert two.keys() == three.keys(), "the best of three is of the same three"


def test_pairs_of_targets_share_stage_1() -> None:
    made = cells("18", "lsp", columns=("1.0/3.0", "1.0/3.5", "1.5/3.0"))
    assert kinds(made)["model"] == 2 + 3


def test_seeds_share_what_is_not_random() -> None:
    """JPEG of clean data is the same for every seed; what learns from it is not."""
    assert kinds(cells("2", "clean", columns=("jpeg",), seeds=3)) == Counter(source=2, defended=1, classified=3)
    assert kinds(cells("2", "lsp", columns=("jpeg",), seeds=3))["poisoned"] == 3


def test_a_key_stands_for_everything_below() -> None:
    (cell,) = cells("2", "lsp", columns=("ours",))
    (step,) = cell.measure.steps
    attack = dataclasses.replace(tiny().attacks["lsp"], norm=1.0)
    weaker = dataclasses.replace(tiny(), attacks={**tiny().attacks, "lsp": attack})
    (other,) = expand(TABLES["2"], weaker, TRAIN, TEST, 1, ["lsp"], ["ours"])
    assert step.settings == other.measure.steps[0].settings
    assert step.key != other.measure.steps[0].key
    changed = dataclasses.replace(TRAIN, fingerprints=("other rows",))
    (of_others,) = expand(TABLES["2"], tiny(), changed, TEST, 1, ["lsp"], ["ours"])
    assert step.key != of_others.measure.steps[0].key
    assert cell.file != other.file


def test_rows_and_columns_are_chosen_by_name_or_first_word() -> None:
    assert {cell.row for cell in cells("9", "lsp")} == {"lsp 0.2", "lsp 0.4", "lsp 0.6", "lsp 0.8"}
    assert {cell.row for cell in cells("9", "lsp 0.4")} == {"lsp 0.4"}
    assert {cell.row for cell in cells("2")} == {"clean", "lsp"}, "the usual attacks of this scale"
    assert "rn-50" not in {cell.column for cell in cells("2")}
    assert {cell.column for cell in cells("2", columns=("rn-50",))} == {"rn-50"}
    with pytest.raises(ConfigError, match="'lps' among the rows"):
        cells("2", "lps")
    with pytest.raises(ConfigError, match="seeds is 0"):
        cells("2", seeds=0)
    with pytest.raises(ConfigError, match="no table '6'"):
        find_table("6")


def test_every_table_has_cells_with_names_of_their_own() -> None:
    for name in TABLES:
        made = expand(TABLES[name], tiny(), TRAIN, TEST, 2)
        assert made
        assert len({cell.file for cell in made}) == len(made)
