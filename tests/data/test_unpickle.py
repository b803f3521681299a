"""Unpickling: arrays come through in every protocol, and nothing else runs or is built."""

from __future__ import annotations

import collections
import os
import pickle
import tracemalloc
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


def nested(steps: int = 60) -> bytes:
    """Steps that leave a tuple of two tuples of two tuples …, each pair one and the same: its text would be endless."""
    return b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (at, at, at + 1) for at in range(steps))


DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1I0\nI1\ntR"


@pytest.mark.parametrize(
    "program",
    [
        DTYPE + b"(I3\n" + nested() + b"NNNI-1\nI-1\nI0\ntb",  # as byte order
        b"cnumpy\ndtype\n(" + nested() + b"I0\nI1\ntR",  # as a type's name
        b"c_codecs\nencode\n(X\x01\x00\x00\x00a" + nested() + b"tR",  # as an encoding
        b"}" + nested() + b"Ns",  # as a key, which is hashed
        b"(" + nested() + b"Nd",
        b"\x8f(" + nested() + b"\x90",  # in a set
        b"N" + b"r\xff\xff\xff\xff",  # memory for 2^32 cells
        b"\x96" + (2**40).to_bytes(8, "little"),  # memory for a text of a tebibyte
        b"\x8e" + (2**40).to_bytes(8, "little"),
        b"X\xff\xff\xff\x7f",
        b"I" + b"9" * 5000 + b"\n",
    ],
)
def test_bombs_are_data_errors_at_once(program: bytes) -> None:
    tracemalloc.start()
    # LONG_BINPUT alone is harmless here: it is the value None.
    if program.startswith(b"Nr"):
        assert load_arrays(b"\x80\x02" + program + b".", "x") is None
    else:
        with pytest.raises(DataError, match="^x is not a pickle of numpy arrays: .{3,200}$"):
            load_arrays(b"\x80\x04" + program + b".", "x")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_arrays_have_no_more_bytes_than_the_file() -> None:
    part = np.zeros(1000, np.uint8).tobytes()
    shape = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntX\x01\x00\x00\x00btR"
    fill = b"(I1\n(I1000\nt" + DTYPE + b"I00\n"
    first = b"B" + len(part).to_bytes(4, "little") + part + b"q\x00"
    one = b"\x80\x03" + first + b"0" + shape + fill + b"h\x00tb."
    assert load_arrays(one, "x").shape == (1000,)
    many = b"\x80\x03" + first + b"0](" + (shape + fill + b"h\x00tb") * 20 + b"e."
    with pytest.raises(DataError, match="its arrays are larger than the file"):
        load_arrays(many, "x")


def test_functions_of_ours_cannot_be_given_another_state() -> None:
    with pytest.raises(DataError, match="a state for a function"):
        load_arrays(b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.", "x")
