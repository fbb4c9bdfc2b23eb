"""Post-training quantization: what is observed of tensors, thresholds and caches made from it, and where INT8 pays."""
