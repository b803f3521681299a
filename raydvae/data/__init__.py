"""Data sets on storage: how they are read, cut into units, written and accounted for."""
