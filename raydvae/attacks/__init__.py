"""Attacks: ways to make images unlearnable."""
