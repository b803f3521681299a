"""The readers of bytes from outside: valid files for each, and how one is read to the end."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raydvae.attacks.artifacts import read_artifact
from raydvae.config import DataConfig, to_dict
from raydvae.data.classes import find_classes
from raydvae.data.codecs import BadImage, decode, size_of
from raydvae.data.dataset import Dataset, open_dataset, probe_size
from raydvae.data.flags import flags_table, parse_flags
from raydvae.data.importing import import_dataset
from raydvae.data.inspection import inspect_dataset
from raydvae.data.manifest import Run, parquet_bytes
from raydvae.data.rows import decode_rows
from raydvae.data.store import Store
from raydvae.data.unpickle import load_arrays
from raydvae.purify.algorithm import Summary
from raydvae.purify.passes import PSNR_EDGES
from raydvae.reports.collect import write_report
from raydvae.reports.samples import Samples
from raydvae.reports.status import lines, status
from raydvae.training.checkpoint import load_model, load_state, save_model, save_state
from raydvae.training.loop import TrainState
from tests.conftest import small_config
from tests.fuzz.mutate import spoil, spoil_json

Spoil = Callable[[bytes, Sequence[bytes], random.Random], bytes]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LIMITS = DataConfig(max_image_pixels=4_000_000)
BAD = "misbehaving"  # a reader that the harness itself is tested with
FOLDER = Path(tempfile.gettempdir()) / "raydvae-fuzz"


@dataclass(frozen=True)
class Target:
    """One reader: ``make`` returns valid files, ``read`` reads one; ``allowed`` may come out besides our errors."""

    make: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    spoil: Spoil = spoil
    allowed: tuple[type[Exception], ...] = field(default=())

    @cached_property
    def seeds(self) -> list[bytes]:
        return self.make()


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.tile(PIXELS[0], (2, 2, 1))).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def images() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded("JPEG"), encoded("JPEG", progressive=True, exif=exif), encoded("JPEG", "CMYK"), encoded("JPEG", "L")),
        *(encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "RGBA"), encoded("PNG", "I;16"), encoded("PNG", "1")),
        *(encoded("WEBP"), encoded("WEBP", "RGBA", lossless=True), encoded("BMP"), encoded("GIF"), encoded("TIFF")),
        encoded("TIFF", compression="tiff_lzw"),
    ]


def read_image(data: bytes) -> object:
    size_of(data)
    return decode(data, LIMITS).shape


def table(kind: str = "struct", label: Any = None, **others: Any) -> pa.Table:
    files = [encoded("PNG") for _ in PIXELS]
    image = {
        "struct": lambda: pa.array([{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(files)]),
        "bytes": lambda: pa.array(files, pa.binary()),
        "array": lambda: pa.FixedSizeListArray.from_arrays(pa.array(PIXELS.reshape(-1)), 192),
    }[kind]()
    return pa.table({"image": image, "label": [0, 1, 2, 0, 1, None] if label is None else label} | others)


def parquet(what: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(what, sink, **options)
    return sink.getvalue()


ORIGIN = [["b.parquet", 10, 13], ["c.parquet", 0, 3]]
FEATURES = {
    "info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}, "image": {"_type": "Image"}}}
}


def parquets() -> list[bytes]:
    metadata = {b"raydvae.origin": json.dumps(ORIGIN).encode(), b"huggingface": json.dumps(FEATURES).encode()}
    texts = ["cat", "dog", "cat", "dog", "cat", "dog"]
    others = {"date": pa.array(range(6), pa.timestamp("us", "UTC")), "list": [[1], [], None, [2, 3], [4], [5]]}
    return [
        parquet(table()),
        parquet(table().replace_schema_metadata(metadata), row_group_size=2, compression="zstd"),
        parquet(table("bytes", texts), use_dictionary=False, compression="none"),
        parquet(table("array"), data_page_version="2.0", compression="none"),
        parquet(table("bytes", pa.array(texts).dictionary_encode(), **others), row_group_size=4, compression="gzip"),
        parquet(
            table("bytes", [float(i) for i in range(6)], text=texts),
            column_encoding={"text": "DELTA_BYTE_ARRAY"},
            use_dictionary=False,
        ),
    ]


def spoil_parquet(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Spoil the footer and keep its length right, the pages and keep the footer, or anything."""
    size = int.from_bytes(data[-8:-4], "little")
    pages, footer = data[: -8 - size], data[-8 - size : -8]
    feet = [other[-8 - int.from_bytes(other[-8:-4], "little") : -8] for other in others]
    choice = rng.random()
    if choice < 0.6:
        footer = spoil(footer, feet, rng)
        return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    if choice < 0.9:
        pages = spoil(pages, others, rng)[: len(pages)].ljust(len(pages), b"\0")
        return pages + footer + data[-8:]
    return spoil(data, others, rng)


