"""What a GPU's code level lacks, whatever the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from temper.compile.triton import CUDA_ISAS
from temper.tactics.base import Workload

#: Element types that kernels for these levels cannot even read.
_LACKS: Mapping[str, tuple[str, ...]] = MappingProxyType({"sm_80": ("float8e4m3fn",)})


def level_declines(w: Workload) -> str | None:
    """Why no kernel can be made for the workload's level, or for its element types there."""
    if w.isa not in CUDA_ISAS:
        return f"no such GPU level: {w.isa}"
    kinds = {s.type.dtype for s in (*w.inputs, *w.outputs) if s is not None}
    kinds |= {o.dtype for o in w.epilogue.operands} | {i.dtype for i in w.epilogue.instrs}
    lacking = sorted(kinds & set(_LACKS.get(w.isa, ())))
    return f"{w.isa} has no {lacking[0]}" if lacking else None
