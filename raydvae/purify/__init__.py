"""The two-stage purification."""
