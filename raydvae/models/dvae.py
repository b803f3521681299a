"""D-VAE and the plain rate-constrained VAE (Yu et al., ICML 2024, sections 3.2 and 3.4, appendix B.2).

                        ┌─ mu ──────┐
    x ─ encoder (BN) ───┤           ├─ z = mu + exp(log_var / 2) · ε ─ lift ─┬──────── decoder ───── sigmoid ─ x_hat
                        └─ log_var ─┘                                        │
                                                          u_y (one a class) ─┴─ + ─── decoder ────────────── p_hat

The encoder is the beginning of a CIFAR ResNet-18, cut after the first block of the stage that reaches the wanted
downsampling. Both decoders see the latents *after* the 1x1 ``lift``, which is what the official code does.

Shapes: images are (B, 3, H, W) float32 in [0, 1]; latents (B, latent_channels, H·f, W·f) with f the downsampling.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydvae.config import DVAEConfig
from raydvae.models.layers import InstanceNormReLU, Shortcut, TransposedConv2d, full, reparameterize


class DVAEOutput(NamedTuple):
    """What one forward pass gives, in float32. ``p_hat`` is signed and unbounded; a plain VAE has none."""

    x_hat: Tensor
    p_hat: Tensor | None
    mu: Tensor
    log_var: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut (ResNet-18's BasicBlock)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(Shortcut(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H/stride, W/stride)."""
        # In place: a new tensor of this size costs more than the addition.
        h = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(h)).add_(self.shortcut(x)))


class Encoder(nn.Sequential):
    """ResNet-18 up to the first block of the stage that reaches the downsampling (7 convolutions at x0.5)."""

    def __init__(self, config: DVAEConfig) -> None:
        width = config.width
        stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = [stem, ResidualBlock(width, width), ResidualBlock(width, width)]
        for level in range(config.halvings):
            blocks.append(ResidualBlock(width * 2**level, width * 2 ** (level + 1), stride=2))
            if level + 1 < config.halvings:
                blocks.append(ResidualBlock(width * 2 ** (level + 1), width * 2 ** (level + 1)))
        super().__init__(*blocks)


class Decoder(nn.Sequential):
    """Transposed convolutions with instance normalization, back to three channels at full size.

    Four layers at x0.5 and five at x0.25 and x0.125, as appendix B.2 and the official code have them (x0.25 is
    ours, made the same way). No activation at the end.
    """

    def __init__(self, config: DVAEConfig) -> None:
        c = config.features
        layers: list[nn.Module] = [_up(c, c // 2)]
        if config.halvings == 1:
            layers += [_same(c // 2, c // 2), *_norm(), _same(c // 2, c // 4), *_norm(), _same(c // 4, 3)]
        else:
            last = _up if config.halvings == 3 else _same
            c_end = config.width // 2
            c_mid = config.width if config.halvings == 3 else c // 4
            layers += [_same(c // 2, c // 4), *_norm(), _up(c // 4, c_mid), _same(c_mid, c_end), *_norm()]
            layers += [last(c_end, 3)]
        super().__init__(*layers)


def _up(in_channels: int, out_channels: int) -> nn.Module:
    return TransposedConv2d(in_channels, out_channels, 4, stride=2, padding=1)


def _same(in_channels: int, out_channels: int) -> nn.Module:
    return TransposedConv2d(in_channels, out_channels, 3, padding=1)


def _norm() -> list[nn.Module]:
    # The identity keeps the names of weights that were saved when activations were modules of their own.
    return [InstanceNormReLU(), nn.Identity()]


class RateConstrainedVAE(nn.Module):
    """The plain VAE of Eq. 3: no class embedding, no perturbation decoder."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.mu = nn.Conv2d(config.features, config.latents, 1)
        self.log_var = nn.Conv2d(config.features, config.latents, 1)
        self.lift = nn.Conv2d(config.latents, config.features, 1)
        self.decoder = Decoder(config)

    def latent_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Shape of z, and of the noise that a forward pass takes, for a batch of that many images."""
        return batch, self.config.latents, self.config.grid, self.config.grid

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``mu`` and ``log_var`` of q(z|x)."""
        features = self.encoder(x)
        return full(self.mu(features)), full(self.log_var(features))

    def sample(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return lifted latents, ``mu`` and ``log_var``; without noise the latents are the mean."""
        mu, log_var = self.encode(x)
        z = mu if noise is None else reparameterize(mu, log_var, noise)
        return self.lift(z), mu, log_var

    def image(self, h: Tensor) -> Tensor:
        """Decode lifted latents to x_hat."""
        return torch.sigmoid(full(self.decoder(h)))

    def reconstruct(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Return x_hat in [0, 1]."""
        return self.image(self.sample(x, noise)[0])

    def forward(self, x: Tensor, y: Tensor, noise: Tensor | None) -> DVAEOutput:
        """Reconstruct ``x``; the labels are there so that both models are called alike."""
        h, mu, log_var = self.sample(x, noise)
        return DVAEOutput(self.image(h), None, mu, log_var)


class Autoencoder(nn.Module):
    """The non-variational autoencoder of Figure 5: the plain VAE's layers, without noise and without a rate.

    How much of an image passes is a matter of its width alone.
    """

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.bottleneck = nn.Conv2d(config.features, config.latents, 1)
        self.lift = nn.Conv2d(config.latents, config.features, 1)
        self.decoder = Decoder(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return x_hat in [0, 1]."""
        return torch.sigmoid(self.decoder(self.lift(self.bottleneck(self.encoder(x)))))


class DVAE(RateConstrainedVAE):
    """D-VAE: the VAE with a class embedding and an auxiliary decoder that estimates the perturbation (Eq. 14)."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__(config)
        cells = config.grid**2 if config.embedding == "spatial" else 1
        # Drawn here, as nn.Embedding would draw it: drawn on the meta device, it would import torch's compiler.
        maps = torch.randn(config.num_classes, config.features * cells)
        self.embedding = nn.Embedding.from_pretrained(maps, freeze=False)  # type: ignore[no-untyped-call]
        self.perturbation_decoder = Decoder(config)

    def embed(self, y: Tensor) -> Tensor:
        """Return u_y as (B, features, grid, grid), or (B, features, 1, 1) for a vector embedding."""
        side = self.config.grid if self.config.embedding == "spatial" else 1
        maps: Tensor = self.embedding(y).view(-1, self.config.features, side, side)
        return maps

    def estimate_perturbation(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        """Return p_hat alone, without running the image decoder."""
        p_hat: Tensor = self.perturbation_decoder(self.sample(x, noise)[0] + self.embed(y))
        return p_hat

    def forward(self, x: Tensor, y: Tensor, noise: Tensor | None) -> DVAEOutput:
        """Return reconstruction and estimated perturbation of images ``x`` with labels ``y`` (B,) int64."""
        h, mu, log_var = self.sample(x, noise)
        return DVAEOutput(self.image(h), full(self.perturbation_decoder(h + self.embed(y))), mu, log_var)
