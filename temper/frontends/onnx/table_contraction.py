"""Convolutions and matrix products of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.windows import window
from temper.ir.dims import Dim, DimLike
from temper.ir.graph import Value


def _kernel(c: Context, x: Value, w: Value) -> tuple[int, ...]:
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        raise ShapeError(
            f"{c}: data {x.type} and weights {w.type} must both have a batch, a channel and the same spatial axes"
        )
    shape = w.type.shape[2:]
    if any(isinstance(d, Dim) for d in shape):
        raise Refusal(f"the kernel size {list(map(str, shape))} is symbolic")
    declared = c.attr("kernel_shape")
    if declared and tuple(declared) != shape:
        raise ShapeError(f"{c}: kernel_shape {list(declared)} contradicts the weights {w.type}")
    return tuple(d for d in shape if isinstance(d, int))


def convolution(c: Context, op: str, operands: Sequence[Value | None]) -> Value:
    """`op` on (x, w, ...) with the node's window attributes."""
    x, w = operands[0], operands[1]
    assert x is not None and w is not None
    return c.emit(op, *operands, group=c.attr("group", 1), **window(c, x.type.shape[2:], _kernel(c, x, w)))


def _conv(c: Context) -> Value:
    return convolution(c, c.op, c.inputs)


def _conv_transpose(c: Context) -> Value:
    kernel = _kernel(c, c.input(0), c.input(1))
    rank = len(kernel)
    spatial = c.input(0).type.shape[2:]
    extra = tuple(c.attr("output_padding") or (0,) * rank)
    if len(extra) != rank or min(extra) < 0:
        raise ShapeError(f"{c}: attribute 'output_padding' must be {rank} numbers, not {list(extra)}")
    wanted, mode = c.attr("output_shape"), c.attr("auto_pad", "NOTSET")
    if not wanted and mode not in ("SAME_UPPER", "SAME_LOWER"):
        attrs = window(c, spatial, kernel)
    else:
        attrs = window(_no_padding(c), spatial, kernel)
        target: Sequence[DimLike] = [d * s for d, s in zip(spatial, attrs["strides"], strict=True)]
        if wanted:
            if len(wanted) != rank:
                raise ShapeError(f"{c}: attribute 'output_shape' must have {rank} entries, not {len(wanted)}")
            target = wanted
        totals = []
        for d, s, e, k, r, t in zip(spatial, attrs["strides"], extra, kernel, attrs["dilations"], target, strict=True):
            total = (d - 1) * s + (e + (k - 1) * r + 1) - t
            if isinstance(total, Dim):
                raise Refusal(f"the padding depends on the symbolic size {d}")
            totals.append(total)
        if min(totals) < 0:
            # A wanted output larger than the kernels reach is filled by output padding.
            extra = tuple(e + max(0, -t) for e, t in zip(extra, totals, strict=True))
            totals = [max(0, t) for t in totals]
        # SAME_UPPER puts the odd element at the end, all else at the beginning.
        begins = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in totals]
        attrs["pads"] = (*begins, *(t - b for t, b in zip(totals, begins, strict=True)))
    return c.emit("ConvTranspose", *c.inputs, group=c.attr("group", 1), output_padding=extra, **attrs)


def _no_padding(c: Context) -> Context:
    attrs = {k: v for k, v in c.attrs.items() if k not in ("auto_pad", "pads")}
    return Context(c.builder, c.op, c.label, c.opset, c.inputs, attrs, c.outputs)


def _matmul(c: Context) -> Value:
    return c.emit("MatMul", c.input(0), c.input(1))


def _factor(w: np.ndarray, turned: bool, alpha: float) -> np.ndarray:
    """alpha w, or alpha w^T."""
    w = w.T if turned else w
    return np.ascontiguousarray(w if alpha == 1 else w * np.asarray(alpha, w.dtype))


def gemm(c: Context) -> Value:
    a, b = c.input(0), c.input(1)
    if a.type.rank != 2 or b.type.rank != 2:
        raise ShapeError(f"{c}: A and B must be matrices, not {a.type} and {b.type}")
    alpha, beta = c.attr("alpha", 1.0), c.attr("beta", 1.0)
    if (alpha != 1 or beta != 1) and not a.type.dtype.startswith(("float", "bfloat")):
        raise Refusal(f"alpha {alpha} and beta {beta} on {a.type.dtype}")
    attrs: dict[str, Any] = {"transA": 1} if c.attr("transA", 0) else {}
    scaled = alpha == 1
    if b.const is not None and b.type.dtype != "bfloat16":
        turned = bool(c.attr("transB", 0))
        if turned or not scaled:
            b = c.constant(c.builder.graph.derived(_factor, b.const, turned, alpha))
        scaled = True
    elif c.attr("transB", 0):
        attrs["transB"] = 1
    y = c.emit("MatMul", a, b, **attrs)
    if not scaled:
        y = c.emit("Mul", y, c.like(alpha, y))
    bias = c.optional(2)
    if bias is None or beta == 0:
        return y
    if beta != 1:
        bias = (
            c.constant(bias.const * np.asarray(beta, bias.const.dtype))
            if bias.const is not None and bias.type.dtype != "bfloat16"
            else c.emit("Mul", bias, c.like(beta, bias))
        )
    return c.emit("Add", y, bias)


def _integer(c: Context) -> Value:
    return c.emit("MatMulInteger", *c.inputs)


def _einsum(c: Context) -> Value:
    return c.emit("Einsum", *c.inputs, equation=c.attr("equation"))


ROWS: tuple[Row, ...] = (
    Row("Conv", _conv),
    Row("ConvInteger", _conv),
    Row("ConvTranspose", _conv_transpose),
    Row("MatMul", _matmul),
    Row("Gemm", gemm),
    Row("MatMulInteger", _integer),
    Row("Einsum", _einsum),
)
