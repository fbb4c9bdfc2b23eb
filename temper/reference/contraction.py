"""References of contraction ops."""
from __future__ import annotations
REFERENCES = {}
