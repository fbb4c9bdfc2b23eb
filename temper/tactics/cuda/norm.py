"""Layer and RMS normalisation on a CUDA GPU: a row is read once, its statistics are float32, an epilogue may follow.

Bound by reading and writing the rows where there are many, by the launch where there are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from temper.ir.dims import Dim, DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.instructions import literal
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, widened
from temper.tactics.cuda.rows import Pass, row_blockings, row_kernel
from temper.tactics.cuda.shortcuts import with_reciprocal
from temper.tactics.cuda.strips import Strips, strip_blockings, strip_kernel
from temper.tactics.geometry import typical_count

_PROCESSORS = 132


class LayerNorm:
    """LayerNormalization and RMSNormalization over trailing axes.

    Parameters. bm: rows of a block. warps: of 32 threads each. strips: every row is one warp's (strips.py).
    """

    name = "cuda.layernorm"
    ops = frozenset({"LayerNormalization", "RMSNormalization"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes LayerNormalization and RMSNormalization, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x, out = w.inputs[0], w.outputs[0]
        if x is None or x.type.rank == 0:
            return "normalisation needs an input with axes"
        if other := [s.type.dtype for s in w.inputs if s is not None and s.type.dtype not in FLOATS]:
            return f"normalises {', '.join(FLOATS)}, not {other[0]}"
        axis = _axis(w)
        count = product(x.type.shape[axis:])
        if isinstance(count, Dim) or count < 1:
            return f"the number of normalised elements must be known at build time, not {count}"
        if 0 in x.type.shape:
            return "it computes no element"
        for s in w.inputs[1:]:
            if s is not None and (s.type.count != count or s.row_stride is not None):
                return f"scale and bias must have all {count} normalised elements, not {s.type}"
        if axis < x.type.rank - 1:
            if x.row_stride is not None or out.row_stride is not None:
                return "normalised axes must be contiguous"
            if w.epilogue.instrs:
                return "an epilogue is applied to rows of the last axis only"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        rows, columns = _rows(w)
        whole = list(row_blockings(rows, columns, _PROCESSORS, len(w.outputs)))
        if isinstance(_strips(w), str) or (isinstance(rows, int) and rows < 8 * _PROCESSORS):
            return whole[:8]
        by_warps = list(strip_blockings())
        # halves take as long as their bytes either way; what turns them into codes is bound by instructions
        coded = any(itemsize(s.type.dtype) == 1 for s in w.outputs)
        return [*by_warps, *whole[:3]] if coded else [*whole[:3], *by_warps]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape)
        nbytes = sum(itemsize(s.type.dtype) for s in (w.inputs[0], *w.outputs) if s is not None)
        order = self.candidates(w).index(params)
        return (2e-6 + count * nbytes / 2.5e12) * (1 + 0.02 * order)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        rows, columns = _rows(w)
        w = replace(w, epilogue=with_reciprocal(w.epilogue))
        names = ("x", "scale", "bias")
        inputs = [
            Parameter(name, POINTER_TYPES[s.type.dtype], ("input", i))
            for i, (name, s) in enumerate(zip(names, w.inputs, strict=False))
            if s is not None
        ]
        inputs[0] = Parameter("x_at", inputs[0].type, inputs[0].ref)
        about, sizes = f"{w.op} of {columns} elements.", {"X_STRIDE": x.row_stride or columns}
        if dict(params).get("strips", 0):
            return self._by_warps(w, entry, about, inputs, sizes, params)
        over_root = _OVER_ROOT.format(literal(w.attr("epsilon")))
        if w.op == "RMSNormalization":
            passes = [Pass(_ZERO.format("square"), "square += tl.sum(x * x, axis=1)", over_root)]
            value = "v0 = x * over[:, None]"
        else:
            squares = "d = tl.where(live, x - mean, 0.0)\nsquare += tl.sum(d * d, axis=1)"
            passes = [
                Pass(_ZERO.format("total"), "total += tl.sum(x, axis=1)", "mean = (total / COLUMNS)[:, None]"),
                Pass(_ZERO.format("square"), squares, over_root),
            ]
            value = "v0 = (x - mean) * over[:, None]"
        for p, s in zip(names[1:], w.inputs[1:], strict=False):
            if s is not None:
                loaded = widened(f"tl.load({p} + channel[None, :], mask=channel_ok[None, :], other=0.0)", s.type.dtype)
                value += f" {'*' if p == 'scale' else '+'} {loaded}"
        if (half := w.epilogue.operands[0].dtype) != "float32":
            value += f"\nv0 = v0.to({FLOATS[half]})"
        load = "tl.load(x_at + row[:, None] * X_STRIDE + channel[None, :], mask=live, other=0.0)"
        return row_kernel(
            w, entry, about, inputs, sizes, rows=rows, columns=columns, load=widened(load, x.type.dtype),
            passes=passes, value=value, params=params,
        )  # fmt: skip

    @staticmethod
    def _by_warps(
        w: Workload, entry: str, about: str, inputs: list[Parameter], sizes: Mapping[str, DimLike], params: Params
    ) -> Kernel:
        x, strips = w.inputs[0], _strips(w)
        assert x is not None and not isinstance(strips, str)
        load = widened("tl.load(x_at + row[:, None] * X_STRIDE + channel_{i}[None, :]{mask})", x.type.dtype)
        sums = ""
        if w.op == "LayerNormalization":
            sums += f"mean = (tl.sum({' + '.join(f'x_{i}' for i in range(strips.count))}, axis=1) / COLUMNS)[:, None]\n"
            sums += strips.each("x_{i} -= mean\n")
            last = strips.count - 1
            if strips.ragged(last):
                sums += f"x_{last} = tl.where((channel_{last} < COLUMNS)[None, :], x_{last}, 0.0)\n"
        square = "x_0 * x_0"
        for i in range(1, strips.count):
            square = f"tl.fma(x_{i}, x_{i}, {square})"
        sums += f"square = tl.sum({square}, axis=1)\n{_OVER_ROOT.format(literal(w.attr('epsilon')))}\n"
        value = "v0 = x_{i} * over[:, None]"
        for k, s in enumerate(w.inputs[1:], 1):
            if s is not None:
                name = "_ scale bias".split()[k]
                loaded = widened(f"tl.load({name} + across + channel[None, :], mask=live)", s.type.dtype)
                value += f"\nv0 {'*' if k == 1 else '+'}= {loaded}"
        if (half := w.epilogue.operands[0].dtype) != "float32":
            value += f"\nv0 = v0.to({FLOATS[half]})"
        return strip_kernel(
            w, entry, about, inputs, sizes, rows=_rows(w)[0], strips=strips, load=load, sums=sums,
            value=value + "\n", params=params,
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


_ZERO = "{} = tl.zeros((BM,), tl.float32)"
_OVER_ROOT = "over = tl.div_rn(tl.full((BM,), 1.0, tl.float32), tl.sqrt_rn(square / COLUMNS + {}))"


def _strips(w: Workload) -> Strips | str:
    """How a warp holds a row, or why none does."""
    x = w.inputs[0]
    assert x is not None
    if x.row_stride is not None and x.row_stride * itemsize(x.type.dtype) % 16:
        return "rows do not start at multiples of 16 bytes"
    return Strips.of(_rows(w)[1], x.type.dtype)


def _axis(w: Workload) -> int:
    x, axis = w.inputs[0], w.attr("axis", -1)
    assert x is not None and isinstance(axis, int)
    return axis % x.type.rank


def _rows(w: Workload) -> tuple[DimLike, DimLike]:
    """Rows and their length."""
    x = w.inputs[0]
    assert x is not None
    return product(x.type.shape[: _axis(w)]), product(x.type.shape[_axis(w) :])
