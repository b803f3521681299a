"""The paper's figures: each column averages to the mean that is printed below it, or is marked."""

from __future__ import annotations

import pytest

from raydvae.evaluation.paper import DOUBTS, PAPER, printed
from raydvae.evaluation.tables import TABLES

MEANS = [(table, column) for table in PAPER for row, column in PAPER[table] if row == "mean"]


@pytest.mark.parametrize(("table", "column"), MEANS)
def test_columns_average_to_their_printed_mean(table: str, column: str) -> None:
    rows = [row for row in TABLES[table].rows if row not in ("clean", "psnr")]
    values = [PAPER[table].get((row, column)) for row in rows]
    if None in values:
        return  # a column of which our copy has lost a part
    mean = sum(value for value in values if value is not None) / len(values)
    off = abs(mean - PAPER[table]["mean", column]) > 0.021  # printed means are of figures that are rounded themselves
    assert off == bool(printed(table, "mean", column).doubt), (mean, PAPER[table]["mean", column])


def test_figures_as_they_stand_in_the_paper() -> None:
    """Rows and columns as printed, typed from the paper once more."""
    columns_of = {
        ("7", "3"): "12.78 78.96 21.12 25.44 4.83 93.47 11.49 41.57 36.21",
        ("7", "1"): "78.62 91.85 90.97 82.06 90.76 66.76 91.39 51.71 80.52",
        ("18", "0.5/3.0"): "89.18 91.64 90.38 85.47 90.23 91.40 90.80 89.39 89.56",
        ("17", "jpeg 70"): "60.19 42.23 57.45 63.39 59.09 29.19 80.01 59.81 56.42",
    }
    attacks = ("ntga", "em", "tap", "rem", "sep", "lsp", "ar", "ops", "mean")
    for (table, column), text in columns_of.items():
        assert [printed(table, row, column).value for row in attacks] == [float(part) for part in text.split()]
    rows_of = {
        ("3", "sep", "w/o at aa iss ava lfu ours"): "4.66 57.93 27.77 57.76 59.80 32.03 64.02",
        ("5", "rem", "w/o at aa iss ava lfu ours"): "23.22 35.41 50.92 75.50 52.26 83.10 79.18",
        ("4", "clean", "w/o at aa iss ours"): "80.52 55.94 71.56 76.92 76.78",
        ("2", "clean", "w/o at aa bdr gray jpeg ava lfu ours rn-50 dn-121 mn-v2"): (
            "94.57 85.17 92.27 88.95 92.74 85.47 89.61 86.78 93.29 93.08 93.73 83.61"
        ),
        ("8", "ops 0.4", "acc recall precision f1"): "0.842 0.991 0.719 0.833",
        ("1", "em", "t d p"): "9.7 9.6 91.3",
        ("10 cifar100", "ops", "p p_hat mse psnr"): "1.34 1.82 2.0 37.3",
        ("16", "ours", "d-vae inference classifier total"): "23 2 16 41",
    }
    for (table, row, heads), text in rows_of.items():
        assert [printed(table, row, head).value for head in heads.split()] == [float(part) for part in text.split()]
    assert printed("8", "lsp 0.04", "test").value == 14.05
    assert printed("9", "tap 0.8", "ours").value == 91.10
    assert printed("2", "lsp", "bdr").value == 40.25
    assert printed("2", "em", "lfu").value is None, "lost in our copy"


def test_figures_that_cannot_be_right_are_marked() -> None:
    for cell in (("4", "rem", "at"), ("4", "lsp", "iss"), ("17", "mean", "jpeg 10"), ("18", "mean", "0.5/3.0")):
        assert printed(*cell).value is not None
        assert printed(*cell).doubt
    assert not printed("4", "em", "at").doubt
    known = {(table, row, column) for table, cells in PAPER.items() for row, column in cells}
    assert set(DOUBTS) <= known, "a mark without a figure"


def test_every_printed_cell_is_a_cell_of_its_table() -> None:
    for name, cells in PAPER.items():
        table = TABLES[name.split()[0]]
        rows = {row for row, _ in cells} - {"mean"}
        assert rows <= set(table.rows)
        assert {column for _, column in cells} <= set(table.columns)
