"""Writes ops without kernels as several ops that have them: selections by position, sizes, quantization, integers.

Runs before `lower`. Each function's docstring is its algebra; it returns what replaces the node, or the reason why not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from temper.dtypes import CODED
from temper.ir.dims import DimLike, data_symbols, from_data, symbols_of
from temper.ir.graph import Graph, Node, Value
from temper.passes.manager import Log, Pass
from temper.passes.parts import Parts, Result, replace_each
from temper.reference.formats import range_of

#: elements of a mask that may be stored as a constant
_MASK_LIMIT = 1 << 22
#: a sum of this many products of differences of bytes is exact in float32: 255 * 255 * 258 < 2^24
_EXACT_BYTES = 258


def _trilu(p: Parts) -> Result:
    """trilu(x) = where(mask, x, 0), the mask a constant."""
    x = p.input(0)
    rows, columns = x.type.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int) or rows * columns > _MASK_LIMIT:
        return f"a mask of {rows} x {columns} is not stored"
    if x.type.dtype in ("string", "complex64", "complex128"):
        return f"it selects {x.type.dtype}"
    ones = np.ones((rows, columns), bool)
    mask = np.triu(ones, p.integer("k")) if p.integer("upper") else np.tril(ones, p.integer("k"))
    return p("Where", p.constant(mask), x, p.scalar(0, x))


def _one_hot(p: Parts) -> Result:
    """onehot(i) = where(i' == 0..depth-1, on, off), i' = i + depth where i < 0."""
    indices, values, depth = p.input(0), p.input(1), p.node.attrs["depth"]
    if not isinstance(depth, int):
        return f"its depth is {depth}"
    if values.type.dtype == "string":
        return "its values are strings"
    rank = indices.type.rank + 1
    axis = p.integer("axis") % rank
    work = "int64" if indices.type.dtype.startswith(("int", "uint")) else "float32"
    i = p.cast(indices, work)
    i = p("Where", p("Less", i, p.scalar(0, i)), p("Add", i, p.scalar(depth, i)), i)
    i = p.reshape(i, (*indices.type.shape[:axis], 1, *indices.type.shape[axis:]))
    off = p.reshape(p("Slice", values, starts=(0,), ends=(1,), axes=(0,), steps=(1,)), ())
    on = p.reshape(p("Slice", values, starts=(1,), ends=(2,), axes=(0,), steps=(1,)), ())
    return p("Where", p("Equal", i, p.positions(axis, rank, depth, work)), on, off)


def _hardmax(p: Parts) -> Result:
    """hardmax(x) = cast(argmax(x) == 0..n-1)."""
    x = p.input(0)
    axis = p.integer("axis") % x.type.rank
    size = x.type.shape[axis]
    if not isinstance(size, int):
        return f"its axis has {size} elements"
    best = p("ArgMax", x, axis=axis, keepdims=1, select_last_index=0)
    return p.cast(p("Equal", best, p.positions(axis, x.type.rank, size)), x.type.dtype)


def _reverse_sequence(p: Parts) -> Result:
    """y[.. t ..] = x[.. length - 1 - t ..] where t < length, else x[.. t ..]."""
    x, lengths = p.input(0), p.input(1)
    rank, batch, time = x.type.rank, p.integer("batch_axis"), p.integer("time_axis")
    size = x.type.shape[time]
    if not isinstance(size, int):
        return f"its time axis has {size} elements"
    length = p.reshape(p.cast(lengths, "int64"), tuple(x.type.shape[batch] if a == batch else 1 for a in range(rank)))
    t = p.positions(time, rank, size)
    back = p("Sub", p("Sub", length, p.scalar(1, length)), t)
    index = p("Where", p("Less", t, length), back, t)
    return p("GatherElements", x, p("Expand", index, shape=x.type.shape), axis=time)


def _along(p: Parts, v: Value, x: Value) -> Value | str:
    """A scale or zero point shaped to broadcast against `x`."""
    if v.type.count == 1 and v.type.rank <= 1:
        return p.reshape(v, ())
    axis, block = p.integer("axis") % x.type.rank, p.integer("block_size")
    if not block:
        return p.reshape(v, tuple(v.type.shape[0] if a == axis else 1 for a in range(x.type.rank)))
    size = x.type.shape[axis]
    if not isinstance(size, int) or not v.type.static:
        return f"blocks along an axis of {size} elements"
    return p("Gather", v, p.constant(np.arange(size) // block), axis=axis)


def _quantize(p: Parts) -> Result:
    """quantize(x) = cast(clip(round(x / scale) + zero, low, high)); the division and the sum in float32.

    To a float of at most 8 bits: cast(x / scale + zero).
    """
    x, zero, out = p.input(0), p.optional(2), p.node.outputs[0].type.dtype
    if x.type.dtype == "float64" or out in ("int32", "uint32", "int64", "uint64"):
        return f"from {x.type.dtype} to {out} is not exact in float32"
    scale = _along(p, p.input(1), x)
    if isinstance(scale, str):
        return scale
    y = p("Div", p.cast(x, "float32"), p.cast(scale, "float32"))
    if out in ("int8", "uint8") and (zero is None or (zero.const is not None and zero.const.size == 1)):
        start = 0 if zero is None or zero.const is None else int(zero.const.reshape(-1)[0])
        return p("Saturate", y, to=out, zero_point=start)
    if out not in CODED:
        y = p("Round", y)
    if zero is not None:
        shift = _along(p, zero, x)
        if isinstance(shift, str):
            return shift
        y = p("Add", y, p.cast(shift, "float32"))
    if out in CODED:
        attrs = {k: p.node.attrs[k] for k in ("saturate",) if k in p.node.attrs}
        return p("Cast", y, to=out, **attrs)
    low, high = range_of(out)
    return p.cast(p("Clip", y, min=float(low), max=float(high)), out)


def _dequantize(p: Parts) -> Result:
    """dequantize(q) = cast(q - zero) scale, the difference exact (of 8-bit floats, rounded in float32)."""
    q, zero = p.input(0), p.optional(2)
    scale = _along(p, p.input(1), q)
    if isinstance(scale, str):
        return scale
    if scale.type.dtype == "float64":
        return "its scale is float64"
    exact = "float32" if q.type.dtype in CODED else "int32"
    wide = p.cast(q, exact)
    if zero is not None:
        shift = _along(p, zero, q)
        if isinstance(shift, str):
            return shift
        wide = p("Sub", wide, p.cast(shift, exact))
    return p.cast(p("Mul", p.cast(wide, "float32"), p.cast(scale, "float32")), p.node.outputs[0].type.dtype)


def _dynamic_quantize(p: Parts) -> Result:
    """scale = (max(x, 0) - min(x, 0)) / 255, zero = round(-min / scale), as quantize; 0 for an empty range."""
    x = p.input(0)
    if x.type.count == 0 or data_symbols(*x.type.shape):
        return f"{x.type} may be empty"
    axes = tuple(range(x.type.rank))
    zero = p.scalar(0, x)
    low = p("Min", p("ReduceMin", x, axes=axes, keepdims=0) if axes else x, zero)
    high = p("Max", p("ReduceMax", x, axes=axes, keepdims=0) if axes else x, zero)
    scale = p("Div", p("Sub", high, low), p.scalar(255, x))
    empty = p("Equal", scale, zero)
    divisor = p("Where", empty, p.scalar(1, x), scale)
    shift = p("Clip", p("Round", p("Div", p("Neg", low), divisor)), min=0.0, max=255.0)
    y = p("Clip", p("Add", p("Round", p("Div", x, divisor)), shift), min=0.0, max=255.0)
    return [p.cast(y, "uint8"), scale, p.cast(shift, "uint8")]


def _shifted(p: Parts, i: int, zero: int, shape: Sequence[DimLike] | None) -> Value:
    """Operand i less its zero point, in float32. shape: of a zero point that is a vector."""
    x, z = p.cast(p.input(i), "float32"), p.optional(zero)
    if z is None:
        return x
    z = p.cast(z, "float32")
    return p("Sub", x, p.reshape(z, () if z.type.count == 1 or shape is None else shape))


def _matmul_integer(p: Parts) -> Result:
    """(a - za) @ (b - zb) in float32, where every sum is exact."""
    depth = p.input(0).type.shape[-1]
    if not isinstance(depth, int) or depth > _EXACT_BYTES:
        return f"a sum of {depth} products may not be exact in float32"
    za, zb = p.optional(2), p.optional(3)
    left = _shifted(p, 0, 2, None if za is None else (*za.type.shape, 1) if za.type.rank == 1 else za.type.shape)
    right = _shifted(p, 1, 3, None if zb is None else zb.type.shape)
    return p.cast(p("MatMul", left, right), "int32")


def _conv_integer(p: Parts) -> Result:
    """conv(x - zx, w - zw) in float32, where every sum is exact."""
    w, last = p.input(1), p.integer("channels_last")
    depth = 1
    for d in w.type.shape[:-1] if last else w.type.shape[1:]:
        if not isinstance(d, int):
            return f"the weights are {w.type}"
        depth *= d
    if depth > _EXACT_BYTES:
        return f"a sum of {depth} products may not be exact in float32"
    z = p.optional(3)
    per = None if z is None else (z.type.shape[0] if z.type.rank else 1,)
    shape = None if per is None or last else (*per, *(1,) * (w.type.rank - 1))
    y = p("Conv", _shifted(p, 0, 2, None), _shifted(p, 1, 3, shape or per), **dict(p.node.attrs))
    return p.cast(y, "int32")


def _pow(p: Parts) -> Result:
    """x ^ n with n in x's type, where that holds it."""
    x, n = p.input(0), p.input(1)
    if x.type.dtype != "float32" or n.type.dtype == "float32":
        return "its operands have types that kernels take, or that float32 does not hold"
    if n.type.dtype in ("float64", "uint32", "uint64"):
        return f"float32 does not hold {n.type.dtype}"
    return p("Pow", x, p.cast(n, "float32"))


def _matmul_vector(p: Parts) -> Result:
    """Products with vectors are products with matrices of one row or column."""
    a, b = p.input(0), p.input(1)
    if a.type.rank > 1 and b.type.rank > 1:
        return "it has no vector"
    if p.integer("transA") or p.integer("transB"):
        return "an operand is transposed"
    left = p.reshape(a, (1, *a.type.shape)) if a.type.rank == 1 else a
    right = p.reshape(b, (*b.type.shape, 1)) if b.type.rank == 1 else b
    return p.reshape(p("MatMul", left, right), p.node.outputs[0].type.shape)


def _softmax_double(p: Parts) -> Result:
    """e^(x - max x) / sum of those, in float64."""
    x = p.input(0)
    if x.type.dtype != "float64":
        return "kernels compute it"
    axes = (p.integer("axis") % x.type.rank,)
    shifted = p("Sub", x, p("ReduceMax", x, axes=axes, keepdims=1))
    e = p("Exp", shifted)
    total = p("ReduceSum", e, axes=axes, keepdims=1)
    return p("Div", e, total) if p.node.op == "Softmax" else p("Sub", shifted, p("Log", total))


def _shape(p: Parts) -> Result:
    """shape(x) of sizes known at run time = a range of one number for each, end to end; of one that is chosen, that."""
    start, end = p.integer("start"), p.node.attrs.get("end")
    sizes = p.input(0).type.shape[start : None if end is None else int(str(end))]
    if not sizes or any(from_data(s) for d in sizes for s in symbols_of(d)):
        return "it has no elements, or sizes that are found in data"

    def number(d: DimLike) -> Value:
        return p("Range", start=d, limit=d + 1, delta=1, to="int64")

    for user, i in list(p.node.output.uses):
        index = user.inputs[1].const if user.op == "Gather" and i == 0 and user.inputs[1] is not None else None
        if index is not None and index.size == 1 and -len(sizes) <= index.item() < len(sizes):
            p.graph.replace_uses(user.output, p.reshape(number(sizes[index.item()]), index.shape))
    return number(sizes[0]) if len(sizes) == 1 else p("Concat", *map(number, sizes), axis=0)


_DECOMPOSE: Mapping[str, Callable[[Parts], Result]] = MappingProxyType(
    {
        "Trilu": _trilu,
        "OneHot": _one_hot,
        "Hardmax": _hardmax,
        "ReverseSequence": _reverse_sequence,
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
        "DynamicQuantizeLinear": _dynamic_quantize,
        "MatMulInteger": _matmul_integer,
        "ConvInteger": _conv_integer,
        "MatMul": _matmul_vector,
        "Pow": _pow,
        "Softmax": _softmax_double,
        "LogSoftmax": _softmax_double,
        "Shape": _shape,
    }
)
#: ops that kernels mostly compute as they are: that they are not decomposed is no news
_QUIET = frozenset({"MatMul", "Pow", "Softmax", "LogSoftmax"})


def _decompose(graph: Graph, log: Log) -> None:
    def write(node: Node) -> Result | None:
        return _DECOMPOSE[node.op](Parts(graph, node)) if node.op in _DECOMPOSE else None

    replace_each(graph, log, "decompose", write, quiet=_QUIET)


DECOMPOSE = Pass("decompose", _decompose)
