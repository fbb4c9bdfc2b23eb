"""Models trained for nothing but to see what INT8 does to them: data, networks, training and the cases made of both."""
