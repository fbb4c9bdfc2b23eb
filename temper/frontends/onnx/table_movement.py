"""ONNX ops that move, select and resize data."""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, same
from temper.ir.dims import Dim, DimLike, ceil_div, data_symbols, product
from temper.ir.graph import Value
from temper.ir.ops.rules import axes_of, broadcast

#: no axis is this long
_LONGEST = 10**9
_TO_THE_END = 2**63 - 1


def axes_from_front(c: Context, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    try:
        return axes_of(axes, rank)
    except ShapeError as e:
        raise ShapeError(f"{c}: {e}") from e


def _reshape_by_data(c: Context, x: Value, wanted: Sequence[DimLike | None]) -> Value:
    """A shape some of whose elements, or the one that takes what is left, depend on data."""
    unknown_part = any(d is None or data_symbols(d) for d in wanted)
    binds: list[DimLike] = []
    for i, d in enumerate(wanted):
        if d == 0 and not c.attr("allowzero", 0) and i < x.type.rank:
            d = x.type.shape[i]
        binds.append(c.builder.fresh("size") if d is None or (d == -1 and unknown_part) else d)
    if -1 in binds:
        at = binds.index(-1)
        binds[at] = c.builder.fresh("size")
    attrs = {"of": x.type.shape, "allowzero": c.attr("allowzero", 0), "binds": tuple(binds)}
    c.emit("ReshapeSizes", c.input(1), **attrs)
    return c.reshape(x, binds)


def _reshape(c: Context) -> Value:
    x = c.input(0)
    found = c.elements(c.input(1)) if c.dynamic and c.input(1).type.rank == 1 else None
    if found is not None and any(d is None for d in found):
        return _reshape_by_data(c, x, found)
    wanted = c.dims(1, "shape")
    shape: list[DimLike] = []
    for i, d in enumerate(wanted):
        if d == 0 and not c.attr("allowzero", 0):
            if i >= x.type.rank:
                raise ShapeError(
                    f"{c}: dimension {i} of the shape copies dimension {i} of {x.type}, which does not exist"
                )
            d = x.type.shape[i]
        shape.append(d)
    if shape.count(-1) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise ShapeError(f"{c}: {list(map(str, wanted))} is not a shape")
    if -1 in shape:
        at = shape.index(-1)
        rest = product(tuple(shape[:at] + shape[at + 1 :]))
        total = x.type.count
        if rest == 0 or (isinstance(total, int) and isinstance(rest, int) and total % rest):
            raise ShapeError(f"{c}: {x.type} cannot be reshaped to {list(map(str, wanted))}")
        shape[at] = total // rest
        if data_symbols(rest) and shape[at] * rest != total:
            return _reshape_by_data(c, x, wanted)
    return c.reshape(x, shape)


def _flatten(c: Context) -> Value:
    x = c.input(0)
    axis, rank = c.attr("axis", 1), x.type.rank
    if not -rank <= axis <= rank:
        raise ShapeError(f"{c}: axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return c.reshape(x, (product(x.type.shape[:axis]), product(x.type.shape[axis:])))


def _squeeze(c: Context) -> Value:
    x = c.input(0)
    axes = c.ints(1, "axes") if c.has(1) else c.attr("axes")
    ones = [i for i, d in enumerate(x.type.shape) if d == 1]
    chosen = ones if axes is None else list(axes_from_front(c, axes, x.type.rank))
    for i in chosen:
        if x.type.shape[i] != 1:
            raise ShapeError(f"{c}: axis {i} of {x.type} is not 1 and cannot be squeezed")
    return c.reshape(x, [d for i, d in enumerate(x.type.shape) if i not in chosen])


def _unsqueeze(c: Context) -> Value:
    x = c.input(0)
    axes = c.ints(1, "axes") if c.has(1) else c.attr("axes")
    if axes is None:
        raise ModelError(f"{c}: axes are missing")
    rank = x.type.rank + len(axes)
    chosen = axes_from_front(c, axes, rank)
    rest = iter(x.type.shape)
    return c.reshape(x, [1 if i in chosen else next(rest) for i in range(rank)])


def _transpose(c: Context) -> Value:
    rank = c.input(0).type.rank
    perm = tuple(c.attr("perm") if c.attr("perm") is not None else range(rank - 1, -1, -1))
    if sorted(perm) != list(range(rank)):
        raise ShapeError(f"{c}: perm {list(perm)} is not a permutation of {rank} axes")
    return c.input(0) if perm == tuple(range(rank)) else c.emit("Transpose", c.input(0), perm=perm)


def _concat(c: Context) -> Value:
    return c.emit("Concat", *c.inputs, axis=c.axis(c.input(0).type.rank)) if len(c.inputs) > 1 else c.input(0)


def _split(c: Context) -> Sequence[Value]:
    x = c.input(0)
    axis = c.axis(x.type.rank, 0)
    size, n = x.type.shape[axis], len(c.outputs)
    sizes: tuple[DimLike, ...]
    if c.has(1) or c.attr("split") is not None:
        sizes = c.dims(1, "split") if c.has(1) else c.attr("split")
        if len(sizes) != n:
            raise ShapeError(f"{c}: {len(sizes)} split sizes for {n} outputs")
    else:
        if c.attr("num_outputs", n) != n:
            raise ModelError(f"{c}: num_outputs is {c.attr('num_outputs')}, but the node has {n} outputs")
        chunk = ceil_div(size, n)
        if isinstance(size, Dim) and size % n != 0:
            raise Refusal(f"the symbolic size {size} may not divide into {n} equal parts")
        if isinstance(size, int) and isinstance(chunk, int) and chunk * (n - 1) > size:
            raise ShapeError(f"{c}: {size} elements cannot be split into {n} parts of {chunk}")
        sizes = (*(chunk,) * (n - 1), size - chunk * (n - 1))
    if n == 1 and sizes == (size,):
        return [x]
    return c.emit_many("Split", [x], {"axis": axis, "sizes": tuple(sizes)})


def _plain_slice(size: DimLike, start: DimLike | None, end: DimLike | None, step: int) -> bool:
    """True where the op itself can tell how many elements are selected, whatever the data are."""
    if start is None or end is None or data_symbols(start, end):
        return False
    if not data_symbols(size):
        return True
    far = isinstance(end, int) and (end >= _LONGEST if step > 0 else end <= -_LONGEST)
    if step > 0:
        return start == 0 and (far or (isinstance(end, int) and end >= 0))
    return far and isinstance(start, int) and (start == -1 or start >= _LONGEST)


def _slice_by_data(
    c: Context, x: Value, starts: Sequence[DimLike | None], ends: Sequence[DimLike | None], plain: Sequence[bool]
) -> Value:
    """A slice whose bounds, or whether they lie inside the axis, depend on data: a step clamps them first."""
    axes = axes_from_front(c, c.ints(3, "axes") if c.has(3) else tuple(range(len(starts))), x.type.rank)
    steps = c.ints(4, "steps") if c.has(4) else (1,) * len(starts)
    if any(s < 0 for s, p in zip(steps, plain, strict=True) if not p):
        raise Refusal("bounds that depend on data, with a negative step")
    first = [0 if p else c.builder.fresh("start") for p in plain]
    length = [0 if p else c.builder.fresh("length") for p in plain]
    sizes = tuple(x.type.shape[a] for a in axes)
    c.emit("SliceBounds", c.input(1), c.input(2), sizes=sizes, steps=tuple(steps), binds=(*first, *length))
    begin = [a if p and a is not None else f for a, p, f in zip(starts, plain, first, strict=True)]
    stop = [
        e if p and e is not None else f + n * s for e, p, f, n, s in zip(ends, plain, first, length, steps, strict=True)
    ]
    stop = [
        _TO_THE_END if isinstance(e, int) and e >= _LONGEST and isinstance(d, Dim) else e
        for e, d in zip(stop, sizes, strict=True)
    ]
    return c.emit("Slice", x, starts=tuple(begin), ends=tuple(stop), axes=axes, steps=tuple(steps))


def _slice(c: Context) -> Value:
    x = c.input(0)
    if len(c.inputs) > 1 and c.dynamic:
        low, high = c.elements(c.input(1)), c.elements(c.input(2))
        if low is None or high is None:
            raise Refusal("the number of axes to slice depends on data")
        on = axes_from_front(c, c.ints(3, "axes") if c.has(3) else tuple(range(len(low))), x.type.rank)
        by = c.ints(4, "steps") if c.has(4) else (1,) * len(low)
        if len(low) == len(high) == len(on) == len(by):
            shape = x.type.shape
            plain = [_plain_slice(shape[a], s, e, k) for a, s, e, k in zip(on, low, high, by, strict=True)]
            if not all(plain):
                return _slice_by_data(c, x, low, high, plain)
    if len(c.inputs) > 1:
        starts, ends = c.dims(1, "starts"), c.dims(2, "ends")
        axes = c.ints(3, "axes") if c.has(3) else tuple(range(len(starts)))
        steps = c.ints(4, "steps") if c.has(4) else (1,) * len(starts)
    else:
        starts, ends = c.attr("starts"), c.attr("ends")
        axes = c.attr("axes") or tuple(range(len(starts)))
        steps = (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ShapeError(f"{c}: {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    if 0 in steps:
        raise ShapeError(f"{c}: a step is 0")
    # Exporters write large numbers for "to the end"; on a symbolic size the op must see that none is a real bound.
    ends = tuple(
        _TO_THE_END if isinstance(e, int) and e >= _LONGEST and isinstance(x.type.shape[a], Dim) else e
        for e, a in zip(ends, axes_from_front(c, axes, x.type.rank), strict=True)
    )
    return c.emit(
        "Slice",
        x,
        starts=tuple(starts),
        ends=tuple(ends),
        axes=axes_from_front(c, axes, x.type.rank),
        steps=tuple(steps),
    )


def _expand(c: Context) -> Value:
    x, wanted = c.input(0), list(c.dims(1, "shape"))
    for i, d in enumerate(reversed(x.type.shape), 1):
        # a size from data can only be 1 or that of the axis, else the step refuses the data
        if i <= len(wanted) and d != 1 and wanted[-i] != d and data_symbols(wanted[-i]):
            wanted[-i] = d
    try:
        shape = broadcast(x.type.shape, tuple(wanted))
    except ShapeError as e:
        raise ShapeError(f"{c}: {e}") from e
    return x if shape == x.type.shape else c.emit("Expand", x, shape=shape)


def _tile(c: Context) -> Value:
    repeats = c.dims(1, "repeats")
    return (
        c.input(0)
        if all(r == 1 for r in repeats) and len(repeats) == c.input(0).type.rank
        else c.emit("Tile", c.input(0), repeats=repeats)
    )


def _pad(c: Context) -> Value:
    x = c.input(0)
    rank = x.type.rank
    pads = c.dims(1, "pads") if c.has(1) else tuple(c.attr("pads") or ())
    value: int | float = c.scalar(2, "constant_value") if c.has(2) else c.attr("value", 0)
    axes = axes_from_front(c, c.ints(3, "axes"), rank) if c.has(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        raise ShapeError(f"{c}: {len(pads)} pads for {len(axes)} axes")
    full: list[DimLike] = [0] * (2 * rank)
    for i, a in enumerate(axes):
        full[a], full[rank + a] = pads[i], pads[len(axes) + i]
    return (
        c.emit("Pad", x, pads=tuple(full), mode=c.attr("mode", "constant"), value=value)
        if any(p != 0 for p in full)
        else x
    )


def _trilu(c: Context) -> Value:
    k = int(c.scalar(1, "k")) if c.has(1) else 0
    return c.emit("Trilu", c.input(0), upper=c.attr("upper", 1), k=k)


def _one_hot(c: Context) -> Value:
    depth, values = c.dims(1, "depth", fractions=True), c.input(2)
    if len(depth) != 1:
        raise ShapeError(f"{c}: depth (input 1) must have one element, not {len(depth)}")
    return c.emit("OneHot", c.input(0), values, depth=depth[0], axis=c.attr("axis", -1))


def _grid_sample(c: Context) -> Value:
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(c.attr("mode"), c.attr("mode"))
    return c.emit("GridSample", *c.inputs, mode=mode, **c.take("padding_mode", "align_corners"))


def _space_to_depth(c: Context) -> Value:
    if c.attr("mode", "DCR") == "DCR":
        return c.emit("SpaceToDepth", c.input(0), blocksize=c.attr("blocksize"))
    x, b = c.input(0), c.attr("blocksize")
    if x.type.rank != 4 or b < 1:
        raise ShapeError(f"{c}: needs data of rank 4 and a positive blocksize, not {x.type} and {b}")
    n, d, h, w = x.type.shape
    if h % b != 0 or w % b != 0:
        raise ShapeError(f"{c}: {h} x {w} does not divide into blocks of {b} x {b}")
    y = c.emit("Transpose", c.reshape(x, (n, d, h // b, b, w // b, b)), perm=(0, 1, 3, 5, 2, 4))
    return c.reshape(y, (n, d * (b * b), h // b, w // b))


ROWS: tuple[Row, ...] = (
    Row("Reshape", _reshape),
    Row("Flatten", _flatten),
    Row("Squeeze", _squeeze),
    Row("Unsqueeze", _unsqueeze),
    Row("Transpose", _transpose),
    Row("Concat", _concat),
    Row("Split", _split),
    Row("Slice", _slice),
    Row("Expand", _expand),
    Row("Tile", _tile),
    Row("Pad", _pad),
    Row("DepthToSpace", same("DepthToSpace", "blocksize", "mode")),
    Row("SpaceToDepth", _space_to_depth),
    Row("Trilu", _trilu),
    Row("OneHot", _one_hot),
    Row("GridSample", _grid_sample),
    Row("ReverseSequence", same("ReverseSequence", "batch_axis", "time_axis")),
    Row("Gather", same("Gather", "axis")),
    Row("GatherElements", same("GatherElements", "axis")),
    Row("GatherND", same("GatherND", "batch_dims")),
    Row("ScatterElements", same("ScatterElements", "axis", "reduction")),
    Row("ScatterND", same("ScatterND", "reduction")),
)
