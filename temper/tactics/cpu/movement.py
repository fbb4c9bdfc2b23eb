"""Data movement as affine copies: Transpose, Slice, Expand, Concat and Split become nested loops with constant strides.

Used where a movement could not become a view. Any element type: elements are moved as 1, 2, 4 or 8 byte integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.cpu.pointwise import collapse
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import strides_of

_INTEGER = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


@dataclass(frozen=True)
class Affine:
    """out[i] = in[base + sum i_k * steps_k] over `shape`; offsets and steps in elements."""

    shape: tuple[DimLike, ...]
    base: DimLike
    steps: tuple[DimLike, ...]


def _dense(slot: Slot) -> list[DimLike]:
    return strides_of(slot.type.shape, (True,) * slot.type.rank, slot.row_stride)


def _tuple(w: Workload, name: str) -> tuple[DimLike, ...]:
    value = w.attr(name)
    assert isinstance(value, tuple)
    return value  # type: ignore[return-value]  # the op table admits ints and dimensions only


def affine(w: Workload) -> Affine | str:
    """The copy a workload is, or why it is none."""
    source = w.inputs[0]
    assert source is not None
    steps = _dense(source)
    out = w.outputs[0].type.shape
    if w.op == "Transpose":
        perm = [int(str(i)) for i in _tuple(w, "perm")]
        return Affine(out, 0, tuple(steps[i] for i in perm))
    if w.op == "Expand":
        shape = source.type.shape
        lead = len(out) - len(shape)
        return Affine(
            out,
            0,
            tuple(
                0 if i < lead or (shape[i - lead] == 1 and out[i] != 1) else steps[i - lead] for i in range(len(out))
            ),
        )
    if w.op == "Slice":
        starts = _tuple(w, "starts")
        attrs = dict(w.attrs)
        axes = _tuple(w, "axes") if "axes" in attrs else tuple(range(len(starts)))
        strides = _tuple(w, "steps") if "steps" in attrs else (1,) * len(starts)
        base: DimLike = 0
        for start, axis, stride in zip(starts, axes, strides, strict=True):
            a = int(str(axis)) % source.type.rank
            size = source.type.shape[a]
            if not all(isinstance(i, int) for i in (start, stride, size)):
                return "it slices an axis whose bounds are not known at build"
            base = base + len_clamped(int(str(start)), int(str(size)), int(str(stride))) * steps[a]
            steps[a] = steps[a] * stride
        return Affine(out, base, tuple(steps))
    return f"moves Transpose, Expand and Slice, not {w.op}"


def len_clamped(start: int, size: int, step: int) -> int:
    """ONNX's start index after counting from the end and clamping."""
    start = start + size if start < 0 else start
    return max(0, min(start, size if step > 0 else size - 1))


