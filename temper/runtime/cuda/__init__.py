"""Plans for NVIDIA GPUs, run through the CUDA driver (cuda-bindings) without a compiler or framework."""
