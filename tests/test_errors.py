"""Errors cross process borders unchanged, and carry the exit code that the command line ends with."""

from __future__ import annotations

import pickle

import pytest

from raydvae.errors import ConfigError, DataError, Interrupted, RaydvaeError, StorageError

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
