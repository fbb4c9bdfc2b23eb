"""Reductions, softmax and pooling of ONNX."""

from __future__ import annotations

from typing import Any

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Emit, Row
from temper.frontends.onnx.table_movement import axes_from_front
from temper.frontends.onnx.windows import window
from temper.ir.dims import product
from temper.ir.graph import Value


def _attrs(c: Context) -> dict[str, Any] | None:
    """axes and keepdims; None where the node reduces nothing."""
    rank = c.input(0).type.rank
    axes = c.ints(1, "axes") if c.has(1) else c.attr("axes")
    if not axes and c.attr("noop_with_empty_axes", 0):
        return None
    return {
        "axes": tuple(sorted(axes_from_front(c, axes, rank))) if axes else tuple(range(rank)),
        "keepdims": c.attr("keepdims", 1),
    }


def _reduce(op: str) -> Emit:
    def emit(c: Context) -> Value:
        attrs = _attrs(c)
        return c.input(0) if attrs is None or not attrs["axes"] else c.emit(op, c.input(0), **attrs)

    return emit


def _reduce_composed(c: Context) -> Value:
    """Norms and logarithms of sums, out of their parts."""
    x, attrs = c.input(0), _attrs(c)
    before = {
        "ReduceL1": lambda: c.emit("Abs", x),
        "ReduceL2": lambda: c.emit("Mul", x, x),
        "ReduceSumSquare": lambda: c.emit("Mul", x, x),
        "ReduceLogSum": lambda: x,
    }[c.op]()
    total = before if attrs is None or not attrs["axes"] else c.emit("ReduceSum", before, **attrs)
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(c.op)
    return c.emit(after, total) if after else total


def _log_sum_exp(c: Context) -> Value:
    x, attrs = c.input(0), _attrs(c)
    if attrs is None or not attrs["axes"]:
        return x
    # Subtracting the largest element keeps exp() in range.
    largest = c.emit("ReduceMax", x, axes=attrs["axes"], keepdims=1)
    total = c.emit("Log", c.emit("ReduceSum", c.emit("Exp", c.emit("Sub", x, largest)), **attrs))
    return c.emit("Add", total, largest if attrs["keepdims"] else c.reshape(largest, total.type.shape))


def _arg(c: Context) -> Value:
    return c.emit(
        c.op,
        c.input(0),
        axis=c.axis(c.input(0).type.rank, 0),
        keepdims=c.attr("keepdims", 1),
        select_last_index=c.attr("select_last_index", 0),
    )


def softmax(c: Context) -> Value:
    return c.emit(c.op, c.input(0), axis=c.axis(c.input(0).type.rank, -1))


