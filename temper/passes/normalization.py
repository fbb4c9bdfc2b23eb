"""Recognises layer and RMS normalisation, and GELU by tanh, written in primitive ops.

The core of a normalisation becomes an op with a scale of ones; a constant factor and shift after it then join that op.
So every spelling of the two is one rule for the core (division, product with a reciprocal or with a power) and one each
for what follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.rewrite import Any_, Const, Match, Op, Pattern, Rule, only_user, op, rules_pass

_X, _C = Any_("x"), Const("c")


def _node(v: Value) -> Node:
    assert v.producer is not None
    return v.producer


def _scalar(v: Value) -> float | None:
    """The number a constant repeats; None if it has several or none."""
    if v.const is None or v.const.size == 0 or v.const.dtype.kind != "f":
        return None
    first = v.const.reshape(-1)[0]
    return float(first) if bool((v.const == first).all()) else None


def _trailing_axes(node: Node) -> tuple[int, str | None]:
    """The first of the axes a ReduceMean averages, which must be the last ones and be kept."""
    x, axes = node.inputs[0], node.attrs["axes"]
    assert x is not None and isinstance(axes, tuple)
    rank = x.type.rank
    found = sorted(int(str(a)) % rank for a in axes)
    if not node.attrs["keepdims"] or not found or found != list(range(found[0], rank)):
        return 0, f"{node!r} does not average the last axes and keep them"
    return found[0], None


# ---- the core ----


def _square(x: Pattern) -> list[Pattern]:
    return [op("Pow", x, Const(near=2.0)), op("Mul", x, x)]


def _over_root(x: Pattern, variance: Pattern) -> list[Pattern]:
    """x / sqrt(variance + eps)."""
    shifted = op("Add", variance, Const("eps"))
    root = op("Sqrt", shifted)
    one_over = [op("Reciprocal", root), op("Div", Const(near=1.0), root), op("Pow", shifted, Const(near=-0.5))]
    return [op("Div", x, root), op("Div", x, op("Pow", shifted, Const(near=0.5))), *(op("Mul", x, r) for r in one_over)]


def _normalizable(graph: Graph, m: Match) -> str | None:
    x, eps = m["x"], _scalar(m["eps"])
    if x.type.dtype != "float32":
        return f"its data is {x.type.dtype}"
    if eps is None:
        return "what is added to the variance is not one number"
    axes = []
    for name in ("mean", "var"):
        if name in m:
            axis, reason = _trailing_axes(_node(m[name]))
            if reason is not None:
                return reason
            axes.append(axis)
    if len(set(axes)) != 1:
        return "mean and variance are over different axes"
    if any(not isinstance(d, int) for d in x.type.shape[axes[0] :]):
        return "the number of normalised elements is not known"
    return None


def _normalized(graph: Graph, m: Match, name: str) -> Value:
    axis, _ = _trailing_axes(_node(m["var"]))
    eps = _scalar(m["eps"])
    assert eps is not None
    shape = tuple(int(str(d)) for d in m["x"].type.shape[axis:])
    ones = graph.add_constant(np.ones(shape, np.float32), f"{name}.scale")
    return make(graph, name, [m["x"], ones], {"axis": axis - m["x"].type.rank, "epsilon": eps}).output


def _layer_norm(graph: Graph, m: Match) -> Value:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) = layernorm(x)."""
    return _normalized(graph, m, "LayerNormalization")


def _rms_norm(graph: Graph, m: Match) -> Value:
    """x / sqrt(mean(x^2) + eps) = rmsnorm(x)."""
    return _normalized(graph, m, "RMSNormalization")


# ---- scale and bias ----


def _as_parameter(c: Value, scale: Value) -> np.ndarray | None:
    """A constant as an array over the normalised axes; None where it also varies elsewhere."""
    assert c.const is not None
    a, shape = c.const, tuple(int(str(d)) for d in scale.type.shape)
    while a.ndim > len(shape) and a.shape[0] == 1:
        a = a[0]
    if a.dtype != np.float32 or a.ndim > len(shape):
        return None
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        return None


def _joins(graph: Graph, m: Match) -> str | None:
    norm = _node(m["norm"])
    if any(v is not None and v.const is None for v in norm.inputs[1:]):
        return "its scale or bias is not a constant"
    scale = norm.inputs[1]
    assert scale is not None
    if _as_parameter(m["c"], scale) is None:
        return f"the constant {m['c'].type} is not one number a normalised element"
    return only_user(m["norm"], graph)


def _joined(graph: Graph, m: Match, scale: np.ndarray, bias: np.ndarray | None) -> Value:
    norm = _node(m["norm"])
    inputs = [norm.inputs[0], graph.add_constant(np.ascontiguousarray(scale), f"{norm.name}.scale")]
    if bias is not None:
        inputs.append(graph.add_constant(np.ascontiguousarray(bias), f"{norm.name}.bias"))
    return make(graph, norm.op, inputs, norm.attrs, name=norm.name, origin=norm.origin or (norm.name,)).output


