"""Worked examples; run them from the repository root, e.g. ``python -m examples.digits.score``."""