def softmax_flat(c: Context) -> Value:
    """Before opset 13 everything from `axis` on is one axis."""
    x = c.input(0)
    rank = x.type.rank
    axis = c.attr("axis", 1)
    if not -rank <= axis <= rank:
        raise ShapeError(f"{c}: axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    tail = x.type.shape[axis:]
    if axis < rank and all(d == 1 for d in tail[1:]):
        return c.emit(c.op, x, axis=axis)
    if axis < rank and tail[0] == 1 and sum(d != 1 for d in tail) == 1:
        return c.emit(c.op, x, axis=axis + [d != 1 for d in tail].index(True))
    flat = c.reshape(x, (product(x.type.shape[:axis]), product(tail)))
    return c.reshape(c.emit(c.op, flat, axis=1), x.type.shape)


def global_pool(op: str) -> Emit:
    def emit(c: Context) -> Value:
        x = c.input(0)
        if x.type.rank < 3:
            raise ShapeError(f"{c}: {x.type} has no spatial axes")
        return c.emit(op, x, axes=tuple(range(2, x.type.rank)), keepdims=1)

    return emit


def pool(c: Context) -> Value | list[Value]:
    x = c.input(0)
    if x.type.rank < 3:
        raise ShapeError(f"{c}: {x.type} has no spatial axes")
    kernel = tuple(c.attr("kernel_shape"))
    attrs = {**window(c, x.type.shape[2:], kernel), "kernel_shape": kernel, "ceil_mode": c.attr("ceil_mode", 0)}
    if c.op == "AveragePool":
        attrs["count_include_pad"] = c.attr("count_include_pad", 0)
    if c.op == "LpPool":
        attrs["p"] = c.attr("p", 2)
    if not c.wants(1):
        return c.emit(c.op, x, **attrs)
    return c.emit_many("MaxPoolIndices", [x], {**attrs, **c.take("storage_order")})


def _global_lp_pool(c: Context) -> Value:
    x, p = c.input(0), c.attr("p", 2)
    axes = tuple(range(2, x.type.rank))
    if p == 1:
        return c.emit("ReduceSum", c.emit("Abs", x), axes=axes, keepdims=1)
    if p == 2:
        return c.emit("Sqrt", c.emit("ReduceSum", c.emit("Mul", x, x), axes=axes, keepdims=1))
    power = c.emit("ReduceSum", c.emit("Pow", c.emit("Abs", x), c.like(p, x)), axes=axes, keepdims=1)
    return c.emit("Pow", power, c.like(1 / p, x))


def _cumulate(c: Context) -> Value:
    rank, axis = c.input(0).type.rank, int(c.scalar(1, "axis"))
    if not -rank <= axis < rank:
        raise ShapeError(f"{c}: axis {axis} is out of range for rank {rank}")
    return c.emit(c.op, c.input(0), axis=axis % rank, **c.take("exclusive", "reverse"))


def _top_k(c: Context) -> list[Value]:
    k = c.dims(1, "k") if c.has(1) else (c.attr("k"),)
    if len(k) != 1:
        raise ShapeError(f"{c}: k (input 1) must have one element, not {len(k)}")
    attrs = {"k": k[0], "axis": c.axis(c.input(0).type.rank, -1), **c.take("largest", "sorted")}
    return c.emit_many("TopK", [c.input(0)], attrs)


def _counted(*names: str) -> Emit:
    """Ops whose number of results depends on data."""

    def emit(c: Context) -> list[Value]:
        return c.counted(c.op, c.inputs, c.take(*names))

    return emit


def _non_max_suppression(c: Context) -> list[Value]:
    """Thresholds are attributes where they are known, operands where they are not."""
    attrs: dict[str, Any] = {"center_point_box": c.attr("center_point_box", 0)}
    operands: list[Value | None] = [c.input(0), c.input(1)]
    for i, name in enumerate(("max_output_boxes_per_class", "iou_threshold", "score_threshold"), 2):
        if c.has(i) and c.dynamic and c.known(c.input(i)) is None:
            operands += [None] * (i - len(operands)) + [c.input(i)]
        elif c.has(i):
            attrs[name] = c.scalar(i, name)
    return c.counted(c.op, operands, attrs)


ROWS: tuple[Row, ...] = (
    *(Row(op, _reduce(op)) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")),
    *(Row(op, _reduce_composed) for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")),
    Row("ReduceLogSumExp", _log_sum_exp),
    Row("ArgMax", _arg),
    Row("ArgMin", _arg),
    Row("Softmax", softmax_flat),
    Row("Softmax", softmax, 13),
    Row("LogSoftmax", softmax_flat),
    Row("LogSoftmax", softmax, 13),
    Row("GlobalAveragePool", global_pool("ReduceMean")),
    Row("GlobalMaxPool", global_pool("ReduceMax")),
    Row("MaxPool", pool),
    Row("LpPool", pool),
    Row("GlobalLpPool", _global_lp_pool),
    Row("CumSum", _cumulate),
    Row("CumProd", _cumulate),
    Row("TopK", _top_k),
    Row("NonZero", _counted()),
    Row("Compress", _counted("axis")),
    Row("Unique", _counted("axis", "sorted")),
    Row("NonMaxSuppression", _non_max_suppression),
    Row("Hardmax", softmax_flat),
    Row("Hardmax", softmax, 13),
    Row("AveragePool", pool),
)
