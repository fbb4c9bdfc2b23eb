"""Programs before which a maximum may be taken, and the chains that follow."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.graph import Value
from temper.passes.chains import chains
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.passes.region import Region
from temper.passes.rising import falls
from tests.passes.nets import Net


def scaled(net: Net, x: Value, factor: float) -> Value:
    return net("Mul", x, net.const(np.full((1, 4, 1, 1), factor, np.float32)))


def region(*steps: str, factor: float = 0.5) -> Region:
    """A convolution and these steps behind it."""
    net = Net(3)
    x = y = net.conv(net.input(1, 3, 8, 8), 4, 3)
    for op in steps:
        y = (
            scaled(net, y, factor) if op == "Mul"
            else net("Sub", net.const(np.float32([1.0])), y) if op == "1 -"
            else net("Add", y, x) if op == "Add"
            else net(op, y)
        )  # fmt: skip
    net.graph.set_outputs([y], ["y"])
    (found,) = [r for r in partition(net.graph, Log()) if r.op == "Conv"]
    return found


@pytest.mark.parametrize(
    ("steps", "factor", "reason"),
    [
        ((), 1.0, None),
        (("Mul", "Relu"), 0.5, None),
        (("Mul",), -0.5, "Mul is not by positive constants"),
        (("Mul",), float("nan"), "Mul is not by positive constants"),
        (("Silu",), 1.0, "Silu may fall"),
        (("1 -",), 1.0, "Sub may fall"),
        (("Relu", "Add"), 1.0, "Add reads more than the step before it and constants of a channel"),
    ],
)
def test_what_falls_has_a_reason(steps: tuple[str, ...], factor: float, reason: str | None) -> None:
    assert falls(region(*steps, factor=factor)) == reason


@pytest.mark.parametrize(("factor", "count"), [(2.0, 1), (-2.0, 0)])
def test_a_maximum_is_chained_to_what_does_not_fall(factor: float, count: int) -> None:
    net, log = Net(4), Log()
    x = net("Relu", scaled(net, net.conv(net.input(1, 3, 8, 8), 4, 3), factor))
    net.graph.set_outputs([net.pool(x, "MaxPool", 3, 2, 1)], ["y"])
    found = [c for c, _ in chains(net.graph, partition(net.graph, Log()), log)]
    assert [tuple(link.op for link in c.links) for c in found] == [("Conv", "MaxPool")] * count
    assert len(log.declined) == 1 - count
