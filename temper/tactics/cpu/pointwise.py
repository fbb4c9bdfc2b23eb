"""Elementwise chains with any broadcasting: axes are collapsed, the innermost runs in vectors, threads share blocks.

Programs over 32-bit lanes (float32, int32, bool) become explicit vector code; any other mix of types becomes a typed
scalar loop that the compiler vectorises where it can. Elements are independent: results do not depend on the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike
from temper.ir.types import itemsize
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import SCALAR_TYPES
from temper.tactics.cpu.rare import rare_headers
from temper.tactics.cpu.render import body_c, body_declines, lanes_only, load_c, store_c, template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.epilogue import Epilogue
from temper.tactics.geometry import strides_of, typical_count

#: Elements of a block: small enough to share a few thousand elements among threads, large enough to amortise indexing.
_BLOCK = 4096


@dataclass(frozen=True)
class Loops:
    """Collapsed iteration space: sizes per axis, and each tensor's element stride along each axis."""

    shape: tuple[DimLike, ...]
    strides: tuple[tuple[DimLike, ...], ...]


def collapse(shape: Sequence[DimLike], strides: Sequence[Sequence[DimLike]]) -> Loops:
    """Drops axes of size 1 and merges neighbours that every tensor walks as one; at least two axes remain."""
    axes = [a for a, d in enumerate(shape) if d != 1]
    dims: list[DimLike] = []
    steps: list[list[DimLike]] = [[] for _ in strides]
    for a in axes:
        if dims and all(s[-1] == t[a] * shape[a] for s, t in zip(steps, strides, strict=True)):
            dims[-1] = dims[-1] * shape[a]
            for s, t in zip(steps, strides, strict=True):
                s[-1] = t[a]
        else:
            dims.append(shape[a])
            for s, t in zip(steps, strides, strict=True):
                s.append(t[a])
    if not dims:
        dims, steps = [1], [[1] for _ in strides]
    if len(dims) < 2:
        dims = [1, *dims]
        steps = [[0, *s] for s in steps]
    return Loops(tuple(dims), tuple(tuple(s) for s in steps))


class Pointwise:
    """Any chain of elementwise ops that has a C form."""

    name = "cpu.pointwise"
    ops = frozenset({"Pointwise"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Pointwise":
            return f"computes Pointwise, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        shape = w.outputs[0].type.shape
        for k, slot in enumerate(w.outputs):
            if slot.type.shape != shape:
                return f"result {k} is {slot.type}, not the shape of result 0"
            if slot.type.dtype not in SCALAR_TYPES:
                return f"result {k} is {slot.type.dtype}"
        return body_declines(w.epilogue, vector=False)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape)
        nbytes = sum(itemsize(o.dtype) for o in w.epilogue.operands if o.kind == "full")
        nbytes += sum(itemsize(s.type.dtype) for s in w.outputs)
        per_vector = 2.0 * len(w.epilogue.instrs) + len(w.epilogue.operands)
        lanes = ISAS[w.isa].lanes if lanes_only(w.epilogue) else 2
        return 5e-7 + count * max(nbytes / 12e9, per_vector / lanes / 3.8e9) / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        e = w.epilogue
        shape = w.outputs[0].type.shape
        full = (True,) * len(shape)
        strides = [strides_of(shape, o.mask, o.row_stride) for o in e.operands]
        strides += [strides_of(shape, full, s.row_stride) for s in w.outputs]
        loops = collapse(shape, strides)
        vector = (
            lanes_only(e)
            and all(isinstance(s[-1], int) and s[-1] in (0, 1) for s in loops.strides)
            and all(s[-1] == 1 for s in loops.strides[len(e.operands) :])
        )
        args: list[ArgRef] = [("operand", i) for i in range(len(e.operands))]
        args += [("output", k) for k in range(len(w.outputs))]
        text = _headers(e) + defines({"ENTRY": entry}) + _loops_c(w, loops, vector)
        return Kernel(text + template_text("pointwise.c"), (entry,), tuple(args), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _headers(e: Epilogue) -> str:
    return template_text("vec.h", "vmath.h", *rare_headers(body_c(e, vector=lanes_only(e))))


def _loops_c(w: Workload, loops: Loops, vector: bool) -> str:
    """The sizes of the blocked loops, and `rows`: the work of one block (templates/pointwise.c calls it)."""
    e, symbols = w.epilogue, w.symbols
    dims = [c_dim(d, symbols) for d in loops.shape]
    n, last = len(e.operands), len(dims) - 1
    dtypes = [o.dtype for o in e.operands] + [s.type.dtype for s in w.outputs]
    lines = ["  int64_t j = block;"] if last > 1 else []
    for a in reversed(range(last - 1)):
        lines.append(f"  const int64_t j{a} = j % {dims[a]}; j /= {dims[a]};")
    row: list[str] = []
    inner: list[str] = []
    hoisted: list[str] = []
    for t, dtype in enumerate(dtypes):
        const = "const " if t < n else ""
        steps = [c_dim(s, symbols) for s in loops.strides[t]]
        offset = " + ".join(["0"] + [f"j{a} * {steps[a]}" for a in range(last - 1) if steps[a] != "0"])
        lines.append(f"  {const}{SCALAR_TYPES[dtype]} *b{t} = ({const}{SCALAR_TYPES[dtype]} *)p[{t}] + {offset};")
        row.append(f"    {const}{SCALAR_TYPES[dtype]} *a{t} = b{t}{'' if steps[-2] == '0' else f' + r * {steps[-2]}'};")
        if t >= n:
            continue
        if vector:
            ctype = "vf" if dtype == "float32" else "vi"
            load = load_c(dtype, steps[-1] == "0", f"a{t}", "0" if steps[-1] == "0" else "i")
            (hoisted if steps[-1] == "0" else inner).append(f"const {ctype} v{t} = {load};")
        else:
            index = "0" if steps[-1] == "0" else "i" if steps[-1] == "1" else f"i * {steps[-1]}"
            (hoisted if steps[-1] == "0" else inner).append(f"const {SCALAR_TYPES[dtype]} v{t} = a{t}[{index}];")
    stores = []
    for k, value in enumerate(e.results):
        dtype, step = dtypes[n + k], c_dim(loops.strides[n + k][-1], symbols)
        stores.append(
            store_c(dtype, f"a{n + k}", "i", f"v{value}")
            if vector
            else f"a{n + k}[{'i' if step == '1' else f'i * {step}'}] = v{value};"
        )
    body = "\n".join([*inner, body_c(e, vector=vector), *stores])
    if vector:
        loop = (
            "    int64_t i = i0;\n    for (; i + VL <= i1; i += VL) {\n    enum { n = VL };\n" + body + "\n    }\n"
            "    if (i < i1) {\n    const int n = (int)(i1 - i);\n" + body + "\n    }"
        )
    else:
        loop = "    for (int64_t i = i0; i < i1; i++) {\n" + body + "\n    }"
    outer = "*".join(["(int64_t)1", *dims[: last - 1]])
    return "\n".join(
        [
            f"#define OUTER ({outer})",
            f"#define ROWS ((int64_t){dims[-2]})",
            f"#define INNER ((int64_t){dims[-1]})",
            f"#define BLOCK {_BLOCK}",
            "INLINE void rows(void *const *p, const int64_t *v, int64_t block, int64_t r0, int64_t r1, int64_t i0,",
            "                 int64_t i1) {",
            *lines,
            "  for (int64_t r = r0; r < r1; r++) {",
            *row,
            *("    " + h for h in hoisted),
            loop,
            "  }",
            "}",
            "",
        ]
    )