def _parameters(m: Match) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Scale, bias and the constant beside the norm."""
    norm = _node(m["norm"])
    scale, bias = norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else None
    assert scale is not None and scale.const is not None
    c = _as_parameter(m["c"], scale)
    assert c is not None
    return scale.const, None if bias is None else bias.const, c


def _join_factor(graph: Graph, m: Match) -> Value:
    """norm(x, s, b) * c = norm(x, s * c, b * c)."""
    scale, bias, c = _parameters(m)
    return _joined(graph, m, scale * c, None if bias is None else bias * c)


def _join_shift(graph: Graph, m: Match) -> Value:
    """layernorm(x, s, b) + c = layernorm(x, s, b + c)."""
    scale, bias, c = _parameters(m)
    return _joined(graph, m, scale, c if bias is None else bias + c)


def _norms(name: str, optional: tuple[Pattern, ...] = ()) -> list[Op]:
    first = op(name, _X, Any_("scale"), bind="norm")
    return [first, *(op(name, _X, Any_("scale"), o, bind="norm") for o in optional)]


# ---- both after each other, multiplied out (TensorFlow) ----


def _multiplied_out() -> list[Pattern]:
    """x f + (b - mean f) with f = scale / sqrt(var + eps)."""
    mean = op("ReduceMean", _X, bind="mean")
    out: list[Pattern] = []
    for square in _square(op("Sub", _X, mean)):
        shifted = op("Add", op("ReduceMean", square, bind="var"), Const("eps"))
        for root in (op("Reciprocal", op("Sqrt", shifted)), op("Pow", shifted, Const(near=-0.5))):
            factor = op("Mul", root, Const("scale"), bind="factor")
            out.append(op("Add", op("Mul", _X, factor), op("Sub", Const("c"), op("Mul", mean, factor))))
    return out


def _can_gather_up(graph: Graph, m: Match) -> str | None:
    reason = _normalizable(graph, m)
    if reason is not None:
        return reason
    shape = m["x"].type.shape[_trailing_axes(_node(m["var"]))[0] :]
    for name in ("scale", "c"):
        const = m[name].const
        assert const is not None
        if tuple(d for d in const.shape if d != 1) != tuple(d for d in shape if d != 1) or const.dtype != np.float32:
            return f"the constant {m[name].type} is not one number a normalised element"
    return None


def _gather_up(graph: Graph, m: Match) -> Value:
    """x f + (b - mean(x) f), f = s / sqrt(var(x) + eps), = layernorm(x, s, b)."""
    axis, _ = _trailing_axes(_node(m["var"]))
    eps, scale, shift = _scalar(m["eps"]), m["scale"].const, m["c"].const
    assert eps is not None and scale is not None and shift is not None
    shape = tuple(int(str(d)) for d in m["x"].type.shape[axis:])
    inputs = [m["x"], *(graph.add_constant(a.reshape(shape), "layernorm.parameter") for a in (scale, shift))]
    return make(graph, "LayerNormalization", inputs, {"axis": axis - m["x"].type.rank, "epsilon": eps}).output


# ---- GELU ----


def _tanh_terms() -> list[Pattern]:
    """1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in its spellings."""
    cube = [op("Pow", _X, Const(near=3.0)), op("Mul", op("Mul", _X, _X), _X)]
    near, root = Const(near=0.044715), Const(near=(2 / np.pi) ** 0.5)
    sums: list[Pattern] = [op("Add", _X, op("Mul", near, c)) for c in cube]
    sums += [op("Add", _X, op("Mul", op("Mul", near, _X), op("Mul", _X, _X)))]
    sums += [op("Add", _X, op("Mul", op("Mul", near, op("Mul", _X, _X)), _X))]
    sums += [op("Add", _X, op("Mul", _X, op("Mul", _X, op("Mul", near, _X))))]
    arguments: list[Pattern] = [op("Mul", root, s) for s in sums]
    grown = [op("Add", Const(near=1.0), op("Mul", near, s)) for s in _square(_X)]
    grown += [op("Add", Const(near=1.0), op("Mul", op("Mul", near, _X), _X))]
    for g in grown:
        arguments += [op("Mul", op("Mul", root, _X), g), op("Mul", root, op("Mul", _X, g))]
    return [op("Add", Const(near=1.0), op("Tanh", a)) for a in arguments]


def _gelu_tanh(graph: Graph, m: Match) -> Value:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = gelu(x), the tanh form."""
    return make(graph, "Gelu", [m["x"]], {"approximate": "tanh"}).output


def _single(graph: Graph, m: Match) -> str | None:
    return None if m["x"].type.dtype == "float32" else f"its data is {m['x'].type.dtype}"


def _rules() -> list[Rule]:
    rules: list[Rule] = []
    centred = op("Sub", _X, op("ReduceMean", _X, bind="mean"))
    for square in _square(centred):
        for core in _over_root(centred, op("ReduceMean", square, bind="var")):
            rules.append(Rule("layer-norm", core, _layer_norm, _normalizable))
    for square in _square(_X):
        for core in _over_root(_X, op("ReduceMean", square, bind="var")):
            rules.append(Rule("rms-norm", core, _rms_norm, _normalizable))
    rules += [Rule("layer-norm", p, _gather_up, _can_gather_up) for p in _multiplied_out()]
    layers = _norms("LayerNormalization", (Any_("bias"),))
    for norm in (*layers, *_norms("RMSNormalization")):
        rules.append(Rule("norm-scale", op("Mul", norm, _C), _join_factor, _joins))
    rules += [Rule("norm-bias", op("Add", norm, _C), _join_shift, _joins) for norm in layers]
    half = Const(near=0.5)
    for t in _tanh_terms():
        inside, first, last = op("Mul", _X, op("Mul", half, t)), op("Mul", half, _X), op("Mul", _X, t)
        products = (inside, op("Mul", first, t), op("Mul", half, last))
        rules += [Rule("gelu-tanh", p, _gelu_tanh, _single) for p in products]
    return rules


NORMALIZATION_RULES: Sequence[Rule] = tuple(_rules())
NORMALIZATION = rules_pass("normalization", NORMALIZATION_RULES)
