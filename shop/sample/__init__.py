"""Deterministic sample data: the same size and seed give the same rows."""