def read_dataset(folder: Path) -> object:
    data = open_dataset(str(folder), LIMITS)
    classes = find_classes(data)
    rows = 0
    for unit in data.units():
        decoded = decode_rows(data, unit, data.read(unit), classes, 16)
        assert len(decoded.row_ids) == len(decoded.images)
        rows += decoded.carried.num_rows + decoded.rejected.num_rows
    assert rows == data.rows, "rows were lost"
    return probe_size(data) if data.units() else None


def at(name: str, data: bytes) -> Path:
    """Return a folder in which ``data`` is all there is, as file ``name``."""
    folder = FOLDER / name.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder


def read_metadata(data: bytes) -> object:
    """Read a parquet file that holds ``data`` as one of the texts that we and Hugging Face put into metadata."""
    both = data.split(b"\n", 1)
    key = b"huggingface" if both[0].startswith(b'{"info') or b"features" in data else b"raydvae.origin"
    made = table().replace_schema_metadata({key: data, b"x": b"y"})
    # Written as our own files are: without a sum of its body a file's claim on its rows is not even read.
    return read_dataset(at("metadata.parquet", parquet_bytes(made, "image")))


def npys() -> list[bytes]:
    out = []
    for values in (PIXELS.transpose(0, 3, 1, 2).astype(np.int8), PIXELS / 255, np.asfortranarray(PIXELS[:2] / -255)):
        sink = io.BytesIO()
        np.save(sink, values)
        out.append(sink.getvalue())
    return out


def pickles() -> list[bytes]:
    noise = PIXELS.transpose(0, 3, 1, 2).astype(np.int8)
    batch = {
        b"data": PIXELS.reshape(6, -1),
        b"labels": [0, 1, 2, 0, 1, 2],
        b"filenames": [b"a.png"] * 6,
        "x": (1.5, None),
    }
    return [pickle.dumps(value, protocol) for value in (noise, batch) for protocol in (0, 2, 4, 5)]


def read_pickle(data: bytes) -> object:
    load_arrays(data, "F")
    return read_artifact({"a.pkl": data}, "release").values.shape


def pts() -> list[bytes]:
    out = []
    for value in (torch.from_numpy(PIXELS.transpose(0, 3, 1, 2) / 255), torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16)):
        for new in (True, False):
            sink = io.BytesIO()
            torch.save(value, sink, _use_new_zipfile_serialization=new)
            out.append(sink.getvalue())
    return out


ABOUT = {"seed": 0}


def trained() -> list[bytes]:
    state = TrainState(1, {"w": torch.zeros(2, 3)}, {"0.exp": torch.ones(2, 3)}, [{"epoch": 0, "loss": 1.0}])
    store = Store(str(FOLDER / "training"))
    save_state(store, state, ABOUT)
    out = [store.read("state.safetensors")]
    save_model(store, state, ABOUT)
    out.append(store.read("model.safetensors"))
    few = {name: PIXELS[:2] for name in ("x0", "x1", "x3")}
    Samples(**few, p_hat=np.zeros((2, 8, 8, 3), np.float32), labels=np.zeros(2, np.int64), row_ids=["a#0", "a#1"]).save(
        store, "samples.safetensors"
    )
    return [*out, store.read("samples.safetensors")]


