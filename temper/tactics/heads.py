"""Shapes and strides of attention's operands [batch, heads, rows, width], for kernels of every device."""

from __future__ import annotations

from dataclasses import dataclass

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike
from temper.ir.ops.attention import by_heads
from temper.tactics.base import Slot, Workload


@dataclass(frozen=True)
class ByHeads:
    """An operand [b, s, heads, d], or [b, heads, s, d] where its letter is h. row: elements from a row to the next."""

    b: DimLike
    heads: int
    s: DimLike
    d: int
    letter: str
    row: DimLike


def operands_by_heads(w: Workload) -> list[ByHeads] | str:
    """q, k, v and the output of any attention, or the reason that there can be no kernel."""
    heads, groups, layout = integer_attr(w, "heads"), integer_attr(w, "kv_heads"), str(w.attr("layout"))
    out: list[ByHeads] = []
    for slot, n, letter in zip((*w.inputs[:3], w.outputs[0]), (heads, groups, groups, heads), layout, strict=True):
        t = _by_heads(slot, n, letter)
        if isinstance(t, str):
            return t
        out.append(t)
    return "there are no keys" if out[1].s == 0 else out


def _by_heads(slot: Slot | None, heads: int, letter: str) -> ByHeads | str:
    if slot is None:
        return "attention needs queries, keys and values"
    try:
        b, _, s, d = by_heads(slot.type, heads, letter)
    except ShapeError as e:
        return str(e)
    if isinstance(d, Dim) or d < 1:
        return f"the width of a head must be known at build time, not {d}"
    return ByHeads(b, heads, s, d, letter, slot.row_stride or slot.type.shape[-1])


def integer_attr(w: Workload, name: str) -> int:
    value = w.attr(name)
    assert isinstance(value, int)
    return value
