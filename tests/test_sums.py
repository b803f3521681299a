"""Sums of what no processor rounds otherwise: a change of structure must not change them.

What is trained is compared between two versions on one machine instead: `python -m tests.golden OLD NEW`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from raydvae.cli.main import run
from raydvae.config import DataConfig
from raydvae.data.classes import find_classes
from raydvae.data.dataset import Dataset, open_dataset
from raydvae.data.rows import decode_rows
from tests.data.helpers import as_bytes, random_images, struct_table, write

SIDE, ROWS = 16, 40
RUNS = {
    "lsp": (["poison", "lsp"], "6cdb0c1bf2410694"),
    "lsp-half": (["poison", "lsp", "--ratio", "0.5", "--seed", "3"], "4e0c0fcf37d0840e"),
    "ops": (["poison", "ops"], "b72384e1caf9e525"),
    "ar": (["poison", "ar"], "197330fac6dd3b00"),
    "bdr": (["defend", "bdr"], "f978e9b8d5c8b462"),
    "gray": (["defend", "gray"], "b966336d27ec09cb"),
    "jpeg": (["defend", "jpeg"], "4a4c45aac1c5452e"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of four classes, in two files."""
    noise = random_images(ROWS, 4, seed=1)
    images = noise.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    table = struct_table([as_bytes(image) for image in images], [row % 4 for row in range(ROWS)])
    folder = write(tmp_path_factory.mktemp("source"), table.slice(0, 25), "a.parquet", groups=10)
    return write(folder, table.slice(25), "sub/b.parquet")


def pixels(data: Dataset) -> str:
    """Return the sum of all pixels, in order."""
    digest = hashlib.sha256()
    classes = find_classes(data)
    for unit in data.units():
        digest.update(np.ascontiguousarray(decode_rows(data, unit, data.read(unit), classes, SIDE).images).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", RUNS)
def test_pixels(name: str, source: Path, tmp_path: Path) -> None:
    command, expected = RUNS[name]
    assert run([*command[:2], str(source), str(tmp_path / "out"), *command[2:]]) == 0
    assert pixels(open_dataset(str(tmp_path / "out"))) == expected


def test_units_and_rows(source: Path) -> None:
    data = open_dataset(str(source), DataConfig(unit_rows=10))
    assert [unit.id for unit in data.units()] == [
        "a-r0000000000", "a-r0000000010", "a-r0000000020", "sub/b-r0000000000", "sub/b-r0000000010",
    ]  # fmt: skip
    assert [unit.rows for unit in data.units()] == [10, 10, 5, 10, 5]
    assert data.units()[3].row_ids()[:2] == ["sub/b.parquet#0", "sub/b.parquet#1"]
