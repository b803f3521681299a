"""One array out of a .pkl, .npy or .pt file from outside.

What a header promises is held against the file's bytes before memory is taken for it: neither numpy's nor torch's
reader does, and both trust more of what a file asks for than an array needs.
"""

from __future__ import annotations

import ast
import io
import math
import posixpath
import re
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydvae.data.unpickle import MAX_DIMENSIONS, NUMBERS, Unpickler, load_arrays, shown
from raydvae.errors import DataError

Values = npt.NDArray[Any]
NPY = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as in numpy
LEGACY = 0x1950A86A20F9469CFC6C  # the number that torch's files began with before they were zip files
KINDS = {  # numpy has no bfloat16: its bits are the upper half of a float32's
    **{"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "u2"},
    **{"ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8"},
    "BoolStorage": "b1",
}


def read_array(name: str, data: bytes, where: str) -> Values:
    """Return the one array in the file ``name`` of a release at ``where``; `DataError` if it holds anything else."""
    label = f"{where}: {name}"
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in (".pkl", ".pickle"):
        value = load_arrays(data, label)
    elif suffix == ".npy":
        value = _npy(data, label)
    elif suffix in (".pt", ".pth"):
        value = _pt(data, label)
    else:
        raise DataError(f"{label} is none of .pkl, .npy, .pt and .png; give a release as it was published.")
    if not isinstance(value, np.ndarray):
        raise DataError(f"{label} holds a {type(value).__name__}; expected one array.")
    return np.asarray(value)


def _npy(data: bytes, where: str) -> Values:
    try:
        if data[:6] != NPY or len(data) < 12 or data[6] not in (1, 2, 3):
            raise ValueError("it does not begin as one")
        wide = 2 if data[6] == 1 else 4
        start = 8 + wide
        length = int.from_bytes(data[8:start], "little")
        if length > min(MAX_HEADER, len(data) - start):
            raise ValueError(f"a header of {length} bytes")
        text = data[start : start + length].decode("utf-8" if data[6] == 3 else "latin1")
        header = ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text))  # Python 2 wrote 3L
        if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("a header of other fields")
        kind, shape = header["descr"], header["shape"]
        if not isinstance(kind, str) or not NUMBERS.fullmatch(kind):
            raise ValueError(f"values of type {shown(kind)}, only numbers are read")
        if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(_is_size(side) for side in shape):
            raise ValueError("a shape that is none")
        count, there = math.prod(shape), len(data) - start - length
        if count * np.dtype(kind).itemsize > there:
            raise ValueError(f"{there} bytes for an array of shape {shape} and type {kind}")
        values = np.frombuffer(data, kind, count, start + length)
        return values.reshape(shape, order="F" if header["fortran_order"] is True else "C")
    except Exception as error:  # as ast has it
        raise DataError(f"{where} is not a plain numpy file: {shown(error)}.") from None


@dataclass(slots=True)
class _Tensor:
    """A tensor of a .pt file: where its numbers lie."""

    kind: str
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str


def _pt(data: bytes, where: str) -> Any:
    try:
        value, stored = _pt_of_zip(data, where) if data[:2] == b"PK" else _pt_of_old(data, where)
        return _filled(value, stored[value.key]) if isinstance(value, _Tensor) else value
    except DataError:
        raise
    except Exception as error:  # zip files and pickles fail in any way
        what = f"{error} is missing" if isinstance(error, KeyError) else shown(error)
        raise DataError(f"{where} holds something else than tensors, or is damaged: {what}.") from None


def _pt_of_zip(data: bytes, where: str) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}

        def read(name: str) -> bytes:
            entry = archive.getinfo(names[name])
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
                raise ValueError(f"{name} is compressed, which torch never does")
            return archive.read(entry)

        if "byteorder" in names and read("byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        value = _Pickled(io.BytesIO(read("data.pkl")), where).load()
        return value, {value.key: read(f"data/{value.key}")} if isinstance(value, _Tensor) else {}


def _pt_of_old(data: bytes, where: str) -> tuple[Any, dict[str, bytes]]:
    file = io.BytesIO(data)
    if _Pickled(file, where).load() != LEGACY:
        raise ValueError("it does not begin as a file of torch")
    _version, _system = (_Pickled(file, where).load() for _ in range(2))
    value = _Pickled(file, where).load()
    stored: dict[str, bytes] = {}
    if isinstance(value, _Tensor):
        if _Pickled(file, where).load() != [value.key]:
            raise ValueError("it holds several tensors")
        size = int.from_bytes(file.read(8), "little") * np.dtype(KINDS[value.kind]).itemsize
        stored[value.key] = file.read(size)
    return value, stored


class _Pickled(Unpickler):
    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file, where, ALLOWED)

    def persistent_load(self, saved: Any) -> _Storage:
        name, kind, key = saved[:3]
        if name not in ("storage", b"storage") or not isinstance(kind, _Kind):
            raise ValueError("numbers that are not of a tensor")
        return _Storage(kind.name, key.decode("ascii") if isinstance(key, bytes) else str(key))


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_others: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without numbers")
    for sides in (size, stride, (offset,)):
        if not isinstance(sides, tuple) or len(sides) > MAX_DIMENSIONS or not all(_is_size(side) for side in sides):
            raise ValueError("a tensor whose shape is none")
    if len(size) != len(stride):
        raise ValueError("a tensor of several shapes")
    return _Tensor(storage.kind, storage.key, offset, size, stride)


def _hooks(*_others: object) -> dict[str, Any]:
    return {}


def _parameter(tensor: Any, *_others: object) -> Any:
    return tensor


def _filled(tensor: _Tensor, stored: bytes) -> Values:
    """Return the tensor's numbers, floats as torch's ``float()`` has them."""
    numbers = np.frombuffer(stored, KINDS[tensor.kind], len(stored) // np.dtype(KINDS[tensor.kind]).itemsize)
    count = math.prod(tensor.size)
    if count > len(numbers):
        raise ValueError(f"a tensor of {count} numbers, where {len(numbers)} are stored; write it with .contiguous()")
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.size, tensor.stride, strict=True))
    if count and last >= len(numbers):
        raise ValueError("a tensor that reaches beyond what is stored")
    steps = tuple(step * numbers.itemsize for step in tensor.stride)
    start = tensor.offset if count else 0
    values = np.lib.stride_tricks.as_strided(numbers[start:], tensor.size, steps, writeable=False)
    if tensor.kind == "BFloat16Storage":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): _hooks,
    **{(module, name): _Kind(name) for name in KINDS for module in ("torch", "torch.storage")},
}