class CopyAffine:
    """Transpose, Slice and Expand."""

    name = "cpu.copy_affine"
    ops = frozenset({"Transpose", "Slice", "Expand"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("Transpose", "Slice", "Expand"):
            return f"moves Transpose, Expand and Slice, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs or len(w.outputs) != 1:
            return "it copies and computes nothing"
        if w.outputs[0].type.dtype == "string":
            return "strings live on the host"
        found = affine(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 1e-6

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        a = affine(w)
        assert isinstance(a, Affine)
        loops = collapse(a.shape, [a.steps, _dense(w.outputs[0])])
        return Kernel(
            affine_source(loops.shape, loops.strides[0], loops.strides[1], a.base, w, entry),
            (entry,),
            (("input", 0), ("output", 0)),
            w.symbols,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def affine_source(
    shape: Sequence[DimLike], ins: Sequence[DimLike], outs: Sequence[DimLike], base: DimLike, w: Workload, entry: str
) -> str:
    """C of an affine copy over collapsed axes (at least two)."""
    size = itemsize(w.outputs[0].type.dtype)
    order = list(range(len(shape)))
    # the axis that walks the input contiguously, if it is not the last, becomes the row axis of a blocked transpose
    form = 0 if ins[-1] == 1 and outs[-1] == 1 else 2
    if form == 2 and outs[-1] == 1:
        contiguous = [i for i in order[:-1] if ins[i] == 1]
        if contiguous:
            order.remove(contiguous[0])
            order.insert(len(order) - 1, contiguous[0])
            form = 1
    dims, ins, outs = ([seq[i] for i in order] for seq in (shape, ins, outs))
    index = []
    left = "outer"
    for k in reversed(range(len(dims) - 2)):
        d = c_dim(dims[k], w.symbols)
        index.append(
            f"{{ int64_t i = {left} % {d}; at_in += i * {c_dim(ins[k], w.symbols)}; "
            f"at_out += i * {c_dim(outs[k], w.symbols)}; outer /= {d}; }}"
        )
    values: dict[str, int | str] = {
        "ENTRY": entry,
        "T": _INTEGER[size],
        "FORM": form,
        "BASE": c_dim(base, w.symbols),
        "R": c_dim(dims[-2], w.symbols),
        "Q": c_dim(dims[-1], w.symbols),
        "IN_R": c_dim(ins[-2], w.symbols),
        "IN_Q": c_dim(ins[-1], w.symbols),
        "OUT_R": c_dim(outs[-2], w.symbols),
        "OUTER": c_dim(product(tuple(dims[:-2])), w.symbols),
        "OUTER_INDEX": " ".join(index) or "(void)outer;",
    }
    if size == 4:
        values["T_IS_32"] = 1
    if size in (1, 4) and form == 1 and dims[-1] in (2, 3, 4) and outs[-2] == dims[-1]:
        values["INTERLEAVE"] = str(dims[-1])
    return template_text("vec.h") + defines(values) + template_text("copy_affine.c")


class CopyBlocks:
    """Concat and Split that could not become views: runs of contiguous elements, one affine copy per piece."""

    name = "cpu.copy_blocks"
    ops = frozenset({"Concat", "Split"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("Concat", "Split"):
            return f"joins or splits, and does not compute {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs:
            return "it copies and computes nothing"
        if any(s is not None and s.row_stride is not None for s in (*w.inputs, *w.outputs)):
            return "it takes dense tensors"
        return "strings live on the host" if w.outputs[0].type.dtype == "string" else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 1e-6

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        join = w.op == "Concat"
        whole = w.outputs[0] if join else w.inputs[0]
        assert whole is not None
        pieces = [s for s in (w.inputs if join else w.outputs) if s is not None]
        axis = int(str(w.attr("axis"))) % whole.type.rank
        size = itemsize(whole.type.dtype)
        outer = c_dim(product(whole.type.shape[:axis]), w.symbols)
        row = product(whole.type.shape[axis:]) * size
        lines, before = [], 0 * row
        for i, piece in enumerate(pieces):
            run = product(piece.type.shape[axis:]) * size
            a, b = (
                f"(char *)p[0] + o * {c_dim(row, w.symbols)} + {c_dim(before, w.symbols)}",
                f"(char *)p[{i + 1}] + o * {c_dim(run, w.symbols)}",
            )
            to, source = (a, b) if join else (b, a)
            lines.append(f"        __builtin_memcpy({to}, {source}, (size_t){c_dim(run, w.symbols)});\n")
            before = run + before
        body = (
            f"EXPORT void {entry}(void *const *p, const int64_t *v, int32_t part, int32_t parts)\n{{\n"
            f"    const int64_t outer = {outer};\n"
            f"    for (int64_t o = outer * part / parts; o < outer * (part + 1) / parts; o++) {{\n"
            f"{''.join(lines)}    }}\n}}\n"
        )
        whole_arg: ArgRef = ("output", 0) if join else ("input", 0)
        # p[0] is the whole, p[1..] the pieces
        refs = [("input" if join else "output", i) for i in range(len(pieces))]
        return Kernel(template_text("vec.h") + body, (entry,), (whole_arg, *refs), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