def read_trained(data: bytes) -> object:
    folder = at("state.safetensors", data)
    store = Store(str(folder))
    for name in ("model.safetensors", "samples.safetensors"):
        (folder / name).write_bytes(data)
    parts: list[Callable[[], object]] = [
        lambda: load_state(store, ABOUT),
        lambda: load_model(store),
        lambda: Samples.load(store, "samples.safetensors"),
    ]
    return _all(parts)


def _all(parts: Sequence[Callable[[], object]]) -> list[object]:
    """Call each, whatever the others raise of ours; raise that if none went well."""
    from raydvae.errors import RaydvaeError

    error: RaydvaeError | None = None
    out: list[object] = []
    for part in parts:
        try:
            out.append(part())
        except RaydvaeError as raised:
            error = raised
    if error is not None and not out:
        raise error
    return out


def flagged_data() -> Dataset:
    return open_dataset(str(at("source.parquet", parquet(table()))))


def flags() -> list[bytes]:
    data = flagged_data()
    ids = [row_id for unit in data.units() for row_id in unit.row_ids()]
    columns: dict[str, Any] = {"row_id": ids, "flagged": [True, False] * 3}
    return [
        flags_table(columns | {"label": [0] * 6, "score": [0.5] * 6}, data),
        parquet(pa.table(columns), compression="none", use_dictionary=False),
    ]


def read_flags(data: bytes) -> object:
    return parse_flags(data, "F", flagged_data()).flagged


