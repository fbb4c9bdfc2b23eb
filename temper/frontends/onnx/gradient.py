"""ai.onnx.preview.training's Gradient: reverse-mode differentiation of the nodes imported so far.

The derivative of a tensor y with respect to x is that of the sum of y's elements, as ONNX's tests have it, made of
ordinary nodes, so that a Gradient of a Gradient is differentiated like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Refusal
from temper.frontends.onnx.held import Held, Site
from temper.frontends.onnx.table_values import filled
from temper.ir.graph import Node, Value

DOMAIN = "ai.onnx.preview.training"

#: Derivatives with respect to a node's inputs, given that with respect to its output; None where there is none.
Rule = Callable[[Context, Node, Value], Sequence[Value | None]]


def named_in(node: object) -> set[str]:
    """The values that a Gradient node names in its attributes."""
    names: set[str] = set()
    for a in getattr(node, "attribute", ()):
        names |= {s.decode() for s in (*a.strings, *([a.s] if a.name == "y" else []))}
    return names


def gradient(site: Site) -> list[Held]:
    """One derivative for each of `xs`, at the values that the node's inputs give for `xs` and `zs`."""
    c = site.c
    xs, zs = tuple(site.attrs["xs"]), tuple(site.attrs.get("zs", ()))
    named = [_find(site, name) for name in (*xs, *zs)]
    y = _find(site, site.attrs["y"])
    if len(site.inputs) != len(named):
        raise ModelError(f"{c}: {len(site.inputs)} inputs for the {len(named)} tensors in xs and zs")
    given = {v.id: site.value(i) for i, v in enumerate(named)}
    for v in named:
        if given[v.id].type != v.type:
            raise ModelError(f"{c}: {given[v.id].type} is given for '{v.name}', which is {v.type}")
    nodes = _between(y, set(given))
    if any(given[v.id] is not v for v in named):
        nodes, y = _replayed(c, nodes, y, given)
    else:
        given = {v.id: v for v in named}
    found = _derivatives(c, nodes, y)
    return [found.get(given[v.id].id) or _constant(c, 0, given[v.id]) for v in named[: len(xs)]]


def _find(site: Site, name: str) -> Value:
    held = site.body.scope.find(name)
    if not isinstance(held, Value):
        raise Refusal(f"'{name}' is not a tensor, or follows from a node that is not supported")
    return held


