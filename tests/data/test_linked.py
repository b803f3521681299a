"""Images that rows only name: read inside of the data set's folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydvae.data.dataset import open_dataset, probe_size
from raydvae.data.importing import import_dataset
from raydvae.data.rows import build_table
from raydvae.data.schema import class_names
from raydvae.data.store import Store
from raydvae.errors import DataError
from tests.data.helpers import STRUCT, as_bytes, decode_unit, plain, random_images, write

IMAGES = random_images(4)
NO_FILE = "no image bytes, and its path is of no image file inside of the data set's folder"


def place(folder: Path, at: str = "images") -> list[str]:
    """Write the images into a folder, and return their names from ``folder``."""
    (folder / at).mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        (folder / at / f"{number}.png").write_bytes(as_bytes(image))
    return [f"{at}/{number}.png" for number in range(len(IMAGES))]


def links(paths: list[str]) -> pa.Table:
    pairs = [{"bytes": None, "path": path} for path in paths]
    return pa.table({"image": pa.array(pairs, STRUCT), "label": [0] * len(paths)})


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("struct", [False, True])
def test_images_beside_the_data_are_read_and_written_with_it(tmp_path: Path, struct: bool, absolute: bool) -> None:
    paths = place(tmp_path / "in")
    if absolute:
        paths = [str(tmp_path / "in" / path) for path in paths]
    table = links(paths) if struct else pa.table({"image": paths, "label": [0] * 4})
    dataset = open_dataset(str(write(tmp_path / "in", table, "data/x.parquet")))
    assert probe_size(dataset) == 8
    rows = decode_unit(dataset, dataset.units()[0], 8)
    assert np.array_equal(rows.images, IMAGES)
    built = build_table(dataset.schema, rows, 255 - rows.images)
    assert built.schema.field("image").type == STRUCT
    assert [value["path"] for value in built["image"].to_pylist()] == paths
    write(tmp_path / "out", built)
    again = open_dataset(str(tmp_path / "out"))
    assert np.array_equal(decode_unit(again, again.units()[0], 8).images, 255 - IMAGES)
    import_dataset(str(tmp_path / "in"), Store(str(tmp_path / "imported")), "parquet")
    (shard,) = (tmp_path / "imported").glob("*.parquet")
    values = pq.read_table(shard)["image"].to_pylist()
    assert [value["bytes"] for value in values] == [as_bytes(image) for image in IMAGES]


def test_paths_from_the_files_own_folder_and_from_the_data_sets(tmp_path: Path) -> None:
    place(tmp_path, "data/images")
    place(tmp_path, "more")
    paths = ["images/0.png", "./images/1.png", "more/2.png", "images/../images/3.png"]
    dataset = open_dataset(str(write(tmp_path, links(paths), "data/x.parquet")))
    assert np.array_equal(decode_unit(dataset, dataset.units()[0], 8).images, IMAGES)


def test_addresses_of_files_and_paths_of_windows(tmp_path: Path) -> None:
    place(tmp_path, "my images")
    paths = [f"file://{tmp_path}/my%20images/0.png", "my images\\1.png", ".\\my images\\2.png", "my images/3.png"]
    paths += ["..\\x.png", f"file://{tmp_path.parent}/x.png", f"file://{tmp_path}/%2e%2e/x.png", "file:///", "\\"]
    (tmp_path.parent / "x.png").write_bytes(as_bytes(IMAGES[0]))
    dataset = open_dataset(str(write(tmp_path, links(paths))))
    rows = decode_unit(dataset, dataset.units()[0], 8)
    assert np.array_equal(rows.images, IMAGES)
    assert rows.reasons == [NO_FILE] * 5


def test_a_bucket_has_them_too(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}")
    store.write("images/0.png", as_bytes(IMAGES[0]))
    write(tmp_path, links(["images/0.png", f"{store.uri}/images/0.png"]), "x.parquet")
    store.write("x.parquet", (tmp_path / "x.parquet").read_bytes())
    dataset = open_dataset(store.uri)
    assert len(decode_unit(dataset, dataset.units()[0], 8).images) == 2


def test_nothing_else_is_read(tmp_path: Path) -> None:
    place(tmp_path, "outside")
    place(tmp_path / "in", ".hidden")
    (tmp_path / "in" / "secret.txt").write_text("a secret")
    (tmp_path / "in" / "large.png").write_bytes(as_bytes(random_images(1, 64)[0]))
    (tmp_path / "in" / "folder.png").mkdir()
    paths = [
        "../outside/0.png",
        str(tmp_path / "outside" / "0.png"),
        "data/../../outside/0.png",
        "/etc/passwd",
        ".hidden/0.png",
        "secret.txt",
        "large.png",
        "folder.png",
        "missing.png",
        "http://localhost/0.png",
        "file:///etc/passwd",
        "a\0b.png",
        "x" * 300,
        "",
    ]
    dataset = open_dataset(str(write(tmp_path / "in", links(paths), "x.parquet")), plain(max_image_bytes=5000))
    rejected = decode_unit(dataset, dataset.units()[0], 8, 1).rejected
    assert rejected.num_rows == len(paths)
    assert set(rejected["reason"].to_pylist()) == {NO_FILE}
    assert rejected["image"].to_pylist() == [{"bytes": None, "path": path} for path in paths]  # nothing was copied


def test_what_to_do_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(str(write(tmp_path, pa.table({"image": ["/x/0.jpg", "/x/1.jpg"], "label": [0, 1]}))))
    with pytest.raises(DataError, match=r"no image file inside of the data set's folder.*put the parquet files into"):
        probe_size(dataset)


def test_a_column_of_paths_becomes_an_image_for_hugging_face(tmp_path: Path) -> None:
    paths = place(tmp_path)
    features = (
        b'{"info": {"features": {"image": {"dtype": "string", "_type": "Value"}, '
        b'"label": {"names": ["a"], "_type": "ClassLabel"}}}}'
    )
    table = pa.table({"image": paths, "label": [0] * 4}).replace_schema_metadata({b"huggingface": features})
    schema = open_dataset(str(write(tmp_path, table))).schema.arrow
    assert b'"image": {"_type": "Image"}' in schema.metadata[b"huggingface"]
    assert class_names(schema, "label") == ("a",)
