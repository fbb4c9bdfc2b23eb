"""Every law the verifier states, broken once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.errors import VerificationError
from temper.ir.dims import Dim
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.ir.verify import verify


def chain() -> Graph:
    """relu -> add(constant)."""
    graph = Graph("chain")
    x = graph.add_input("x", TensorType("float32", (Dim.symbol("N"), 4)))
    graph.add_input("unused", TensorType("int64", ()))
    c = graph.add_constant(np.ones(4, np.float32), "c")
    relu = make(graph, "Relu", [x], name="relu")
    add = make(graph, "LeakyRelu", [make(graph, "Add", [relu.output, c], name="add").output], name="leaky")
    graph.set_outputs([add.output], ["y"])
    return graph


def test_a_legal_graph_passes() -> None:
    verify(chain())


def _type(g: Graph) -> None:
    g.nodes[0].output.type = TensorType("float32", (4, 4))


def _count(g: Graph) -> None:
    g.nodes[1].output.type = TensorType("float32", (-1, 4))


def _unknown_op(g: Graph) -> None:
    g.nodes[0].op = "Frobnicate"


def _missing_attr(g: Graph) -> None:
    del g.nodes[2].attrs["alpha"]


def _wrong_attr(g: Graph) -> None:
    g.nodes[2].attrs["alpha"] = "much"


def _extra_attr(g: Graph) -> None:
    g.nodes[0].attrs["beta"] = 1.0


def _too_many_inputs(g: Graph) -> None:
    node = g.nodes[0]
    node.inputs.append(g.inputs[0])
    g.inputs[0].uses.append((node, 1))


def _lost_use(g: Graph) -> None:
    g.inputs[0].uses.clear()


def _stale_use(g: Graph) -> None:
    g.inputs[1].uses.append((g.nodes[0], 0))


def _double_use(g: Graph) -> None:
    g.inputs[0].uses *= 2


def _cycle(g: Graph) -> None:
    g.set_input(g.nodes[0], 0, g.nodes[1].output)


def _foreign_operand(g: Graph) -> None:
    other = chain()
    g.nodes[0].inputs[0] = other.inputs[0]
    g.inputs[0].uses.clear()


def _foreign_output(g: Graph) -> None:
    g.outputs = [chain().outputs[0]]


def _names(g: Graph) -> None:
    g.nodes[0].output.name = "c"


def _output_names(g: Graph) -> None:
    g.set_outputs(g.outputs * 2, ["y", "y"])


def _output_count(g: Graph) -> None:
    g.output_names.append("z")


def _array_shape(g: Graph) -> None:
    g.constants[0].type = TensorType("float32", (1, 4))


def _array_dtype(g: Graph) -> None:
    g.constants[0].type = TensorType("int32", (4,))


def _writeable(g: Graph) -> None:
    g.constants[0].const = np.ones(4, np.float32)


def _no_definition(g: Graph) -> None:
    g.constants[0].const = None


def _input_with_producer(g: Graph) -> None:
    g.inputs.append(g.nodes[0].output)


def _wrong_index(g: Graph) -> None:
    g.nodes[0].output.index = 1


def _wrong_producer(g: Graph) -> None:
    g.nodes[0].output.producer = g.nodes[1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_type, ("relu", "infers")),
        (_count, ("negative",)),
        (_unknown_op, ("relu", "Frobnicate")),
        (_missing_attr, ("leaky", "alpha")),
        (_wrong_attr, ("leaky", "alpha")),
        (_extra_attr, ("relu", "beta")),
        (_too_many_inputs, ("relu", "inputs")),
        (_lost_use, ("%x", "use list")),
        (_stale_use, ("%unused", "use list")),
        (_double_use, ("%x", "use list")),
        (_cycle, ("cycle", "relu", "add")),
        (_foreign_operand, ("relu", "not in the graph")),
        (_foreign_output, ("'y'", "not in the graph")),
        (_names, ("%c", "unique")),
        (_output_names, ("unique", "'y'")),
        (_output_count, ("1 outputs", "2 names")),
        (_array_shape, ("%c", "array")),
        (_array_dtype, ("%c", "array")),
        (_writeable, ("%c", "read-only")),
        (_no_definition, ("%c", "graph input, a constant or")),
        (_input_with_producer, ("relu", "no node")),
        (_wrong_index, ("relu",)),
        (_wrong_producer, ("relu",)),
    ],
)
def test_broken_law(damage: Callable[[Graph], None], words: tuple[str, ...]) -> None:
    graph = chain()
    damage(graph)
    graph._order = None
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    for word in words:
        assert word in str(caught.value), str(caught.value)
