"""Steps on inputs of the graph come after its Transpose, where they are its kernel's program."""

from __future__ import annotations

import numpy as np

from temper.ir.evaluate import evaluate
from temper.ir.types import TensorType
from temper.passes.manager import Log, run_passes
from temper.passes.partition import partition
from temper.passes.transpose_inputs import TRANSPOSE_INPUTS
from tests.passes.nets import Net, feeds

_TO_LAST = (0, 2, 3, 1)


def test_codes_are_made_as_pixels_are_put_in_order() -> None:
    net = Net()
    x = net.graph.add_input("x", TensorType("float32", (2, 3, 5, 7)))
    scaled = net("Div", x, net.const(np.full((1, 1, 1, 1), 0.02, np.float32)))
    codes = net("Saturate", scaled, to="int8", zero_point=-128)
    net.graph.set_outputs([net("Transpose", codes, perm=_TO_LAST)])
    data = feeds(net.graph)
    (want,) = evaluate(net.graph, data)
    log = run_passes(net.graph, (TRANSPOSE_INPUTS,))
    (got,) = evaluate(net.graph, data)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes() and log.applied
    (region,) = partition(net.graph, Log(), prologues=True)
    assert [n.op for n in region.nodes] == ["Transpose", "Div", "Saturate"]


def test_what_others_read_or_varies_stays() -> None:
    net = Net()
    x = net.graph.add_input("x", TensorType("float32", (2, 3, 5, 7)))
    read = net("Abs", x)
    column = net("Mul", x, net.const(np.ones((1, 3, 1, 1), np.float32)))
    both = net("Add", x, net.graph.add_input("y", TensorType("float32", (2, 3, 5, 7))))
    made = [net("Transpose", v, perm=_TO_LAST) for v in (read, column, both)]
    net.graph.set_outputs([*made, net("Neg", read)])
    assert not run_passes(net.graph, (TRANSPOSE_INPUTS,)).applied
