from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch

from raydvae.attacks.artifacts import Artifact, match, read_artifact, to_npy, to_pt
from raydvae.attacks.base import apply
from raydvae.attacks.configs import LSPConfig
from raydvae.attacks.lsp import LSP
from raydvae.data.codecs import encode
from raydvae.errors import DataError

ROWS, SIZE = 1200, 8
RNG = np.random.default_rng(0)
CLEAN = RNG.integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8)
LEVELS = RNG.integers(-8, 9, CLEAN.shape)
LABELS = RNG.integers(0, 10, ROWS)
POISONED = np.clip(CLEAN + LEVELS, 0, 255).astype(np.uint8)
EVERY = np.arange(ROWS)
NCHW = (0, 3, 1, 2)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255


RELEASES = {
    "rem-pickle": {"rem-fin-def-noise.pkl": pickle.dumps(LEVELS.astype(np.int8).transpose(NCHW))},
    "rem-npy": {"noise.npy": npy(LEVELS.astype(np.int8).transpose(NCHW))},
    "dvae-pt": {"perturbation.pt": pt(torch.from_numpy(LEVELS.transpose(NCHW) / 255))},
    "ops-npy": {"perturbation.npy": npy(LEVELS / 255)},
    "sep-chunks": {
        f"chunk_{start // 500:02d}.npy": npy(floats(POISONED[start : start + 500]).transpose(NCHW))
        for start in (1000, 0, 500)
    },
    "ar-png": {f"data/{row}.png": encode(POISONED[row]) for row in range(ROWS)},
}


@pytest.mark.parametrize("name", RELEASES)
def test_every_official_form_gives_the_same_poisoned_bytes(name: str) -> None:
    artifact = read_artifact(RELEASES[name], "release").fit(ROWS, CLEAN.shape[1:], 10)
    assert np.array_equal(artifact.poison(CLEAN, LABELS, EVERY), POISONED)
    some = np.array([1100, 3])
    assert np.array_equal(artifact.poison(CLEAN[some], LABELS[some], some), POISONED[some])


def test_noise_of_a_class_goes_by_label() -> None:
    noise = RNG.integers(-8, 9, (10, SIZE, SIZE, 3))
    artifact = read_artifact({"p.pt": pt(torch.from_numpy(noise.transpose(NCHW) / 255).float())}, "em")
    artifact = artifact.fit(ROWS, CLEAN.shape[1:], 10)
    expected = np.clip(CLEAN + noise[LABELS], 0, 255)
    assert np.array_equal(artifact.poison(CLEAN, LABELS, EVERY), expected)


def test_ntga_rows_are_found_again_by_their_clean_bytes() -> None:
    order = RNG.permutation(ROWS)[:900]
    files = {
        "x_train_cifar10_ntga_cnn_best.npy": npy(floats(POISONED[order][:896])),  # whole blocks only
        "x_train_cifar10.npy": npy(floats(CLEAN[order])),
        "y_train_cifar10.npy": npy(np.eye(10)[LABELS[order]]),
    }
    artifact = read_artifact(files, "ntga").fit(ROWS, CLEAN.shape[1:], 10)
    rows = match(artifact, CLEAN)
    there = np.flatnonzero(rows >= 0)
    assert sorted(there) == sorted(order[:896])
    assert np.array_equal(artifact.poison(CLEAN[there], LABELS[there], rows[there]), POISONED[there])
    assert artifact.labels is not None
    assert np.array_equal(artifact.labels[rows[there]], LABELS[there])


@pytest.mark.parametrize(("write", "name"), [(to_pt, "out.pt"), (to_npy, "out.npy")])
def test_what_we_write_reads_back_to_the_same_bytes(write: object, name: str) -> None:
    noise = LSP(LSPConfig(patch=4), SIZE, 10)
    poisoned = apply(CLEAN, noise.noise(CLEAN, LABELS, [str(row) for row in EVERY]), noise.bound)
    artifact = read_artifact({name: write(CLEAN, poisoned)}, "ours")  # type: ignore[operator]
    assert np.array_equal(artifact.poison(CLEAN, LABELS, EVERY), poisoned)


def test_what_int8_cannot_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r"255 levels.*\.pt"):
        to_npy(np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.pkl": pickle.dumps(Evil())}, "refused"),
        ({"a.pkl": pickle.dumps([1, 2])}, "holds a list"),
        ({"a.pt": pt({"a": torch.zeros(1)})}, "holds a dict"),
        ({"a.pt": pickle.dumps(Evil(), protocol=2)}, "asks for __builtin__.eval, which is refused"),
        ({"a.npy": npy(np.array([{}], dtype=object))}, "plain numpy"),
        ({"a.npy": b"junk"}, "plain numpy"),
        ({"a.npy": npy(np.zeros((4, 5)))}, "expected"),
        ({"a.npy": npy(np.full((2, 4, 4, 3), np.nan))}, "not finite"),
        ({"a.npy": npy(np.full((2, 4, 4, 3), 200.0))}, "values in"),
        ({"a.npy": npy(np.full((2, 4, 4, 3), -8.0))}, "units of"),
        ({"a.txt": b""}, "none of"),
        ({}, "one release"),
        ({"a.pkl": b"", "b.npy": b""}, "one release"),
        ({"0.png": encode(CLEAN[0]), "2.png": encode(CLEAN[1])}, "none of index 1"),
        ({"cat.png": encode(CLEAN[0])}, "not called by its index"),
        ({"0.png": b"junk"}, "cannot be used"),
        ({"0.png": encode(CLEAN[0]), "1.png": encode(CLEAN[0][:4])}, "different sizes"),
    ],
)
def test_files_that_are_no_release_are_refused(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_artifact(files, "release")


def test_a_release_of_another_data_set_is_refused() -> None:
    artifact = Artifact("noise", LEVELS, "release")
    with pytest.raises(DataError, match="1200 rows, and this data set has 1199"):
        artifact.fit(ROWS - 1, CLEAN.shape[1:], 10)
    with pytest.raises(DataError, match=r"images \(8, 8, 3\); these are \(16, 16, 3\)"):
        artifact.fit(ROWS, (16, 16, 3), 10)
    with pytest.raises(DataError, match="row 1200 was asked for"):
        artifact.poison(CLEAN[:1], LABELS[:1], np.array([1200]))
    with pytest.raises(DataError, match="clean x_train"):
        match(artifact, CLEAN)
