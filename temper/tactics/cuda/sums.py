"""Rarely used sums on a CUDA GPU, one output element a lane, in float64: Einsum, DFT, Col2Im, DeformConv; Hardmax.

Einsum's kernel also computes the matrix products that tensor cores do not take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from temper.ir.dims import Dim, DimLike, product
from temper.ir.opdef import AttrValue
from temper.ir.ops.contraction import einsum_terms, windowed
from temper.ir.types import TensorType
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, loaded, output_index
from temper.tactics.cuda.instructions import TRITON_TYPES
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.loads import HALVES
from temper.tactics.fourier import roots_of_unity
from temper.tactics.geometry import integers, typical_count

_FLOATS = ("float32", "float64")
_INTS = tuple(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64))


def decoded(value: str, sizes: list[DimLike], names: list[str]) -> list[str]:
    """Statements that take a flat number apart into indices along axes of these sizes."""
    lines, below = [], 1 + 0 * product(tuple(sizes))
    for size, name in zip(reversed(sizes), reversed(names), strict=True):
        lines.append(f"{name} = {value} // ({dim_text(below)}) % ({dim_text(size)})")
        below = below * size
    return lines


class _Summed(Tiled):
    """A sum of `terms` products for each element."""

    moves = False

    def terms(self, w: Workload) -> DimLike:
        raise NotImplementedError

    def predict(self, w: Workload, params: Params) -> float:
        return 3e-6 + typical_count((*w.outputs[0].type.shape, self.terms(w))) * 2e-11


class Einsum(_Summed):
    """Products of any number of operands; MatMul of types that tensor cores do not multiply, and with vectors."""

    name = "cuda.einsum"
    ops = frozenset({"Einsum", "MatMul"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.epilogue.operands[0].dtype
        if w.op == "MatMul" and dtype in ("float32", *HALVES) and all(s and s.type.rank > 1 for s in w.inputs):
            return "leaves products of float matrices to other kernels"
        return None if dtype in (*_FLOATS, *_INTS) else f"{dtype} is not summed here"

    def _parts(self, w: Workload) -> tuple[dict[str, DimLike], list[list[str]], list[str]]:
        attrs: dict[str, AttrValue] = dict(w.attrs)
        if w.op == "MatMul":
            a, b = (s.type.rank for s in w.inputs if s is not None)
            left = "j" if a == 1 else "...ji" if w.attr("transA", 0) else "...ij"
            right = "j" if b == 1 else "...kj" if w.attr("transB", 0) else "...jk"
            attrs = {"equation": f"{left},{right}->...{'i' * (a > 1)}{'k' * (b > 1)}"}
        types: list[TensorType | None] = [None if s is None else s.type for s in w.inputs]
        return einsum_terms(types, attrs)

    def terms(self, w: Workload) -> DimLike:
        sizes, _, out = self._parts(w)
        return product(tuple(d for x, d in sizes.items() if x not in out))

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        sizes, operands, out = self._parts(w)
        index = output_index(w)
        summed = [x for x in sizes if x not in out]
        names = {x: index.names[a] for a, x in enumerate(out)} | {x: f"k{i}" for i, x in enumerate(summed)}
        kind = "tl.float64" if w.epilogue.operands[0].dtype.startswith("float") else "tl.int64"
        lines = [*index.statements, f"total = tl.zeros((BM, BN), {kind})"]
        lines.append(f"for step in range({dim_text(self.terms(w))}):")
        lines += [f"    {x}" for x in decoded("step", [sizes[x] for x in summed], [names[x] for x in summed])]
        pointers, factors = [], []
        for i, (slot, labels) in enumerate(zip(w.inputs, operands, strict=True)):
            assert slot is not None
            strides = dense(w, i)
            terms = [f"{names[x]} * ({dim_text(strides[a])})" for a, x in enumerate(labels) if slot.type.shape[a] != 1]
            at = " + ".join(["tl.zeros((BM, BN), tl.int64)", *terms])
            lines.append(f"    f{i} = {loaded(w, f'x{i}', at, 'live', i)}.to({kind})")
            factors.append(f"f{i}")
            pointers.append(input_pointer(w, i, f"x{i}"))
        lines.append(f"    total += {' * '.join(factors)}")
        lines.append(f"v0 = total.to({TRITON_TYPES[w.epilogue.operands[0].dtype]})")
        return Body(lines, pointers, "A sum of products.")


class FourierSums(_Summed):
    """Every result is a sum over the line, with powers of the root of unity from a table."""

    name = "cuda.dft"
    ops = frozenset({"DFT"})
    #: Longest line: the work grows with its square.
    most = 1 << 14

    def declines(self, w: Workload) -> str | None:
        dtype, n = w.epilogue.operands[0].dtype, int(str(w.attr("length")))
        if dtype not in _FLOATS:
            return f"computes float32 and float64, not {dtype}"
        return f"sums lines of at most {self.most} elements, not {n}" if n > self.most else None

    def terms(self, w: Workload) -> DimLike:
        return int(str(w.attr("length")))

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, y, index = w.inputs[0], w.outputs[0].type, output_index(w)
        assert x is not None
        n, axis = int(str(w.attr("length"))), int(str(w.attr("axis"))) % y.rank
        inverse, strides = bool(w.attr("inverse", 0)), dense(w, 0)
        mirrored, pairs = inverse and bool(w.attr("onesided", 0)), x.type.shape[-1] == 2
        others = {a: s for a, s in enumerate(strides) if a not in (axis, y.rank - 1)}
        lines = [
            *index.statements,
            f"base = {index.offset(others)} + tl.zeros((BM, BN), tl.int64)",
            f"k = {index.names[axis]}.to(tl.int64)",
            "real = tl.zeros((BM, BN), tl.float64)",
            "imaginary = tl.zeros((BM, BN), tl.float64)",
            f"for n in range({n}):",
            "    term = n + tl.zeros((1, 1), tl.int64)",
        ]
        if mirrored:
            lines += [f"    later = term > {n // 2}", f"    at = tl.where(later, {n} - term, term)"]
        else:
            lines.append("    at = term")
        there = f"live & (at < {dim_text(x.type.shape[axis])})"
        step = dim_text(strides[axis])
        lines += [
            f"    there = {there}",
            f"    a = tl.load(x + base + at * ({step}), mask=there, other=0).to(tl.float64)",
            f"    turn = (term * k) % {n}",
            "    c = tl.load(table + 2 * turn)",
            f"    s = {'-' if inverse else ''}tl.load(table + 2 * turn + 1)",
        ]
        if pairs:
            lines.append(f"    b = tl.load(x + base + at * ({step}) + 1, mask=there, other=0).to(tl.float64)")
            if mirrored:
                lines.append(f"    b = tl.where((term == 0) | (2 * term == {n}), 0.0, tl.where(later, -b, b))")
            lines += ["    real += a * c - b * s", "    imaginary += a * s + b * c"]
        else:
            lines += ["    real += a * c", "    imaginary += a * s"]
        lines.append(f"whole = tl.where({index.names[-1]} == 0, real, imaginary)")
        lines.append(f"whole = whole / {float(n) if inverse else 1.0}")
        lines.append(f"v0 = whole.to({TRITON_TYPES[w.epilogue.operands[0].dtype]})")
        table = Parameter("table", "*fp64", ("packed", 0))
        return Body(lines, [input_pointer(w, 0, "x"), table], f"Fourier transforms of length {n}.")

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return (roots_of_unity(int(str(w.attr("length")))),)


class ColumnsToImage(_Summed):
    """Every output element collects its windows."""

    name = "cuda.col2im"
    ops = frozenset({"Col2Im"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.epilogue.operands[0].dtype
        return None if dtype in (*_FLOATS, *_INTS) else f"{dtype} is not summed here"

    def terms(self, w: Workload) -> DimLike:
        return prod(integers(w, "block_shape"))

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        y, block, index = w.outputs[0].type, integers(w, "block_shape"), output_index(w)
        rank, image = len(block), y.shape[2:]
        strides, pads, dilations = integers(w, "strides"), integers(w, "pads"), integers(w, "dilations")
        counts = [windowed(d, block[a], strides[a], pads[a], pads[rank + a], dilations[a]) for a, d in enumerate(image)]
        dtype = w.epilogue.operands[0].dtype
        kind = "tl.float64" if dtype.startswith("float") else "tl.int64"
        batch, rows, _ = dense(w, 0)
        lines = [
            *index.statements,
            f"base = {index.names[0]} * ({dim_text(batch)}) + {index.names[1]} * ({dim_text(rows * prod(block))})",
            f"total = tl.zeros((BM, BN), {kind})",
            f"for tap in range({prod(block)}):",
            "    window = tl.zeros((BM, BN), tl.int64)",
            "    covers = live",
        ]
        below, run = 1, 1 + 0 * product(tuple(counts))
        for a in reversed(range(rank)):
            lines += [
                f"    start = {index.names[2 + a]} + {pads[a]} - tap // {below} % {block[a]} * {dilations[a]}",
                f"    covers = covers & (start >= 0) & (start % {strides[a]} == 0)",
                f"    covers = covers & (start // {strides[a]} < {dim_text(counts[a])})",
                f"    window += start // {strides[a]} * ({dim_text(run)})",
            ]
            below, run = below * block[a], run * counts[a]
        lines += [
            f"    total += tl.load(x + base + tap * ({dim_text(rows)}) + window, mask=covers, other=0).to({kind})",
            f"v0 = total.to({TRITON_TYPES[dtype]})",
        ]
        return Body(lines, [input_pointer(w, 0, "x")], "Columns to images.")


class DeformConv(_Summed):
    """Tap by tap and channel by channel: where it lies, what is interpolated there, times its weight."""

    name = "cuda.deform_conv"
    ops = frozenset({"DeformConv"})

    def declines(self, w: Workload) -> str | None:
        if odd := sorted({s.type.dtype for s in w.inputs if s is not None} - {"float32"}):
            return f"computes float32 only, not {odd[0]}"
        if any(s is not None and s.row_stride is not None for s in w.inputs[1:]):
            return "its weights, offsets and mask must be dense"
        x, k = w.inputs[0], w.inputs[1]
        assert x is not None and k is not None
        if any(isinstance(d, Dim) for d in (x.type.shape[1], *k.type.shape)):
            return "channel counts and kernel size must be known at build"
        return None

    def terms(self, w: Workload) -> DimLike:
        assert w.inputs[1] is not None
        return product(w.inputs[1].type.shape[1:])

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, k, index = w.inputs[0], w.inputs[1], output_index(w)
        assert x is not None and k is not None
        spatial, rank, out = x.type.shape[2:], x.type.rank - 2, w.outputs[0].type.shape[2:]
        features, each, *kernel = (int(str(d)) for d in k.type.shape)
        channels, taps = int(str(x.type.shape[1])), prod(kernel)
        groups, shifted = (int(str(w.attr(name, 1))) for name in ("group", "offset_group"))
        steps, spread, pads = integers(w, "strides"), integers(w, "dilations"), integers(w, "pads")
        positions = dim_text(product(out))
        mine = index.offset({2 + a: product(out[a + 1 :]) for a in range(rank)})
        image, feature, strides = index.names[0], index.names[1], dense(w, 0)
        names = ["x", "weights", "offsets", "bias", "mask"]
        given = [i for i, s in enumerate(w.inputs) if s is not None]
        start = f"tl.load(bias + {feature}, mask=live, other=0.0).to(tl.float64)" if 3 in given else "0.0"
        lines = [
            *index.statements,
            f"mine = {mine}",
            f"total = tl.zeros((BM, BN), tl.float64) + {start}",
            f"for step in range({each * taps}):",
            f"    tap = step % {taps}",
            f"    channel_in = {feature} // {features // groups} * {each} + step // {taps}",
            f"    moved = ({image}.to(tl.int64) * {shifted} + channel_in // {channels // shifted}) * {taps} + tap",
        ]
        lines.append(
            f"    scale = tl.load(mask + moved * ({positions}) + mine, mask=live, other=0.0).to(tl.float64)"
            if 4 in given
            else "    scale = tl.full((1, 1), 1.0, tl.float64)"
        )
        below = 1
        for a in reversed(range(rank)):
            lines += [
                f"    move = tl.load(offsets + (moved * {rank} + {a}) * ({positions}) + mine, mask=live, other=0.0)",
                f"    first = {index.names[2 + a]} * {steps[a]} - {pads[a]}",
                f"    first += tap // {below} % {kernel[a]} * {spread[a]}",
                "    where = within_reach(first.to(tl.float64) + move.to(tl.float64))",
                "    low = tl.floor(where)",
                f"    f{a} = where - low",
                f"    p{a} = low.to(tl.int64)",
            ]
            below *= kernel[a]
        lines.append(
            f"    plane = x + {image}.to(tl.int64) * ({dim_text(strides[0])}) + channel_in * ({dim_text(strides[1])})"
        )
        lines.append("    sample = tl.zeros((BM, BN), tl.float64)")
        for corner in range(2**rank):
            inside, weight, at = ["live"], ["scale"], []
            for a in range(rank):
                up = corner >> a & 1
                inside.append(f"(p{a} + {up} >= 0) & (p{a} + {up} < {dim_text(spatial[a])})")
                weight.append(f"f{a}" if up else f"(1.0 - f{a})")
                at.append(f"(p{a} + {up}) * ({dim_text(strides[2 + a])})")
            lines += [
                f"    weight = {' * '.join(weight)}",
                f"    there = {' & '.join(inside)} & (weight != 0)",
                f"    value = tl.load(plane + {' + '.join(at)}, mask=there, other=0.0).to(tl.float64)",
                "    sample += tl.where(there, weight * value, 0.0)",
            ]
        lines += [
            f"    factor = tl.load(weights + {feature} * {each * taps} + step, mask=live, other=0.0).to(tl.float64)",
            "    total += factor * sample",
            "v0 = total.to(tl.float32)",
        ]
        return Body(lines, [input_pointer(w, i, names[i]) for i in given], "Deformable convolution.")


class Hardmax(Tiled):
    """1 at the first of the largest elements along an axis (NaN is the largest), 0 elsewhere."""

    name = "cuda.hardmax"
    ops = frozenset({"Hardmax"})
    moves = False

    def declines(self, w: Workload) -> str | None:
        dtype = w.epilogue.operands[0].dtype
        return None if dtype in (*_FLOATS, *HALVES) else f"{dtype} is not compared here"

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, index, dtype = w.inputs[0], output_index(w), w.epilogue.operands[0].dtype
        assert x is not None
        axis = int(str(w.attr("axis", -1))) % x.type.rank
        strides = dense(w, 0)
        at = index.offset({a: s for a, s in enumerate(strides) if a != axis})
        kind = "tl.float64" if dtype == "float64" else "tl.float32"
        lines = [
            *index.statements,
            f"base = {at} + tl.zeros((BM, BN), tl.int64)",
            f"best = {loaded(w, 'x', 'base', 'live')}.to({kind})",
            "first = tl.zeros((BM, BN), tl.int32)",
            f"for k in range(1, {dim_text(x.type.shape[axis])}):",
            f"    value = {loaded(w, 'x', f'base + k * ({dim_text(strides[axis])})', 'live')}.to({kind})",
            "    above = (value > best) | ((value != value) & (best == best))",
            "    best = tl.where(above, value, best)",
            "    first = tl.where(above, k, first)",
            f"v0 = tl.where({index.names[axis]} == first, 1.0, 0.0).to({TRITON_TYPES[dtype]})",
        ]
        return Body(lines, [input_pointer(w, 0, "x")], f"Hardmax along axis {axis}.")
