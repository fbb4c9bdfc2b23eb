"""Products of flattened rows return to the shape around them; other Reshapes stay."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim, DimLike
from temper.ir.graph import Value
from temper.passes.cleanup import CLEANUP
from temper.passes.rows import ROWS
from tests.passes.nets import Net, applied, check, ops

PASSES = (ROWS, CLEANUP)
S = Dim.symbol("S")


def dense(n: Net, x: Value, k: int, width: int) -> Value:
    """x [R, K] @ w + b."""
    return n("Add", n("MatMul", x, n.weights(k, width)), n.weights(1, width))


@pytest.mark.parametrize(("b", "s"), [(2, 5), (1, S)])
def test_two_layers_lose_their_reshapes(b: DimLike, s: DimLike) -> None:
    n = Net()
    x = n.input(b, s, 6)
    h = n("Reshape", n("Gelu", dense(n, n("Reshape", x, shape=(b * s, 6)), 6, 8)), shape=(b, s, 8))
    y = n("Reshape", dense(n, n("Reshape", h, shape=(b * s, 8)), 8, 6), shape=(b, s, 6))
    after, log = check(n.done(n("Add", y, x)), PASSES, {"S": 5})
    assert ops(after) == ["MatMul", "Add", "Gelu", "MatMul", "Add", "Add"] and "rows" in applied(log)


def test_other_activations_and_constants_first() -> None:
    n = Net()
    x = n.input(2, 5, 6)
    h = n("MatMul", n("Reshape", x, shape=(10, 6)), n.weights(6, 8))
    h = n("Sub", n.const(np.float32(1.0)), n("Tanh", n("Mul", n.weights(8), h)))
    after, _ = check(n.done(n("Reshape", h, shape=(2, 5, 8))), PASSES)
    assert "Reshape" not in ops(after)


def test_rows_that_others_read_are_reshaped_once() -> None:
    n = Net()
    x = n.input(2, 5, 6)
    h = n("MatMul", n("Reshape", x, shape=(10, 6)), n.weights(6, 8))
    after, _ = check(n.done(n("Reshape", n("Relu", h), shape=(2, 5, 8)), n("Neg", h)), PASSES)
    assert ops(after).count("MatMul") == 1


def test_columns_that_change_stay() -> None:
    n = Net()
    x = n.input(2, 5, 6)
    y = n("MatMul", n("Reshape", x, shape=(2, 30)), n.weights(30, 4))
    after, log = check(n.done(n("Relu", y)), PASSES)
    assert ops(after)[0] == "Reshape" and "rows" not in applied(log)


def test_full_operands_stay_beside_rows() -> None:
    n = Net()
    x, r = n.input(2, 5, 6), n.input(10, 8, name="r")
    y = n("Add", n("MatMul", n("Reshape", x, shape=(10, 6)), n.weights(6, 8)), r)
    after, _ = check(n.done(n("Relu", y)), PASSES)
    assert ops(after).count("Reshape") == 1


def test_several_reshapes_before_a_product() -> None:
    """What attention returns is split into heads again before its rows are flattened."""
    n = Net()
    x = n.input(2, 5, 6)
    h = n("Reshape", n("Reshape", x, shape=(2, 5, 3, 2)), shape=(10, 6))
    after, _ = check(n.done(n("Reshape", dense(n, h, 6, 8), shape=(2, 5, 8))), PASSES)
    assert ops(after) == ["MatMul", "Add"]
