"""Chains of elementwise ops with any broadcasting on a CUDA GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter, program_declines
from temper.tactics.cuda.instructions import POINTER_TYPES
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.tiles import offset_text, tile_kernel
from temper.tactics.geometry import strides_of, typical_count


class Pointwise:
    """Any chain of elementwise ops that has a Triton form."""

    name = "cuda.pointwise"
    ops = frozenset({"Pointwise"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Pointwise":
            return f"computes Pointwise, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        shape = w.outputs[0].type.shape
        for k, slot in enumerate(w.outputs):
            if slot.type.shape != shape:
                return f"result {k} is {slot.type}, not the shape of result 0"
        return program_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape)
        nbytes = sum(itemsize(o.dtype) for o in w.epilogue.operands if o.kind == "full")
        nbytes += sum(itemsize(s.type.dtype) for s in w.outputs)
        return 2e-6 + count * nbytes / 2e12

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        e, shape = w.epilogue, w.outputs[0].type.shape
        inputs, loads = [], []
        for i, o in enumerate(e.operands):
            if i and o.kind != "general":
                continue
            name = f"x{i}"
            inputs.append(Parameter(name, POINTER_TYPES[o.dtype], ("operand", i)))
            offset = offset_text(shape, strides_of(shape, o.mask, o.row_stride))
            full = o.mask and o.mask[-1] and any(o.mask[:-1])
            mask = "live" if full else "channel_ok[None, :]" if o.mask and o.mask[-1] else "row_ok[:, None]"
            truth = " != 0" if o.dtype == "bool" else ""
            pointer = f"{name} + ({offset})" if any(o.mask) else f"{name} + tl.zeros((1, 1), tl.int32)"
            loads.append(f"v{i} = tl.load({pointer}, mask={mask}){truth}")
        # every value has the tile's shape: the program may consist of constants and scalars
        loads.append("v0 = tl.broadcast_to(v0, (BM, BN))")
        return tile_kernel(w, entry, f"Pointwise over {len(e.operands)} tensors.", inputs, {}, "\n".join(loads))

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
