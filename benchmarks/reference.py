"""The published D-VAE and its loop, written plainly: what the speed of ours is measured against.

Layers as the official code has them (docs/design.md says what of it is ours): the whole CIFAR ResNet-18 is run, its
classification tail too although no loss uses it; InstanceNorm2d; both decoders at inference; NCHW memory, eager
operators, Adam, the loss's decision on the host, metrics read in every step. Left out, in its favor: reading images
through PIL, and the frozen classifiers that it logs with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydvae.config import DVAEConfig
from raydvae.models.dvae import ResidualBlock


class Published(nn.Module):
    """The published model at downsampling x0.5."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        width, self.latents = config.width, config.latents
        self.grid, self.features = config.grid, config.features
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Sequential(
            ResidualBlock(width, width), ResidualBlock(width, width), ResidualBlock(width, 2 * width, 2)
        )
        self.tail = nn.Sequential(
            ResidualBlock(2 * width, 2 * width),
            ResidualBlock(2 * width, 4 * width, 2),
            ResidualBlock(4 * width, 4 * width),
            ResidualBlock(4 * width, 8 * width, 2),
            ResidualBlock(8 * width, 8 * width),
        )
        self.linear = nn.Linear(8 * width, config.num_classes)
        self.mu = nn.Conv2d(self.features, self.latents, 1)
        self.log_var = nn.Conv2d(self.features, self.latents, 1)
        self.lift = nn.Conv2d(self.latents, self.features, 1)
        self.embedding = nn.Embedding(config.num_classes, self.features * self.grid**2)
        self.decoder = _decoder(self.features)
        self.perturbation_decoder = _decoder(self.features)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return logits, x_hat, p_hat, mu and log_var."""
        features = self.head(self.stem(x))
        logits = self.linear(self.tail(features).mean(dim=(2, 3)))
        mu, log_var = self.mu(features), self.log_var(features)
        z = self.lift(mu + torch.randn_like(mu) * torch.exp(0.5 * log_var))
        u = self.embedding(y).view(-1, self.features, self.grid, self.grid)
        return logits, torch.sigmoid(self.decoder(z)), self.perturbation_decoder(z + u), mu, log_var


def _decoder(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
        nn.ConvTranspose2d(channels // 2, channels // 2, 3, padding=1),
        nn.InstanceNorm2d(channels // 2),
        nn.ReLU(),
        nn.ConvTranspose2d(channels // 2, channels // 4, 3, padding=1),
        nn.InstanceNorm2d(channels // 4),
        nn.ReLU(),
        nn.ConvTranspose2d(channels // 4, 3, 3, padding=1),
    )


class Loop:
    """The published training and passes over images (N, 3, H, W) uint8 and labels (N,)."""

    def __init__(self, config: DVAEConfig, device: torch.device, batch: int = 128, target: float = 1.0) -> None:
        self.device, self.batch, self.target = device, batch, target
        self.model = Published(config).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.005)

    def epoch(self, images: Tensor, labels: Tensor) -> float:
        """Train on each image once and return the mean loss."""
        self.model.train()
        total, steps = 0.0, 0
        order = torch.randperm(len(images))
        for at in range(0, len(images) - self.batch + 1, self.batch):
            rows = order[at : at + self.batch]
            x, y = images[rows].float().div(255).to(self.device), labels[rows].to(self.device)
            self.optimizer.zero_grad()
            _, x_hat, p_hat, mu, log_var = self.model(x, y)
            rate = -0.5 * (1 + log_var - mu.pow(2) - log_var.exp()).sum(dim=1).mean()
            loss = F.mse_loss(x_hat, x) + F.mse_loss((x_hat + p_hat).clamp(0, 1), x)
            loss = loss + 0.01 * max(rate, torch.tensor(self.target, device=self.device))
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            total, steps = total + loss.item(), steps + 1
        return total / steps

    @torch.no_grad()
    def pass1(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return x - p_hat as bytes."""
        self.model.eval()
        out = []
        for x, y in self._batches(images, labels):
            p_hat = self.model(x, y)[2]
            out.append(_bytes((x - p_hat).clamp(0, 1)))
        return torch.cat(out)

    @torch.no_grad()
    def pass3(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return x_hat(x - p_hat) as bytes: passes 2 and 3."""
        self.model.eval()
        out = []
        for x, y in self._batches(images, labels):
            x2 = (x - self.model(x, y)[2]).clamp(0, 1)
            out.append(_bytes(self.model(x2, y)[1].clamp(0, 1)))
        return torch.cat(out)

    def _batches(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = zip(images.split(self.batch), labels.split(self.batch), strict=True)
        return [(x.to(self.device).float().div(255), y.to(self.device)) for x, y in parts]


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).to(torch.uint8).cpu()
