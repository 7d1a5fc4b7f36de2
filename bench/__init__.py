"""Benchmarks: figures to read, never tests to pass. Ratios within one run; machines are noisy."""
