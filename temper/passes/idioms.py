"""Recognises activations and blocks that exporters write out in primitive ops, and replaces each by one op."""

from __future__ import annotations

from collections.abc import Sequence

from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.passes.rewrite import Any_, Const, Match, Pattern, Rule, op, rules_pass

_X = Any_("x")


def _unary(name: str, **attrs: float | int | str):  # type: ignore[no-untyped-def]
    def rewrite(graph: Graph, m: Match) -> Value:
        return make(graph, name, [m["x"]], attrs).output

    rewrite.__doc__ = f"The matched expression is {name}(x)."
    return rewrite


def _float(graph: Graph, m: Match) -> str | None:
    return (
        None if m["x"].type.dtype in ("float32", "float16", "bfloat16", "float64") else "its data is not floating point"
    )


def _relu6_of_x_plus_3() -> list[Pattern]:
    """clip(x + 3, 0, 6) as exporters write it."""
    return [
        op("Clip", op("Add", _X, Const(near=3.0)), min=0.0, max=6.0),
        op("Min", op("Relu", op("Add", _X, Const(near=3.0))), Const(near=6.0)),
    ]


def _rules() -> list[Rule]:
    rules = [
        Rule("silu", op("Mul", _X, op("Sigmoid", _X)), _unary("Silu"), _float),
        Rule("mish", op("Mul", _X, op("Tanh", op("Softplus", _X))), _unary("Mish"), _float),
        Rule("relu6", op("Min", op("Relu", _X), Const(near=6.0)), _unary("Clip", min=0.0, max=6.0), _float),
        Rule("softsign", op("Div", _X, op("Add", op("Abs", _X), Const(near=1.0))), _unary("Softsign"), _float),
    ]
    sixth = 1.0 / 6.0
    for clip in _relu6_of_x_plus_3():
        for gate in (op("Div", clip, Const(near=6.0)), op("Mul", clip, Const(near=sixth))):
            rules.append(Rule("hard-swish", op("Mul", _X, gate), _unary("HardSwish"), _float))
            rules.append(Rule("hard-sigmoid", gate, _unary("HardSigmoid", alpha=sixth, beta=0.5), _float))
        product = op("Mul", _X, clip)
        rules += [
            Rule("hard-swish", op("Div", product, Const(near=6.0)), _unary("HardSwish"), _float),
            Rule("hard-swish", op("Mul", product, Const(near=sixth)), _unary("HardSwish"), _float),
            Rule("hard-swish", op("Mul", op("Mul", _X, Const(near=sixth)), clip), _unary("HardSwish"), _float),
        ]
    rules.append(
        Rule("hard-swish", op("Mul", _X, op("HardSigmoid", _X, alpha=sixth, beta=0.5)), _unary("HardSwish"), _float)
    )
    inner = op("Erf", op("Div", _X, Const(near=2**0.5)))
    inner2 = op("Erf", op("Mul", _X, Const(near=0.5**0.5)))
    for erf in (inner, inner2):
        one_plus = op("Add", erf, Const(near=1.0))
        rules += [
            Rule("gelu", op("Mul", op("Mul", _X, one_plus), Const(near=0.5)), _unary("Gelu"), _float),
            Rule("gelu", op("Mul", op("Mul", _X, Const(near=0.5)), one_plus), _unary("Gelu"), _float),
            Rule("gelu", op("Mul", _X, op("Mul", one_plus, Const(near=0.5))), _unary("Gelu"), _float),
        ]
    return rules


IDIOM_RULES: Sequence[Rule] = tuple(_rules())
IDIOMS = rules_pass("idioms", IDIOM_RULES)
