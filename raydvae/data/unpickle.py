"""Arrays out of pickle files from outside, without running anything that such a file asks for.

A pickle is a program. This reader knows plain containers, texts, numbers and numpy arrays, and makes the arrays with
its own code: numpy's unpickling trusts its input, and a forged dtype could make it follow a wild pointer. It is built
on Python's own unpickler, not the one in C, which takes memory for any number of memory cells that a file names.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from raydvae.errors import DataError

NUMBERS = re.compile(r"[<>=|]?(b1|[iuf][1248]|f16|bool|u?int(8|16|32|64)|float(16|32|64))")
MAX_STEPS = 10_000_000  # of the program: CIFAR-100 has 200,000
MAX_DIMENSIONS = 32
REFUSED = (  # steps
    *(
        pickle.EMPTY_SET,
        pickle.ADDITEMS,
        pickle.FROZENSET,
    ),  # their values are hashed: of nested tuples it takes for ever
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
)
_PYTHONS: Any = pickle._Unpickler
Allowed = Mapping[tuple[str, str], Callable[..., Any] | object]


def load_arrays(data: bytes, where: str) -> Any:
    """Return the value pickled in ``data``: containers, texts, numbers, and numpy arrays of numbers.

    Texts that Python 2 wrote are bytes. Arrays are of a subclass of `numpy.ndarray`, and writable; together they have
    no more bytes than the file. Raises `DataError`, which names ``where``, when the file asks for any other class or
    function, or is damaged.
    """
    try:
        return Unpickler(io.BytesIO(data), where, ALLOWED).load()
    except DataError:
        raise
    except Exception as error:  # a damaged or forged pickle fails in any way
        raise DataError(f"{where} is not a pickle of numpy arrays: {shown(error)}.") from None


def shown(value: object) -> str:
    """Return a short text for a value out of a forged file, whose own text may be endless."""
    if isinstance(value, Exception):
        return (str(value) or type(value).__name__)[:200]
    return repr(value)[:60] if isinstance(value, str | bytes | int) else f"a {type(value).__name__}"


class Unpickler(_PYTHONS):  # type: ignore[misc]
    """Reads one pickle in bounded time and memory; what it may ask for by name is ``allowed``."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}  # filled below

    def __init__(self, file: io.BytesIO, where: str, allowed: Allowed) -> None:
        super().__init__(file, encoding="bytes")
        self.file, self.where, self.allowed = file, where, allowed
        self.steps = 0
        self.left = {"arrays": len(file.getbuffer()), "texts": len(file.getbuffer())}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the class or function of that name; `DataError` if it is not allowed."""
        found = self.allowed.get((module.replace("numpy._core.", "numpy.core."), name))
        if found is None:
            raise DataError(
                f"{self.where} asks for {module[:60]}.{name[:60]}, which is refused: only arrays of numbers and plain "
                "containers are read from pickle files. Take the file from its official source, or convert it to .npy."
            )
        return found

    def take(self, what: str, count: int) -> None:
        """Count bytes of ``what``; `ValueError` where they become more than the file has: shared ones are copied."""
        self.left[what] -= count
        if self.left[what] < 0:
            raise ValueError(f"its {what} are larger than the file")

    def _load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > len(self.file.getbuffer()):
            raise ValueError(f"a text of {size} bytes")
        self.append(bytearray(self.read(size)))

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(arguments, tuple) or not callable(function):
            raise TypeError("a call that is none")
        # The array of a _frombuffer, or the bytes of an _encode, are new memory.
        self.stack[-1] = function(*arguments)
        self._count(self.stack[-1])

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Dtype | _Array):
            raise TypeError(f"a state for {shown(self.stack[-1])}")
        self.stack[-1].__setstate__(state)
        self._count(self.stack[-1])

    def _count(self, made: object) -> None:
        if isinstance(made, np.ndarray):
            self.take("arrays", made.nbytes)
        elif isinstance(made, bytes):
            self.take("texts", len(made))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def _load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or not all(isinstance(key, str | bytes | int | float) for key in items[::2]):
            raise TypeError("keys that are neither texts nor numbers")
        target.update(zip(items[::2], items[1::2], strict=True))


def _refuse(_reader: Unpickler) -> None:
    raise ValueError("sets and objects are refused")


def _counted(step: Callable[[Unpickler], None]) -> Callable[[Unpickler], None]:
    def counted(reader: Unpickler) -> None:
        reader.steps += 1
        if reader.steps > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps")
        step(reader)

    return counted


def _steps() -> dict[int, Callable[[Any], None]]:
    ours = {
        pickle.BYTEARRAY8: Unpickler._load_bytearray8,
        pickle.REDUCE: Unpickler._load_reduce,
        pickle.BUILD: Unpickler._load_build,
        pickle.SETITEM: Unpickler._load_setitem,
        pickle.SETITEMS: Unpickler._load_setitems,
        pickle.DICT: Unpickler._load_dict,
    } | dict.fromkeys(REFUSED, _refuse)
    return {code: _counted(ours.get(bytes([code]), step)) for code, step in _PYTHONS.dispatch.items()}


Unpickler.dispatch.update(_steps())


class _Dtype:
    """Stands in for `numpy.dtype` while reading; plain numbers only."""

    __slots__ = ("value",)

    def __init__(self, name: str | bytes, *_flags: object) -> None:
        text = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not NUMBERS.fullmatch(text):
            raise ValueError(f"arrays of type {shown(text)} are refused, only numbers are read")
        self.value: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if not isinstance(order, str) or order not in ("<", ">", "=", "|"):
            raise ValueError(f"unknown byte order {shown(order)}")
        self.value = self.value.newbyteorder(order)  # type: ignore[arg-type]


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
    if len(sizes) > MAX_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise ValueError("an array of a shape that is none")
    if math.prod(sizes) * dtype.value.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {sizes} and type {dtype.value}")
    return tuple(sizes)


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Python 3 writes bytes so where the protocol is older than bytes are."""
    if not isinstance(text, str) or not isinstance(encoding, str | bytes) or encoding not in ("latin1", b"latin1"):
        raise ValueError(f"unknown encoding {shown(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


ALLOWED: Allowed = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,  # its name in the protocols of Python 2
}
