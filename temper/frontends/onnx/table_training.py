"""Random ops, and the optimizer steps of the domain ai.onnx.preview.training, which are arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Row
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.graph import Value

_DOMAIN = "ai.onnx.preview.training"


def _seed(c: Context) -> dict[str, Any]:
    return {} if c.attr("seed") is None else {"seed": c.attr("seed")}


def _drawn(op: str, like: bool, *names: str) -> Callable[[Context], Value]:
    def emit(c: Context) -> Value:
        code = c.attr("dtype")
        given = c.input(0).type.dtype if like else "float32"
        dtype = given if code is None else dtype_of(code, f"{c}: attribute 'dtype'")
        shape = c.input(0).type.shape if like else tuple(c.attr("shape"))
        return c.emit(op, **c.take(*names), **_seed(c), shape=shape, to=dtype)

    return emit


def _bernoulli(c: Context) -> Value:
    """1 with the probability that the operand states. (The function that ONNX defines it by has it the wrong way
    round: it compares with Greater.)"""
    p, code = c.input(0), c.attr("dtype")
    dtype = p.type.dtype if code is None else dtype_of(code, f"{c}: attribute 'dtype'")
    drawn = c.emit("RandomUniform", shape=p.type.shape, to=p.type.dtype, **_seed(c))
    return c.emit("Cast", c.emit("Less", drawn, p), to=dtype)


def _multinomial(c: Context) -> Value:
    dtype = dtype_of(c.attr("dtype", 6), f"{c}: attribute 'dtype'")
    return c.emit("Multinomial", c.input(0), **c.take("sample_size"), **_seed(c), to=dtype)


def _tensors(c: Context, kinds: int) -> list[tuple[Value, ...]]:
    """Operands after the learning rate and the step number: `kinds` runs, tensor by tensor."""
    values = [c.input(i) for i in range(2, len(c.inputs))]
    if not values or len(values) % kinds:
        raise ModelError(f"{c}: {len(values)} tensors cannot be {kinds} for every parameter")
    count = len(values) // kinds
    return [tuple(values[k * count + i] for k in range(kinds)) for i in range(count)]


def _flat(c: Context, results: Sequence[tuple[Value, ...]]) -> list[Value]:
    return [r[k] for k in range(len(results[0])) for r in results]


class _Arithmetic:
    """Shorthand for elementwise nodes of one optimizer step; numbers become scalars of the data's dtype."""

    def __init__(self, c: Context, like: Value) -> None:
        self._c, self._like = c, like

    def __call__(self, op: str, *operands: Value | float) -> Value:
        values = [v if isinstance(v, Value) else self._c.like(v, self._like) for v in operands]
        return self._c.emit(op, *values)

    def scalar(self, i: int) -> Value:
        """Operand i, of one element, as a scalar of the data's dtype."""
        v = self._c.reshape(self._c.input(i), ())
        dtype = self._like.type.dtype
        return v if v.type.dtype == dtype else self._c.emit("Cast", v, to=dtype)


def _momentum(c: Context) -> list[Value]:
    """g' = norm x + g; v' = alpha v + beta g' (beta 1 at step 0); x' = x - R v', or x - R (g' + alpha v')."""
    norm, alpha, beta = (c.attr(n) for n in ("norm_coefficient", "alpha", "beta"))
    mode = c.attr("mode")
    if mode not in ("standard", "nesterov"):
        raise ModelError(f"{c}: mode must be standard or nesterov, not {mode!r}")
    out = []
    for x, g, v in _tensors(c, 3):
        do = _Arithmetic(c, x)
        rate, step = do.scalar(0), do.scalar(1)
        full = do("Add", do("Mul", x, norm), g)
        scaled = do("Where", do("Greater", step, 0.0), do("Mul", full, beta), full)
        new = do("Add", do("Mul", v, alpha), scaled)
        move = new if mode == "standard" else do("Add", full, do("Mul", new, alpha))
        out.append((do("Sub", x, do("Mul", rate, move)), new))
    return _flat(c, out)


def _adagrad(c: Context) -> list[Value]:
    """r = R / (1 + T decay); g' = norm x + g; h' = h + g'^2; x' = x - r g' / (sqrt(h') + epsilon)."""
    norm, decay, epsilon = (c.attr(n) for n in ("norm_coefficient", "decay_factor", "epsilon"))
    out = []
    for x, g, h in _tensors(c, 3):
        do = _Arithmetic(c, x)
        rate = do("Div", do.scalar(0), do("Add", do("Mul", do.scalar(1), decay), 1.0))
        full = do("Add", do("Mul", x, norm), g)
        new = do("Add", h, do("Mul", full, full))
        out.append((do("Sub", x, do("Div", do("Mul", rate, full), do("Add", do("Sqrt", new), epsilon))), new))
    return _flat(c, out)


def _adam(c: Context) -> list[Value]:
    """g' = norm x + g; v' = alpha v + (1 - alpha) g'; h' = beta h + (1 - beta) g'^2;
    r = R sqrt(1 - beta^T) / (1 - alpha^T), R at step 0; x' = (1 - norm_post) (x - r v' / (sqrt(h') + epsilon))."""
    norm, post, epsilon = (c.attr(n) for n in ("norm_coefficient", "norm_coefficient_post", "epsilon"))
    alpha, beta = c.attr("alpha"), c.attr("beta")
    out = []
    for x, g, v, h in _tensors(c, 4):
        do = _Arithmetic(c, x)
        rate, step = do.scalar(0), do.scalar(1)
        full = do("Add", do("Mul", x, norm), g)
        first = do("Add", do("Mul", v, alpha), do("Mul", full, 1 - alpha))
        second = do("Add", do("Mul", h, beta), do("Mul", do("Mul", full, full), 1 - beta))
        right = do("Sqrt", do("Sub", 1.0, do("Pow", c.like(beta, x), step)))
        corrected = do("Div", do("Mul", rate, right), do("Sub", 1.0, do("Pow", c.like(alpha, x), step)))
        moving = do("Where", do("Greater", step, 0.0), corrected, rate)
        moved = do("Sub", x, do("Div", do("Mul", moving, first), do("Add", do("Sqrt", second), epsilon)))
        out.append((do("Mul", moved, 1 - post), first, second))
    return _flat(c, out)


ROWS: tuple[Row, ...] = (
    Row("RandomUniform", _drawn("RandomUniform", False, "low", "high")),
    Row("RandomUniformLike", _drawn("RandomUniform", True, "low", "high")),
    Row("RandomNormal", _drawn("RandomNormal", False, "mean", "scale")),
    Row("RandomNormalLike", _drawn("RandomNormal", True, "mean", "scale")),
    Row("Multinomial", _multinomial),
    Row("Bernoulli", _bernoulli),
    Row("Momentum", _momentum, domain=_DOMAIN),
    Row("Adagrad", _adagrad, domain=_DOMAIN),
    Row("Adam", _adam, domain=_DOMAIN),
)
