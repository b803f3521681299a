from __future__ import annotations

import re

import pytest

from raydvae.evaluation.cards import Summed
from raydvae.evaluation.tables import TABLES
from raydvae.reports.plots import draw
from raydvae.reports.tables import name
from tests.reports.test_report_figures import texts


def cell(mean: float) -> Summed:
    return Summed(mean, None, 1, "%", None, "", 1.0)


def cells(table: str, *rows: str) -> dict[tuple[str, str], Summed]:
    """Every cell of ``rows``, with a value of its own."""
    columns = TABLES[table].columns
    return {(row, column): cell(10.0 + i + 0.5 * j) for i, row in enumerate(rows) for j, column in enumerate(columns)}


def points(svg: str) -> list[int]:
    """Points of each line that is drawn, by the width of its stroke; a legend shows three of each."""
    found = re.findall(r'<path d="([^"]*)"[^>]*stroke-width: 1\.4', svg)
    return sorted(len(re.findall("[ML]", path)) for path in found)


@pytest.mark.parametrize(("table", "a_row"), [("fig2", 3), ("fig5", 1), ("fig6", 1)])
def test_each_attack_has_its_charts_and_names_its_lines(table: str, a_row: int) -> None:
    charts = draw(table, cells(table, "em", "lsp"), ["em", "lsp"], name)
    assert len(charts) == 2 * a_row
    assert len({chart.caption for chart in charts}) == len(charts), "labels on a page must differ"
    for chart in charts:
        assert chart.caption.startswith(("EM:", "LSP:"))


def test_a_trade_is_drawn_at_its_psnr_for_both_purifiers() -> None:
    made = cells("fig2", "lsp")
    chart = draw("fig2", made, ["lsp"], name)[-1]
    found = texts(chart.svg)
    assert {"LSP", "VAE", "JPEG", "PSNR, dB", "test accuracy, %"} <= set(found)
    assert points(chart.svg) == [3, 3, 5, 7]
    no_psnr = {place: value for place, value in made.items() if place[1] != "jpeg 2 psnr"}
    assert points(draw("fig2", no_psnr, ["lsp"], name)[-1].svg) == [3, 3, 5, 6], "a point needs both of its figures"


def test_figure_6_has_clean_images_and_the_larger_bound_beside_an_attack() -> None:
    rows = ("clean", "lsp", "lsp larger")
    [chart] = draw("fig6", cells("fig6", *rows), rows, name)
    assert {"LSP", "LSP, larger bound", "clean images"} <= set(texts(chart.svg))
    assert {"0.25", "0.5", "1", "2", "4"} <= set(texts(chart.svg)), "each target has its tick"


def test_one_point_makes_no_line_and_other_tables_have_no_charts() -> None:
    one = {("lsp", "vae 1 psnr"): cell(25.0), ("lsp", "vae 1 acc"): cell(80.0), ("lsp", "jpeg 10 acc"): cell(70.0)}
    assert draw("fig2", one, ["lsp"], name) == []
    assert draw("2", {("lsp", "jpeg"): cell(80.0)}, ["lsp"], name) == []
