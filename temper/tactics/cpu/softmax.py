"""Softmax and LogSoftmax of float32 over any axis (templates/softmax.c): about 12 cycles a vector, the cost of e^x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.reduce import origin_c
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines, identity_epilogue_c
from temper.tactics.geometry import Axis, strides_of, typical_count


class Softmax:
    """One line at a time along the last axis, a vector of lines at a time along any other."""

    name = "cpu.softmax"
    ops = frozenset({"Softmax", "LogSoftmax"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("Softmax", "LogSoftmax"):
            return f"computes Softmax and LogSoftmax, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "softmax needs an input with axes"
        if {x.type.dtype, w.outputs[0].type.dtype} != {"float32"}:
            return f"computes float32 only, not {x.type.dtype}"
        if isinstance(x.type.shape[-1], Dim) and (w.epilogue.instrs or len(w.epilogue.operands) > 1):
            return "an epilogue needs the last axis to be known at build time"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape)
        return 5e-7 + count / ISAS[w.isa].lanes * 16 / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, out = w.inputs[0], w.outputs[0]
        assert x is not None
        shape, symbols = x.type.shape, w.symbols
        axis = int(w.attr("axis", -1)) % len(shape)  # type: ignore[arg-type]
        strides = strides_of(shape, (True,) * len(shape), x.row_stride)
        last = len(shape) - 1
        kept = [Axis(d, s, False) for i, (d, s) in enumerate(zip(shape, strides, strict=True)) if i not in (axis, last)]
        lanes, length = ISAS[w.isa].lanes, shape[axis]
        workspace = shape[axis] * (4 * lanes) if axis != last else (shape[last] + lanes) * 4
        args: tuple[ArgRef, ...] = (("input", 0), ("output", 0), *epilogue_args(w.epilogue), ("workspace", 0))
        text = defines(
            {
                "ENTRY": entry,
                "LAST_AXIS": int(axis == last),
                "SHORT": int(isinstance(length, int) and length <= lanes),
                "LOG": int(w.op == "LogSoftmax"),
                "COUNT": c_dim(shape[axis], symbols),
                "STEP": c_dim(strides[axis], symbols),
                "WIDTH": c_dim(shape[last], symbols),
                "INNER": c_dim(product(shape[axis + 1 : last]), symbols),
                "OUTPUTS": c_dim(product(tuple(a.size for a in kept)), symbols),
                "OLD": c_dim(out.row_stride or shape[last], symbols),
                "PIXELS": c_dim(product(shape[1:-1]), symbols),
                "P_WS": len(args) - 1,
            }
        )
        epilogue = identity_epilogue_c() if isinstance(shape[last], Dim) else workload_epilogue_c(w, 2)
        text += origin_c(kept, symbols)
        source = template_text("vec.h", "vmath.h", "lanes.h") + epilogue + text + template_text("softmax.c")
        return Kernel(source, (entry,), args, symbols, workspace)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
