"""What a classifier says of images: its probabilities, and how far the label is ahead of the other classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raydvae.data.codecs import Array
from raydvae.data.store import Store
from raydvae.models.classifiers import build_classifier
from raydvae.training.checkpoint import MODEL, load_model
from raydvae.training.feed import to_float

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained classifier on a device, asked in batches of fixed size."""

    model: nn.Module
    device: torch.device
    batch: int

    @classmethod
    def load(
        cls, store: Store, name: str, num_classes: int, device: torch.device, batch: int, weights: str = MODEL
    ) -> Judge:
        """Return the classifier called ``name`` whose finished training lies in ``store``, or ``weights`` it kept."""
        model = build_classifier(name, num_classes)
        model.load_state_dict(load_model(store, name=weights)[0])
        return cls(model.eval().to(device).to(memory_format=torch.channels_last), device, batch)

    @torch.no_grad()
    def log_p(self, images: Array) -> Floats:
        """Return the log probabilities (N, C) of images (N, H, W, 3) uint8."""
        parts = []
        for start in range(0, len(images), self.batch):
            x = torch.from_numpy(images[start : start + self.batch]).permute(0, 3, 1, 2).to(self.device)
            parts.append(torch.log_softmax(self.model(to_float(x)), dim=1).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def margins(log_p: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """Return how many nats the label is ahead of the best other class, (N,): above 0 where it is predicted."""
    rows = np.arange(len(labels))
    others = log_p.copy()
    others[rows, labels] = -np.inf
    ahead: Floats = log_p[rows, labels] - others.max(axis=1, initial=-np.inf)
    return ahead
