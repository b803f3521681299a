"""Unpickling: arrays come through in every protocol, and nothing else runs or is built."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from raydvae.data.unpickle import load_arrays
from raydvae.errors import DataError

ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(3, dtype=">i4"),
    np.zeros((0, 3), np.float32),
    np.array(5),
    np.array([True, False]),
    np.array([1.5], np.float16),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_as_pickle_itself_reads_them(protocol: int) -> None:
    for array in ARRAYS:
        data = pickle.dumps(array, protocol)
        read, expected = load_arrays(data, "x"), pickle.loads(data)
        assert isinstance(read, np.ndarray)
        assert np.array_equal(read, expected)
        assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
        assert read.flags.writeable


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_texts_and_numbers(protocol: int) -> None:
    value = {b"a": [1, "x", b"", b"\xff", None, 2.5, True, 10**30], "k": (1, [()]), "s": [np.int64(4), np.float32(2)]}
    assert load_arrays(pickle.dumps(value, protocol), "x") == value


def test_python_2_texts_are_bytes() -> None:
    assert load_arrays(b"(dp1\nS'data'\np2\nI7\ns.", "x") == {b"data": 7}


class Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_is_refused_by_name_and_not_run(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"data": [Command(f"touch {tmp_path}/ran")]}, protocol)
    with pytest.raises(DataError, match=r"batch_1 asks for (posix|nt)\.system, which is refused"):
        load_arrays(data, "batch_1")
    assert os.listdir(tmp_path) == []
    pickle.loads(data)  # the file would have done harm
    assert os.listdir(tmp_path) == ["ran"]


@pytest.mark.parametrize(
    "value",
    [
        np.array([object, None]),
        np.array(["text"]),
        np.zeros(2, [("x", "O")]),
        np.zeros(2, [("x", "i4")]),
        np.datetime64("2020-01-01"),
        collections.OrderedDict(a=1),
        Path("x"),
        len,
        1j,
    ],
    ids=repr,
)
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="refused"):
        load_arrays(pickle.dumps(value), "x")


def test_damaged_files_are_data_errors() -> None:
    data = pickle.dumps(ARRAYS[0])
    for broken in (b"", b"not a pickle", data[:-5], data[:40]):
        with pytest.raises(DataError, match="x is not a pickle of numpy arrays"):
            load_arrays(broken, "x")


def test_forged_shapes_are_data_errors() -> None:
    class Forged:
        def __init__(self, shape: object, data: object) -> None:
            self.state = (1, shape, np.dtype(np.uint8), False, data)

        def __reduce__(self) -> tuple[object, ...]:
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state

    assert load_arrays(pickle.dumps(Forged((2, 2), b"abcd")), "x").tolist() == [[97, 98], [99, 100]]
    for shape, data in [((10**9,), b"abcd"), ((-1, -4), b"abcd"), ((2.0, 2), b"abcd"), ((4,), [1, 2, 3, 4])]:
        with pytest.raises(DataError, match="x is not a pickle"):
            load_arrays(pickle.dumps(Forged(shape, data)), "x")
