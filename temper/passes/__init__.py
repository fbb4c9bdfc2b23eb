"""Passes: what is done to a graph before kernels are chosen. pipeline.py has their order."""
