"""Benchmarks: each row a ratio against a named reference, measured in the same run on the same data."""
