"""Arrays out of files from outside: what numpy and torch wrote comes through, what asks for more than it has does not."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch

from raydvae.attacks.arrays import read_array
from raydvae.errors import DataError

VALUES = np.arange(24.0).reshape(2, 3, 4)


def npy(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version)
    return buffer.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def pt(value: object, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "i1", "u1", "<i8", "?"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_numpy_files_of_all_kinds(kind: str, version: tuple[int, int]) -> None:
    for values in (VALUES.astype(kind), np.asfortranarray(VALUES.astype(kind)), VALUES[:0].astype(kind)):
        read = read_array("a.npy", npy(values, version), "here")
        assert np.array_equal(read, values)
        assert (read.dtype, read.shape) == (values.dtype, values.shape)


def test_a_numpy_file_of_python_2() -> None:
    data = header("{'descr': '<i2', 'fortran_order': False, 'shape': (2L, 1L), }          \n", b"\x01\x00\x02\x00")
    assert read_array("a.npy", data, "here").tolist() == [[1], [2]]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64])
def test_torch_files_of_all_kinds(kind: torch.dtype, new: bool) -> None:
    tensor = torch.from_numpy(VALUES).to(kind)
    for value in (tensor, tensor.transpose(0, 2), tensor[1:, :, 2], tensor[:0], torch.nn.Parameter(tensor.float())):
        read = read_array("a.pt", pt(value, new), "here")
        assert np.array_equal(read, value.detach().float().numpy())
        assert read.dtype == np.float32


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop them
        return torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8)


def huge(shape: str = "(1099511627776,)", kind: str = "'<f4'") -> bytes:
    return header(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n", b"1234")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (huge(), "4 bytes for an array of shape"),
        (huge("(0, 9999999999999999999999)"), "a shape that is none"),
        (huge("(-1, -1)"), "a shape that is none"),
        (huge("(1.0,)"), "a shape that is none"),
        (huge("(1," * 50 + "1" + ")" * 50), "a shape that is none"),
        (huge(kind="'|O'"), "only numbers are read"),
        (huge(kind="[('a', '<f4')]"), "only numbers are read"),
        (header("{'descr': '<f4', 'shape': (1,)}"), "a header of other fields"),
        (header("(" * 9000), "not a plain numpy file"),  # numpy ends in a TokenError
        (header("{'descr': '<f4"), "not a plain numpy file"),
        (header("9" * 9000), "not a plain numpy file"),
        (header("x")[:9], "not a plain numpy file"),
        (b"\x93NUMPY\x09\x00xxxxxx", "does not begin as one"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7fxx", "a header of 2147483647 bytes"),
    ],
)
def test_numpy_files_that_promise_more_than_they_hold(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=f"here: a.npy is not a plain numpy file: .*{says}|here: a.npy is {says}"):
        read_array("a.npy", data, "here")


def changed(name: str, old: bytes, new: bytes, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.namelist():
            content = source.read(entry)
            assert not entry.endswith(name) or old in content
            target.writestr(entry, content.replace(old, new) if entry.endswith(name) else content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            pt(torch.zeros(1).expand(2**40)),
            "a tensor of 1099511627776 numbers, where 1 are stored; write it with .contig",
        ),
        (pt(torch.zeros(2, 2).to_sparse()), "refused"),
        (pt(torch.zeros(2**40, device="meta")), "refused"),
        (pt(quantized()), "refused"),
        (pt(torch.zeros(4, dtype=torch.complex64)), "refused"),
        (pt({"a": torch.zeros(1)}), "holds a dict; expected one array"),
        (pt([torch.zeros(1)] * 3), "holds a list; expected one array"),
        (
            changed("data.pkl", b"", b"", pt(torch.zeros(9)), zipfile.ZIP_DEFLATED),
            "is compressed, which torch never does",
        ),
        (changed("data.pkl", b"K\x09", b"K\x0a", pt(torch.zeros(9))), "a tensor of 10 numbers, where 9 are stored"),
        (changed("data.pkl", b"K\x00K\x09", b"K\x05K\x09", pt(torch.zeros(9))), "reaches beyond what is stored"),
        (changed("data/0", b"\x00", b"", pt(torch.zeros(9))), "a tensor of 9 numbers, where 0 are stored"),
        (b"PK\x03\x04", "File is not a zip file"),
        (b"", "something else than tensors"),
        (pickle.dumps(1), "does not begin as a file of torch"),
    ],
)
def test_torch_files_that_promise_more_than_they_hold(data: bytes, says: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=f"here: a.pt .*{says}"):
        read_array("a.pt", data, "here")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
