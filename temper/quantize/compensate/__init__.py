"""The mathematics of compensation (more accurate quantized networks): pure functions of graph and statistics."""
