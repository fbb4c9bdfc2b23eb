"""References of reduction ops."""
from __future__ import annotations
REFERENCES = {}
