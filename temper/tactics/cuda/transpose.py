"""Transposition on a CUDA GPU: every output tile gathers its elements; an epilogue may be fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.tiles import offset_text, tile_kernel
from temper.tactics.geometry import strides_of, typical_count


class Transpose:
    """Any permutation of axes."""

    name = "cuda.transpose"
    ops = frozenset({"Transpose"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Transpose":
            return f"transposes, and does not compute {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0]
        if x is None or x.type.dtype not in POINTER_TYPES:
            return f"moves {', '.join(POINTER_TYPES)}"
        return epilogue_declines(w.epilogue, x.type.dtype)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 2e-6 + typical_count(w.outputs[0].type.shape) * itemsize(w.outputs[0].type.dtype) / 5e11

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, perm = w.inputs[0], w.attr("perm")
        assert x is not None and isinstance(perm, tuple)
        shape = x.type.shape
        strides = strides_of(shape, (True,) * len(shape), x.row_stride)
        order = [int(a) for a in perm]
        offset = offset_text([shape[a] for a in order], [strides[a] for a in order])
        if not shape:
            offset = "tl.zeros((1, 1), tl.int32)"
        truth = " != 0" if x.type.dtype == "bool" else ""
        body = f"v0 = tl.load(x + ({offset}), mask=live){truth}"
        inputs = [Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0))]
        about = f"Transposition by {', '.join(map(str, order))}."
        return tile_kernel(w, entry, about, inputs, {}, body, in_place=len(w.epilogue.results) == 1)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
