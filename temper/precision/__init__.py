"""Makes an INT8 engine from a float model: data, calibration, what INT8 costs, and what stays in higher precision.

build.py is the whole procedure, step by step. A *site* is a layer that can be in INT8 (quantize/placement.py).
"""
