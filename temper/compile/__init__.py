"""From source text to machine code: C for CPUs (cc.py), Triton for GPUs (triton.py). Knows nothing of graphs."""
