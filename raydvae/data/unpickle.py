"""Arrays out of pickle files from outside, without running anything that such a file asks for.

A pickle is a program. This reader knows plain containers, texts, numbers and numpy arrays, and makes the arrays with
its own code: numpy's unpickling trusts its input, and a forged dtype could make it follow a wild pointer.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from raydvae.errors import DataError

NUMBERS = re.compile(r"[<>=|]?(b1|[iuf][1248]|f16|bool|u?int(8|16|32|64)|float(16|32|64))")


def load_arrays(data: bytes, where: str) -> Any:
    """Return the value pickled in ``data``: containers, texts, numbers, and numpy arrays of numbers.

    Texts that Python 2 wrote are bytes. Arrays are of a subclass of `numpy.ndarray`, and writable. Raises `DataError`,
    which names ``where``, when the file asks for any other class or function, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), where).load()
    except DataError:
        raise
    except Exception as error:  # a damaged or forged pickle fails in any way
        raise DataError(f"{where} is not a pickle of numpy arrays: {error or type(error).__name__}.") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file, encoding="bytes")
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get((module.replace("numpy._core.", "numpy.core."), name))
        if found is None:
            raise DataError(
                f"{self.where} asks for {module}.{name}, which is refused: only numpy arrays of numbers and plain "
                "containers are read from pickle files. Take the file from its official source, or convert it to .npy."
            )
        return found


class _Dtype:
    """Stands in for `numpy.dtype` while reading; plain numbers only."""

    __slots__ = ("value",)

    def __init__(self, name: str | bytes, *_flags: object) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not NUMBERS.fullmatch(text):
            raise ValueError(f"arrays of type {text!r} are refused, only numbers are read")
        self.value: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise ValueError(f"unknown byte order {order!r}")
        self.value = self.value.newbyteorder(order)


class _Array(np.ndarray[Any, np.dtype[Any]]):
    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        checked: Any = (1, _shape(shape, dtype, data), dtype.value, bool(fortran), bytes(data))
        super().__setstate__(checked)


_NDARRAY = object()  # stands in for the class numpy.ndarray, which is only ever passed on


def _reconstruct(_kind: object, _shape: object, _code: object) -> _Array:
    return _Array(0, np.uint8)


def _frombuffer(data: bytes, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = np.frombuffer(bytes(data), dtype.value).reshape(
        _shape(shape, dtype, data), order="F" if order == "F" else "C"
    )
    return array.copy(order="K").view(_Array)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.value).reshape(_shape((), dtype, data))[()]


def _shape(shape: Any, dtype: Any, data: Any) -> tuple[int, ...]:
    """Return ``shape`` if it is one, and just as many bytes are there as it needs."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise TypeError("an array of something else than numbers")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"an array of shape {shape!r}")
    if math.prod(sizes) * dtype.value.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {dtype.value}")
    return tuple(sizes)


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Python 3 writes bytes so where the protocol is older than bytes are."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"unknown encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


ALLOWED: dict[tuple[str, str], Callable[..., Any] | object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,  # its name in the protocols of Python 2
}
