"""Renders what an INT8 build did: one self-contained HTML page with its JSON twin, and a regression gate."""
