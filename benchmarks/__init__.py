"""Benchmark models, other engines to compare with, and timing helpers."""
