"""Finds strided views for attention's operands [B, heads, S, D], so that a kernel reads them without splitting heads.

A value is traced back through Reshape, Transpose, Split, Slice, Gather of one index and scalar factors; at each step it
is a strided view of an earlier tensor. The earliest tensor whose rows the kernel can read is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from temper.ir.dims import Dim, DimLike, product
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make


@dataclass(frozen=True)
class View:
    """factor * source[offset + sum of strides * index], in elements of the row-major source."""

    source: Value
    shape: tuple[DimLike, ...]
    strides: tuple[DimLike, ...]
    offset: DimLike = 0
    factor: float = 1.0


@dataclass(frozen=True)
class Rows:
    """An operand as the kernel reads it: `value`, its letter (ir/ops/attention.py) and a factor to be applied to it."""

    value: Value
    letter: str
    factor: float


def row_major(shape: Sequence[DimLike]) -> tuple[DimLike, ...]:
    return tuple(product(tuple(shape[i + 1 :])) for i in range(len(shape)))


def scalar(v: Value | None) -> float | None:
    """The one number of a constant with one element."""
    if v is None or v.const is None or v.const.size != 1 or v.const.dtype.kind != "f":
        return None
    return float(v.const.reshape(-1)[0])


def scaled(node: Node) -> tuple[Value, float] | None:
    """(x, c) where the node computes x * c for one number c and keeps the shape."""
    if node.op not in ("Mul", "Div"):
        return None
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None and b is not None
    for x, c in ((a, b), (b, a)) if node.op == "Mul" else ((a, b),):
        number = scalar(c)
        if number is not None and x.const is None and x.type == node.output.type and (node.op == "Mul" or number):
            return x, number if node.op == "Mul" else 1.0 / number
    return None


def views(v: Value) -> Iterator[View]:
    """`v` as a view of itself, then of earlier and earlier tensors, as far as strides can express it."""
    here = View(v, v.type.shape, row_major(v.type.shape))
    while True:
        yield here
        earlier = _before(here)
        if earlier is None:
            return
        here = earlier


def _before(view: View) -> View | None:
    """The same elements as a view of what the source is made of."""
    node = view.source.producer
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    x = node.inputs[0]
    if (factor := scaled(node)) is not None:
        return replace(view, source=factor[0], factor=view.factor * factor[1])
    step = _moved(node, view.source.index)
    if step is None:
        return None
    strides = _composed(view, step)
    return None if strides is None else replace(view, source=x, strides=strides[0], offset=strides[1])


def _moved(node: Node, index: int) -> View | None:
    """One node's output as a view of its first input."""
    x, out = node.inputs[0], node.outputs[index]
    assert x is not None
    strides = row_major(x.type.shape)
    if node.op in ("Reshape", "Identity"):
        return View(x, out.type.shape, row_major(out.type.shape))
    if node.op == "Transpose":
        perm = node.attrs["perm"]
        assert isinstance(perm, tuple)
        return View(x, out.type.shape, tuple(strides[int(str(i))] for i in perm))
    if node.op == "Split":
        axis, sizes = int(str(node.attrs["axis"])) % x.type.rank, node.attrs["sizes"]
        assert isinstance(sizes, tuple)
        before: DimLike = 0
        for s in sizes[:index]:
            assert isinstance(s, (int, Dim))
            before = before + s
        return View(x, out.type.shape, strides, before * strides[axis])
    if node.op == "Gather" and node.inputs[1] is not None and node.inputs[1].const is not None:
        axis, at = int(str(node.attrs["axis"])) % x.type.rank, node.inputs[1].const
        size = x.type.shape[axis]
        if at.size != 1 or at.ndim > 1 or isinstance(size, Dim):
            return None
        chosen = int(at.reshape(-1)[0]) % size
        kept = (strides[axis],) * at.ndim
        return View(x, out.type.shape, (*strides[:axis], *kept, *strides[axis + 1 :]), chosen * strides[axis])
    if node.op == "Slice":
        starts, axes, steps = (node.attrs.get(k, ()) for k in ("starts", "axes", "steps"))
        assert isinstance(starts, tuple) and isinstance(axes, tuple) and isinstance(steps, tuple)
        if any(s != 1 for s in steps) or any(not isinstance(s, int) or s < 0 for s in starts):
            return None
        offset: DimLike = 0
        for start, a in zip(starts, axes or tuple(range(x.type.rank)), strict=True):
            offset = offset + int(str(start)) * strides[int(str(a)) % x.type.rank]
        return View(x, out.type.shape, strides, offset)
    return None


