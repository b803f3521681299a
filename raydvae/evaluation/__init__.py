"""Evaluation as in the paper."""
