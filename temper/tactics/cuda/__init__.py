"""Kernels for NVIDIA GPUs, generated as Triton source. sources.py lists the tactics."""