def _composed(view: View, inner: View) -> tuple[tuple[DimLike, ...], DimLike] | None:
    """Strides and offset of `view`, which is of a row-major tensor, when that tensor is itself the view `inner`.

    A view's stride of the middle tensor is split along the middle tensor's axes: it moves one whole axis, a multiple of
    it, or a run of axes whose strides follow on each other.
    """
    middle = row_major(inner.shape)

    def move(stride: DimLike, extent: DimLike) -> DimLike | None:
        """Elements of the inner source from one step of `stride` to the next, over `extent` steps."""
        if extent == 1:
            return 0
        for a in range(len(middle)):
            times = _quotient(stride, middle[a])
            if times is None or inner.shape[a] == 1:
                continue
            # the steps must stay in axis a, or go on into axes before it that it runs on into
            room, axis = inner.shape[a], a
            while _quotient(room, times * extent) is None:
                if axis == 0:
                    return None
                axis -= 1
                if inner.shape[axis] != 1:
                    if inner.strides[axis] != inner.strides[a] * room:
                        return None
                    room = room * inner.shape[axis]
            return inner.strides[a] * times
        return None

    strides = []
    for extent, stride in zip(view.shape, view.strides, strict=True):
        moved = move(stride, extent)
        if moved is None:
            return None
        strides.append(moved)
    rest, offset = view.offset, inner.offset
    for a in range(len(middle)):
        if isinstance(rest, int) and rest == 0:
            break
        if inner.shape[a] == 1:
            continue
        whole = _quotient(rest, middle[a])
        if whole is not None:
            offset, rest = offset + whole * inner.strides[a], 0
        elif isinstance(rest, int) and isinstance(middle[a], int):
            offset, rest = offset + rest // middle[a] * inner.strides[a], rest % middle[a]
        else:
            return None
    return tuple(strides), offset


def _quotient(a: DimLike, b: DimLike) -> DimLike | None:
    """a / b where that is whole, else None."""
    if isinstance(b, int) and b == 0:
        return None
    q = a // b
    return q if not isinstance(q, float) and q * b == a else None


def rows_of(graph: Graph, v: Value, order: tuple[int, int, int, int] | None, sizes: tuple[DimLike, ...]) -> Rows | None:
    """How to read `v` as the operand (b, h, s, d) of these sizes; None if only a Transpose could give it.

    order: which axis of `v` is b, h, s and d; None where `v` is [B, S, D] of one head.
    """
    found: Rows | None = None
    same: list[tuple[float, tuple[str, ...]]] = []  # names of what holds every element of `v`, and the factor from it
    for view in views(v):
        if view.source.type.count == v.type.count:
            same.append((view.factor, view.source.sources))
        if order is None:
            strides: tuple[DimLike, ...] = (view.strides[0], 0, *view.strides[1:])
        else:
            strides = tuple(0 if i < 0 else view.strides[i] for i in order)
        rows = _fit(graph, view, strides, sizes, found)
        found = rows() if rows is not None else found
    if found is not None:
        found.value.known_as([name for factor, names in same if factor == found.factor for name in names])
    return found


def _fit(graph: Graph, view: View, strides: tuple[DimLike, ...], sizes: tuple[DimLike, ...], found: Rows | None):  # type: ignore[no-untyped-def]
    """A function that makes the operand from this view, or None where the kernel cannot read it."""
    b, h, s, d = sizes
    width = h * d
    whole = view.source.type.count

    def is_(axis: int, stride: DimLike) -> bool:
        return sizes[axis] == 1 or strides[axis] == stride

    ld: DimLike | None = strides[2] if s != 1 else _quotient(whole, b)
    if ld is not None and isinstance(ld, int) and isinstance(width, int) and isinstance(view.offset, int):
        fits = is_(3, 1) and is_(1, d) and is_(0, s * ld) and whole == b * s * ld
        if fits and 0 <= view.offset and view.offset + width <= ld:
            return lambda: Rows(_cut(graph, view.source, (b, s, ld), int(str(view.offset)), width), "r", view.factor)
    dense = (
        is_(3, 1) and is_(2, d) and is_(1, s * d) and is_(0, s * width) and view.offset == 0
    )
    if dense and whole == b * s * width and (found is None or found.letter == "h"):
        return lambda: Rows(reshaped(graph, view.source, (b, h, s, d)), "h", view.factor)
    return None


_ORIGIN = ("rule:attention-view",)


def reshaped(graph: Graph, v: Value, shape: Sequence[DimLike]) -> Value:
    if v.type.shape == tuple(shape):
        return v
    return make(graph, "Reshape", [v], {"shape": tuple(shape)}, origin=_ORIGIN).output


def _cut(graph: Graph, source: Value, shape: tuple[DimLike, DimLike, int], offset: int, width: int) -> Value:
    """Columns offset .. offset + width of the source's rows, as a piece of a Split: a view."""
    rows = reshaped(graph, source, shape)
    ld = shape[2]
    if ld == width:
        return rows
    if ld % width == 0 and offset % width == 0:
        pieces = make(graph, "Split", [rows], {"axis": 2, "sizes": (width,) * (ld // width)}, origin=_ORIGIN).outputs
        return pieces[offset // width]
    sizes = [n for n in (offset, width, ld - offset - width) if n]
    return make(graph, "Split", [rows], {"axis": 2, "sizes": tuple(sizes)}, origin=_ORIGIN).outputs[int(offset > 0)]
