"""Loads and runs plans. Imports numpy and the numpy references only; runtime/cuda/ also uses the CUDA driver."""
