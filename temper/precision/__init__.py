"""Makes an INT8 engine from a float model: data, calibration, what INT8 costs in accuracy and time, and what
stays in higher precision."""
