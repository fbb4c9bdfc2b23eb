"""Tactics: generators of kernels, by device (cpu/, cuda/), and what they share. base.py has their interface."""
