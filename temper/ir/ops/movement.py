"""Ops of the movement family."""
from __future__ import annotations
from temper.ir.opdef import OpDef
OPS: tuple[OpDef, ...] = ()
