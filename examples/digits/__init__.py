"""Handwritten-digit classifier: a small MobileNetV3-style network, its data and its scoring."""
