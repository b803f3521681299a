"""Errors cross process borders unchanged, and carry the exit code that the command line ends with."""

from __future__ import annotations

import pickle

import pytest

from raydvae.errors import ConfigError, DataError, Interrupted, RaydvaeError, StorageError, safe_lines, shown

CODES = {RaydvaeError: 1, ConfigError: 2, DataError: 3, StorageError: 4, Interrupted: 130}


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(kind: type[RaydvaeError], protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(kind("what, which, what next"), protocol))
    assert type(copy) is kind
    assert str(copy) == "what, which, what next"
    assert copy.exit_code == CODES[kind]


def test_one_tree() -> None:
    assert all(issubclass(kind, RaydvaeError) for kind in CODES if kind is not Interrupted)
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain name, ü 图", "plain name, ü 图"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("caf\udce9.png", r"caf\xe9.png"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        ("\ud800", r"\ud800"),
    ],
)
def test_names_are_shown_as_one_line_of_what_can_be_printed(text: str, safe: str) -> None:
    assert shown(text) == safe
    assert shown(safe) == safe


def test_lines_stay_lines_but_nothing_else_reaches_the_terminal() -> None:
    assert safe_lines("a\n\tb\x1b[2J\udcff\n") == "a\n\tb\\x1b[2J\\xff\n"
