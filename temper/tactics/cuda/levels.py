"""What a GPU's code level (sm_80 ...) cannot do in any kernel: reasons that every CUDA tactic gives first."""

from __future__ import annotations

from temper.compile.triton import CUDA_ISAS
from temper.tactics.base import Workload
from temper.tactics.cuda.loads import FLOATS8, FLOATS8_ISAS


def declines(w: Workload, ops: str | frozenset[str], words: str = "") -> str | None:
    """The reason why a tactic that computes only `ops` declines the workload: another op, or the code level. words:
    what it computes, if the names of the ops do not say it."""
    known = frozenset({ops}) if isinstance(ops, str) else ops
    return level_declines(w) if w.op in known else f"computes {words or ', '.join(sorted(known))}, not {w.op}"


def level_declines(w: Workload) -> str | None:
    """The reason why no kernel can be made for the workload's code level, or for its element types there."""
    if w.isa not in CUDA_ISAS:
        return f"no such GPU level: {w.isa}"
    if w.isa in FLOATS8_ISAS:
        return None
    kinds = {s.type.dtype for s in (*w.inputs, *w.outputs) if s is not None}
    kinds |= {o.dtype for o in w.epilogue.operands} | {i.dtype for i in w.epilogue.instrs}
    lacking = sorted(kinds & FLOATS8.keys())
    return f"{w.isa} has no {lacking[0]}" if lacking else None
