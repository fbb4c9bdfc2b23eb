"""The mathematics of more accurate quantized networks without training: pure functions of graph and statistics."""
