"""Defenses other than D-VAE, for comparison."""
