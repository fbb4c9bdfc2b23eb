"""References of control ops."""
from __future__ import annotations
REFERENCES = {}
