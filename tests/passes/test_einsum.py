"""Einsum becomes products and sums of the same numbers, or stays with a reason."""

from __future__ import annotations

import pytest

from temper.ir.dims import Dim
from temper.passes.einsum import EINSUM
from tests.ops.cases import Case, cases_of
from tests.passes.nets import Net, check, ops

N, S = Dim.symbol("N"), Dim.symbol("S")
_FLOATS = [c for c in cases_of("Einsum") if str(c.types()[0]).startswith("float32")]


@pytest.mark.parametrize("case", _FLOATS, ids=lambda c: c.name)
def test_cases(case: Case) -> None:
    net = Net()
    inputs = [net.input(*a.shape, name=f"x{i}") for i, a in enumerate(case.arrays()) if a is not None]
    after, log = check(net.done(net("Einsum", *inputs, **case.attrs)), (EINSUM,))
    assert ("Einsum" in ops(after)) == bool(log.declined)
    assert all("two axes" in reason for _, _, reason in log.declined)


@pytest.mark.parametrize(
    "equation, shapes, expected",
    [
        ("bhid,bhjd->bhij", ((N, 2, S, 4), (N, 2, S, 4)), ["Transpose", "MatMul"]),
        ("bij,bjk->bik", ((N, S, 3), (N, 3, 5)), ["MatMul"]),
        ("nchw,ch->nhw", ((N, 3, 4, 5), (3, 4)), None),
        ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5)), ["MatMul", "MatMul"]),
        ("ab,cd->dbca", ((2, 3), (4, 5)), None),
        ("abc,bd->", ((2, 3, 4), (3, 5)), None),
        ("i...j,...->ij", ((2, 3, 4, 5), (3, 1)), None),
        ("ab,b->ab", ((N, 3), (3,)), None),
        ("i,i->", ((7,), (7,)), None),
    ],
)
def test_forms(equation: str, shapes: tuple[tuple[int | Dim, ...], ...], expected: list[str] | None) -> None:
    net = Net()
    inputs = [net.input(*s, name=f"x{i}") for i, s in enumerate(shapes)]
    after, _ = check(net.done(net("Einsum", *inputs, equation=equation)), (EINSUM,), {"N": 2, "S": 3})
    assert "Einsum" not in ops(after)
    assert expected is None or ops(after) == expected


def test_integers_stay() -> None:
    net = Net()
    y = net("Einsum", net.input(2, 3, dtype="int64"), net.input(3, 2, dtype="int64", name="y"), equation="ij,jk->ki")
    after, log = check(net.done(y), (EINSUM,))
    assert ops(after) == ["Einsum"] and "int64" in log.declined[0][2]
