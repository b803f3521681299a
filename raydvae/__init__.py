"""raydvae: make unlearnable images learnable again, with the two-stage D-VAE purification, on Ray."""

__version__ = "0.1.0"
