"""Chooses kernels: candidates are compiled, verified against the reference, timed, and remembered."""