def tars() -> list[bytes]:
    out = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
            for row in range(2):
                for name, content in ((f"{row:05d}.png", encoded("PNG")), (f"{row:05d}.cls", b"%d" % row)):
                    entry = tarfile.TarInfo(name if row else f"{'long/' * 30}{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            about = json.dumps({"label": 1}).encode()
            entry = tarfile.TarInfo("00002.json")
            entry.size = len(about)
            tar.addfile(entry, io.BytesIO(about))
        out.append(sink.getvalue())
    return out


def imported(folder: Path, form: Any) -> object:
    out = Store(str(FOLDER / f"out-{form}"))
    out.delete("")
    return import_dataset(str(folder), out, form)


def read_tar(data: bytes) -> object:
    return imported(at("a.tar", data), "webdataset")


def batches() -> list[bytes]:
    pixels = RNG.integers(0, 256, (2, 3072), dtype=np.uint8)
    both = {"data": pixels, "fine_labels": [0, 1], "coarse_labels": [0, 0], "filenames": ["a.png", "b.png"]}
    meta = {"fine_label_names": ["a", "b"], "coarse_label_names": ["c"]}
    old = {
        k.encode(): [t.encode() if isinstance(t, str) else t for t in v] if isinstance(v, list) else v
        for k, v in both.items()
    }
    return [pickle.dumps(value, protocol) for value in (both, old, meta) for protocol in (0, 2, 4)]


def read_batch(data: bytes) -> object:
    both, _, meta = TARGETS["cifar"].seeds[2::3]  # of one protocol
    folder = at("train", data)
    (folder / "test").write_bytes(both)
    (folder / "meta").write_bytes(meta)
    parts: list[Callable[[], object]] = [lambda: imported(folder, "cifar100")]

    def as_meta() -> object:
        (folder / "train").write_bytes(both)
        (folder / "meta").write_bytes(data)
        return imported(folder, "cifar100")

    return _all([*parts, as_meta])


RUN = {
    "format": 1,
    "kind": "purify",
    "config": to_dict(small_config()),
    "source": {"uri": "/nowhere", "files": [["a.parquet", 1000, 6, "0"]], "rows": 6, "units": 1},
    "classes": {"count": 3, "names": ["a", "b", "c"]},
    "versions": {"raydvae": "0", "python": "3"},
}
COMMIT = {
    **{"unit": "a-r0000000000", "source": ["a.parquet", 0, 6], "rows_in": 6, "rows_out": 6, "rows_rejected": 0},
    **{
        "bytes": 10,
        "sha256": "0",
        "psnr_counts": [1] * (len(PSNR_EDGES) - 1),
        "p_norms": {"0": [1, 0.5, 0.25]},
        "rows_poisoned": 3,
    },
}
DRIVER = {
    **{"id": "0", "state": "running", "host": "h", "machine": "m", "pid": 1, "process_began": "1", "renewed": 1.0},
    **{"began": 1.0, "step": "pass1", "step_began": 0.5, "total": 6, "done": 1, "unit": "rows", "retries": 0},
}
SUMMARY = {
    **{"complete": False, "rows_in": 6, "rows_out": 6, "rows_rejected": 0, "seconds": {"stage1": 1.0, "pass1": 2.0}},
    **{"rows": {"pass1": 6}, "history": {"stage1": [{"epoch": 0, "loss": 1.0, "psnr": 20.0, "kld": 1.0}]}},
}
ACCURACIES = {"poisoned": 0.1, "purified": 0.9}
JSONS: dict[str, Any] = {
    "run.json": RUN,
    "commits/pass1/a-r0000000000.json": COMMIT,
    "commits/pass3/a-r0000000000.json": COMMIT,
    "driver.json": DRIVER,
    "summary.json": SUMMARY,
    "accuracies.json": ACCURACIES,
}
METRICS = b'{"epoch": 0, "loss": 1.0}\n{"epoch": 1, "loss": 0.5}\n'


def jsons() -> list[bytes]:
    """Each seed is one file of a run's folder, behind its name."""
    files = {name: json.dumps(value).encode() for name, value in JSONS.items()} | {"stage1/metrics.jsonl": METRICS}
    return [name.encode() + b"\n" + content for name, content in files.items()]


def spoil_file(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    name, content = data.split(b"\n", 1)
    if name.endswith(b".jsonl"):
        return name + b"\n" + spoil(content, others, rng)
    return name + b"\n" + spoil_json(content, others, rng)


def read_run(data: bytes) -> object:
    folder = FOLDER / "run"
    (folder / "_raydvae/stage1").mkdir(parents=True, exist_ok=True)
    if not (folder / "a-r0000000000.parquet").exists():
        (folder / "a-r0000000000.parquet").write_bytes(parquet(table()))
    changed, _, content = data.partition(b"\n")
    for name, good in (*JSONS.items(), ("stage1/metrics.jsonl", METRICS)):
        path = folder / "_raydvae" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            content if name.encode() == changed else good if isinstance(good, bytes) else json.dumps(good).encode()
        )
    store = Store(str(folder))
    run = Run(store)
    return _all(
        [
            lambda: lines(status(store)),
            lambda: inspect_dataset(str(folder)),
            lambda: (run.records("pass1"), run.records("pass3")),
            lambda: Summary.load(run).speeds,
            *([lambda: write_report(store)] if zlib.crc32(data) % 4 == 0 else []),  # pictures take a while
        ]
    )


def misbehave(data: bytes) -> None:
    """Do what the input says: the harness finds it, or is no good."""
    match data[:1]:
        case b"c":
            os.abort()
        case b"h":
            time.sleep(600)
        case b"m":
            bytearray(2**36)
        case b"e":
            raise KeyError("x")


TARGETS = {
    "images": Target(images, read_image, allowed=(BadImage,)),
    "parquet": Target(parquets, lambda data: read_dataset(at("a.parquet", data)), spoil_parquet),
    "metadata": Target(lambda: [json.dumps(ORIGIN).encode(), json.dumps(FEATURES).encode()], read_metadata, spoil_json),
    "npy": Target(npys, lambda data: read_artifact({"a.npy": data}, "release").values.shape),
    "pickle": Target(pickles, read_pickle),
    "pt": Target(pts, lambda data: read_artifact({"a.pt": data}, "release").values.shape),
    "safetensors": Target(trained, read_trained),
    "flags": Target(flags, read_flags, spoil_parquet),
    "tar": Target(tars, read_tar),
    "cifar": Target(batches, read_batch),
    "run": Target(jsons, read_run, spoil_file),
    BAD: Target(
        lambda: [b"fine", b"crash", b"hang", b"memory", b"exception", b"fine too"], misbehave, lambda *_: b"fine"
    ),
}
