"""Parquet footers from outside: what makes pyarrow abort is refused before pyarrow sees it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from raydvae.data.classes import find_classes
from raydvae.data.dataset import open_dataset
from raydvae.data.parquet_check import check_parquet, open_parquet
from raydvae.errors import DataError
from tests.data.helpers import as_bytes, random_images

TABLE = pa.table(
    {"image": [as_bytes(image) for image in random_images(6)], "label": list(range(6)), "text": list("abcdef")}
)


def written(table: pa.Table = TABLE, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


class Keys(pe.KmsClient):
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return key.hex().encode()

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return bytes.fromhex(key.decode())


@pytest.mark.parametrize("plain_footer", [True, False])
def test_an_encrypted_file_is_refused_by_name(plain_footer: bool, tmp_path: Path) -> None:
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": ["label"]}, plaintext_footer=plain_footer)
    properties = pe.CryptoFactory(Keys).file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(tmp_path / "a.parquet", TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)
    with pytest.raises(DataError, match=r"a\.parquet is encrypted, and raydvae has no keys; write it again"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_all_that_pyarrow_writes_is_read(compression: str, version: str) -> None:
    data = written(compression=compression, version=version, row_group_size=2, data_page_version=version[:1] + ".0")
    assert open_parquet(data, "F").read().equals(TABLE)


def test_tables_of_all_types_and_none_are_read() -> None:
    columns = {
        "list": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
        "struct": pa.array([{"a": 1.5, "b": None}, None, {"a": 2.0, "b": "x"}]),
        "fixed": pa.array([b"ab", b"cd", None], pa.binary(2)),
        "decimal": pa.array([1, 2, None]).cast(pa.decimal128(22, 3)),
        "time": pa.array([0, 2**40, None], pa.timestamp("us", "UTC")),
        "null": pa.nulls(3),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "bool": pa.array([True, False, None]),
        "half": pa.array(np.array([1, 2, 3], np.float16)),
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    }
    table = pa.table(columns)
    assert open_parquet(written(table), "F").read().equals(table)
    for empty in (table.slice(0, 0), pa.table({})):
        assert open_parquet(written(empty), "F").read().num_rows == 0


def test_the_end_of_a_file_is_enough(tmp_path: Path) -> None:
    data = written(pa.table({"image": [b"x" * 300_000], "label": [1]} | {f"c{i}": [i] for i in range(1000)}))
    end = check_parquet(io.BytesIO(data), "F")
    assert 65_536 < len(end) < 300_000
    assert pq.read_metadata(pa.BufferReader(end)).num_columns == 1002


def varint(value: int) -> bytes:
    out = bytearray()
    value = value << 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def forged(old: bytes, new: bytes, data: bytes) -> bytes:
    """``data`` with ``old``, which is there, replaced in its footer."""
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    assert old in footer
    footer = footer.replace(old, new)
    return data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


ROWS = 12_345


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"\x16" + varint(ROWS), b"\x16" + varint(2**50), "where a file of this size has at most"),
        (b"\x16" + varint(ROWS), b"\x16" + varint(2**31), "where a file of this size has at most"),
        (b"\x16" + varint(ROWS), b"\x16\x01", "-1 "),
        (b"\x19\x18\x05label\x15\x00", b"\x19\x18\x05label\x15\x62", "compression number 49, which is not supported"),
        (b"\x19\x18\x05label\x15\x00", b"\x19\x18\x05label\x15\x06", "compression lzo, which is not supported"),
        (b"\x19\x18\x05label\x15\x00", b"\x19\x18\x05\xff\xff\xff\xff\xff\x15\x00", "can't decode byte"),
    ],
)
def test_a_forged_footer_is_refused_by_name(old: bytes, new: bytes, says: str) -> None:
    table = pa.table({"label": np.arange(ROWS, dtype=np.int64)})
    data = written(table, compression="none", use_dictionary=False, write_statistics=False)
    assert open_parquet(data, "F").read().equals(table)
    with pytest.raises(
        DataError, match=rf"^F is not a readable parquet file: its footer is damaged or forged .*{says}"
    ):
        open_parquet(forged(old, new, data), "F")


def test_other_files_are_refused_by_name() -> None:
    data = written()
    for other in (b"", b"PAR1", b"x" * 100, data[:-1], data[: len(data) // 2]):
        with pytest.raises(DataError, match="^F is not a readable parquet file: it does not end as one"):
            open_parquet(other, "F")
    with pytest.raises(DataError, match="its footer of 1000000 bytes is more than the file"):
        open_parquet(data[:-8] + (10**6).to_bytes(4, "little") + b"PAR1", "F")
    with pytest.raises(DataError, match="damaged or forged"):
        open_parquet(b"PAR1" + b"\x00" * 100 + (100).to_bytes(4, "little") + b"PAR1", "F")
    with pytest.raises(DataError, match="nested too deeply"):
        open_parquet(b"PAR1" + b"\xdc" * 100 + (100).to_bytes(4, "little") + b"PAR1", "F")


def test_sizes_of_another_type_than_their_column_s_are_refused() -> None:
    data = written(pa.table({"x": [[1], [2, 3]]}), use_dictionary=False)  # with counts of how deep values lie
    with pytest.raises(DataError, match="sizes of another type than their column's"):
        open_parquet(forged(b"\x35\x04\x18\x04list", b"\x35\x00\x18\x04list", data), "F")


def test_labels_that_are_no_text_are_no_labels(tmp_path: Path) -> None:
    parts = [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    labels = pa.Array.from_buffers(pa.string(), 2, parts)
    pq.write_table(pa.table({"image": TABLE["image"].slice(0, 2), "label": labels}), tmp_path / "a.parquet")
    data = open_dataset(str(tmp_path))
    classes = find_classes(data)
    assert classes.names == ("a",)
    assert classes.numbers(next(data.labels())).tolist() == [0, -1]