def _between(y: Value, ends: set[int]) -> list[Node]:
    """The nodes from which y follows, up to the values `ends`; producers first."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Value | None, bool]] = [(y, False)]
    while stack:
        v, done = stack.pop()
        if v is None or v.producer is None or v.id in ends:
            continue
        if done:
            order.append(v.producer)
        elif v.producer.id not in seen:
            seen.add(v.producer.id)
            stack.append((v, True))
            stack += [(u, False) for u in v.producer.inputs]
    return order


def _replayed(c: Context, nodes: Sequence[Node], y: Value, given: Mapping[int, Value]) -> tuple[list[Node], Value]:
    """The nodes again, on other values."""
    now = dict(given)
    out: list[Node] = []
    for n in nodes:
        made = c.emit_many(n.op, [None if v is None else now.get(v.id, v) for v in n.inputs], n.attrs)
        now |= {old.id: new for old, new in zip(n.outputs, made, strict=True)}
        if made[0].producer is not None:
            out.append(made[0].producer)
    return out, now.get(y.id, y)


def _derivatives(c: Context, nodes: Sequence[Node], y: Value) -> dict[int, Value]:
    """By value: the derivative of y with respect to it."""
    found = {y.id: _constant(c, 1, y)}
    for n in reversed(nodes):
        if not any(o.id in found for o in n.outputs):
            continue
        if n.op not in _RULES or len(n.outputs) > 1:
            raise Refusal(f"the derivative of {n.op} is not known here")
        for v, d in zip(n.inputs, _RULES[n.op](c, n, found[n.output.id]), strict=True):
            if v is None or d is None:
                continue
            d = _as(c, d, v)
            found[v.id] = c.emit("Add", found[v.id], d) if v.id in found else d
    return found


def _constant(c: Context, number: int, like: Value) -> Value:
    if not like.type.dtype.startswith("float"):
        raise Refusal(f"'{like.name}' is {like.type.dtype}: derivatives are of float16, float32 and float64")
    return filled(c, np.array(number, like.type.dtype), like.type.dtype, like.type.shape)


def _as(c: Context, d: Value, v: Value) -> Value:
    """The derivative summed over the axes along which `v` was broadcast."""
    if d.type.shape == v.type.shape:
        return d
    lead = d.type.rank - v.type.rank
    axes = [a for a in range(d.type.rank) if a < lead or (v.type.shape[a - lead] == 1 and d.type.shape[a] != 1)]
    return c.reshape(c.emit("ReduceSum", d, axes=tuple(axes), keepdims=1), v.type.shape)


def _in(n: Node, i: int) -> Value:
    v = n.inputs[i]
    assert v is not None
    return v


def _mul(c: Context, n: Node, d: Value) -> Sequence[Value]:
    return c.emit("Mul", d, _in(n, 1)), c.emit("Mul", d, _in(n, 0))


def _div(c: Context, n: Node, d: Value) -> Sequence[Value]:
    """d(a / b) = da / b - db (a / b) / b."""
    first = c.emit("Div", d, _in(n, 1))
    return first, c.emit("Neg", c.emit("Mul", first, n.output))


def _pow(c: Context, n: Node, d: Value) -> Sequence[Value | None]:
    """d(a ^ b) = b a ^ (b - 1) da + a ^ b log(a) db."""
    a, b = _in(n, 0), _in(n, 1)
    if a.type.dtype != b.type.dtype:
        raise Refusal(f"the derivative of {a.type.dtype} to a power of {b.type.dtype}")
    less = c.emit("Pow", a, c.emit("Sub", b, c.like(1, b)))
    first = c.emit("Mul", d, c.emit("Mul", b, less))
    if b.const is not None:
        return first, None
    return first, c.emit("Mul", d, c.emit("Mul", n.output, c.emit("Log", a)))


def _matmul(c: Context, n: Node, d: Value) -> Sequence[Value]:
    """dA = dY B^T, dB = A^T dY."""
    a, b = _in(n, 0), _in(n, 1)
    if min(a.type.rank, b.type.rank) < 2 or n.attrs.get("transA") or n.attrs.get("transB"):
        raise Refusal("the derivative of a product with a vector or of transposed matrices is not known here")
    return c.emit("MatMul", d, _flipped(c, b)), c.emit("MatMul", _flipped(c, a), d)


def _flipped(c: Context, v: Value) -> Value:
    r = v.type.rank
    return c.emit("Transpose", v, perm=(*range(r - 2), r - 1, r - 2))


def _total(c: Context, n: Node, d: Value) -> Sequence[Value]:
    """Of sums and means: the derivative spread over what was summed."""
    x, axes = _in(n, 0), n.attrs["axes"]
    assert isinstance(axes, tuple)
    kept = {int(str(a)) % x.type.rank for a in axes}
    d = c.reshape(d, [1 if a in kept else s for a, s in enumerate(x.type.shape)])
    if n.op == "ReduceMean":
        count = x.type.count // max(int(str(n.output.type.count)), 1) if n.output.type.static else None
        if not isinstance(count, int):
            raise Refusal(f"the derivative of a mean over {x.type}, whose size is not known")
        d = c.emit("Div", d, c.like(max(count, 1), d))
    return [c.emit("Expand", d, shape=x.type.shape)]


def _softmax(c: Context, n: Node, d: Value) -> Sequence[Value]:
    """dx = y (dy - sum(dy y))."""
    axis = int(str(n.attrs["axis"]))
    total = c.emit("ReduceSum", c.emit("Mul", d, n.output), axes=(axis,), keepdims=1)
    return [c.emit("Mul", n.output, c.emit("Sub", d, total))]


def _cast(c: Context, n: Node, d: Value) -> Sequence[Value | None]:
    dtype = _in(n, 0).type.dtype
    return [c.emit("Cast", d, to=dtype) if dtype.startswith("float") else None]


def _transpose(c: Context, n: Node, d: Value) -> Sequence[Value]:
    return [c.emit("Transpose", d, perm=tuple(int(i) for i in np.argsort([int(str(p)) for p in n.attrs["perm"]])))]  # type: ignore[union-attr]


def _sigmoid(c: Context, n: Node, d: Value) -> Sequence[Value]:
    y = n.output
    return [c.emit("Mul", d, c.emit("Mul", y, c.emit("Sub", c.like(1, y), y)))]


def _tanh(c: Context, n: Node, d: Value) -> Sequence[Value]:
    y = n.output
    return [c.emit("Mul", d, c.emit("Sub", c.like(1, y), c.emit("Mul", y, y)))]


def _relu(c: Context, n: Node, d: Value) -> Sequence[Value]:
    zero = c.like(0, d)
    return [c.emit("Where", c.emit("Greater", _in(n, 0), zero), d, zero)]


_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Identity": lambda c, n, d: [d],
        "Cast": _cast,
        "Add": lambda c, n, d: [d, d],
        "Sub": lambda c, n, d: [d, c.emit("Neg", d)],
        "Mul": _mul,
        "Div": _div,
        "Pow": _pow,
        "Neg": lambda c, n, d: [c.emit("Neg", d)],
        "Abs": lambda c, n, d: [c.emit("Mul", d, c.emit("Sign", _in(n, 0)))],
        "Exp": lambda c, n, d: [c.emit("Mul", d, n.output)],
        "Log": lambda c, n, d: [c.emit("Div", d, _in(n, 0))],
        "Sqrt": lambda c, n, d: [c.emit("Div", d, c.emit("Add", n.output, n.output))],
        "Sin": lambda c, n, d: [c.emit("Mul", d, c.emit("Cos", _in(n, 0)))],
        "Cos": lambda c, n, d: [c.emit("Neg", c.emit("Mul", d, c.emit("Sin", _in(n, 0))))],
        "Sigmoid": _sigmoid,
        "Tanh": _tanh,
        "Relu": _relu,
        "Softmax": _softmax,
        "MatMul": _matmul,
        "ReduceSum": _total,
        "ReduceMean": _total,
        "Reshape": lambda c, n, d: [c.reshape(d, _in(n, 0).type.shape)],
        "Expand": lambda c, n, d: [d],
        "Transpose": _transpose,
    }
)
