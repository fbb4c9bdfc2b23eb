"""Kernels for CPUs, generated as C from templates/. sources.py lists the tactics."""
