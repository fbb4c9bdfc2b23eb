"""References of movement ops."""
from __future__ import annotations
REFERENCES = {}
