"""Range and ConstantOfShape with sizes known at run time only, on a CUDA GPU; all others were folded into constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.dims import Dim, symbols_of
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import epilogue_declines
from temper.tactics.cuda.instructions import POINTER_TYPES, TRITON_TYPES
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.tiles import tile_kernel


class Filled:
    """An arithmetic progression; one value repeated is the one that does not progress."""

    name = "cuda.filled"
    ops = frozenset({"Range", "ConstantOfShape"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes Range and ConstantOfShape, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        dtype = w.epilogue.operands[0].dtype
        if dtype not in POINTER_TYPES or not dtype.startswith(("int", "uint", "float", "bool")):
            return f"elements of type {dtype} have no Triton form"
        return epilogue_declines(w.epilogue, dtype)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 2e-6

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        dtype = w.epilogue.operands[0].dtype
        ranged = w.op == "Range"
        start, delta = (w.attr("start"), w.attr("delta")) if ranged else (w.attr("value", 0), 0)
        names = set(w.symbols) | (symbols_of(start) if isinstance(start, Dim) else frozenset())
        exact = not any(isinstance(a, float) for a in (start, delta))

        def number(value: object) -> str:
            if isinstance(value, Dim):
                return f"({dim_text(value)})"
            assert isinstance(value, (int, float))
            text = repr(float(value)) if np.isfinite(value) else f'float("{float(value)}")'
            return str(int(value)) if exact else text

        kind = "tl.int64" if exact else "tl.float64"
        lines = [
            f"i = (row[:, None] * CHANNELS + channel[None, :]).to({kind})",
            f"first = tl.full((1, 1), {number(start)}, {kind})"
            if not isinstance(start, Dim)
            else f"first = {number(start)} + tl.zeros((1, 1), {kind})",
            f"v0 = i * tl.full((1, 1), {number(delta)}, {kind}) + first",
            f"v0 = v0{' != 0' if dtype == 'bool' else f'.to({TRITON_TYPES[dtype]})'}",
        ]
        body, symbols = "\n".join(lines), tuple(sorted(names))
        return tile_kernel(w, entry, f"{w.op}.", [], {}, body, in_place=False, symbols=symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
