"""The text form reads back to a graph with an equal hash."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.errors import ModelError
from temper.ir.dims import Dim, opaque
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.text import constants_of, digest, parse, to_text
from temper.ir.types import TensorType
from temper.ir.verify import verify


def round_trip(graph: Graph) -> Graph:
    text = to_text(graph)
    again = parse(text, constants_of(graph))
    assert again.hash() == graph.hash()
    assert to_text(again) == text
    return again


def one_constant(array: np.ndarray, dtype: str | None = None) -> Graph:
    graph = Graph("constants")
    c = graph.add_constant(array, "c", dtype)
    graph.set_outputs([make(graph, "Identity", [c]).output], ["y"])
    return graph


def network() -> Graph:
    n, h = Dim.symbol("N"), Dim.symbol("H")
    graph = Graph("net")
    graph.dim_names["N"] = "batch size"
    x = graph.add_input("x", TensorType("float32", (n, 3, h, 8)))
    w = graph.add_constant(np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3), "w")
    attrs = {"strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    y = make(
        graph,
        "Conv",
        [x, w, None],
        attrs,
        name="conv 1",
        origin=("conv 1", "rule:fold"),
        output_names=["/a/Conv output"],
    )
    low, high = make(graph, "Split", [y.output], {"axis": 1, "sizes": (1, 3)}).outputs
    z = make(graph, "Clip", [high], {"min": -math.inf, "max": 6.0})
    graph.set_outputs([z.output, low, z.output], ["clipped", "low", "again"])
    return graph


def test_network() -> None:
    again = round_trip(network())
    verify(again)
    conv = again.nodes[0]
    assert (conv.name, conv.origin, conv.output.name) == ("conv 1", ("conv 1", "rule:fold"), "/a/Conv output")
    assert again.output_names == ["clipped", "low", "again"] and again.dim_names == {"N": "batch size"}


def test_a_node_is_one_readable_line() -> None:
    line = next(line for line in to_text(network()).splitlines() if " = Conv(" in line)
    assert line.startswith(
        '%"/a/Conv output": float32[N, 4, ((1 + H) // (2)), 4] = Conv(%x, %w, _) {channels_last=0, '
    ) or (line.startswith('%"/a/Conv output": float32[N, 4, ') and "strides=(2, 2)" in line)
    assert line.endswith('# "conv 1" | "conv 1" | rule:fold')


@pytest.mark.parametrize(
    "array",
    [
        np.array(0.1, np.float32),
        np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        np.array([1 / 3, 5e-324], np.float64),
        np.array([0.1, 65504], np.float16),
        np.array([[True], [False]]),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1], np.uint64),
        np.zeros((0, 3), np.float32),
        np.array([1 + 2j, complex("nan")], np.complex64),
        np.array(["a, b", 'c"%d', "é\n"], object),
        np.arange(1000, dtype=np.int8),
        np.frombuffer(b"\x01\x00\xc0\x7f", np.float32),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_constants(array: np.ndarray) -> None:
    (again,) = round_trip(one_constant(array)).constants
    assert again.const is not None and again.const.dtype == array.dtype and again.const.shape == array.shape


def test_bfloat16_constant() -> None:
    (again,) = round_trip(one_constant(np.array([0x3F80], np.uint16), "bfloat16")).constants
    assert again.type.dtype == "bfloat16"


@given(st.lists(st.floats(width=32), max_size=16))
def test_any_float32_reads_back_bit_for_bit(values: list[float]) -> None:
    round_trip(one_constant(np.array(values, np.float32)))


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_any_names(value: str, node: str, output: str) -> None:
    graph = Graph(value)
    x = graph.add_input(value or "x", TensorType("float32", ()))
    y = make(graph, "Relu", [x], name=node or "n", origin=(output, value), output_names=[output])
    graph.set_outputs([y.output], [output])
    again = round_trip(graph)
    assert again.nodes[0].origin == (output, value) and again.inputs[0].name == x.name


@pytest.mark.parametrize(
    "value",
    [
        0, -3, 1.5, math.inf, -math.inf, "", "it's | # {quoted}", (), (1,), (1, (2.0, "x")), Dim.symbol("N") * 2 + 1,
        (opaque("//", Dim.symbol("N"), 2), opaque("max", Dim.symbol("N"), 4)),
    ],
    ids=repr,
)  # fmt: skip
def test_attributes(value: object) -> None:
    graph = Graph("attributes")
    x = graph.add_input("x", TensorType("float32", (2,)))
    node = graph.add_node("Anything", [x], [x.type], {"value": value})
    graph.set_outputs([node.output])
    again = round_trip(graph).nodes[0].attrs["value"]
    assert again == value and type(again) is type(value)


def test_array_and_graph_attributes() -> None:
    graph = Graph("outer")
    x = graph.add_input("x", TensorType("float32", (2,)))
    table = np.arange(256, dtype=np.uint8)
    node = graph.add_node(
        "Anything", [x], [x.type], {"table": table, "body": network(), "other": one_constant(np.zeros(40))}
    )
    graph.set_outputs([node.output])
    again = round_trip(graph).nodes[0].attrs
    assert isinstance(again["body"], Graph) and again["body"].hash() == network().hash()
    assert isinstance(again["table"], np.ndarray) and (again["table"] == table).all()


def test_constant_that_is_not_given() -> None:
    with pytest.raises(ModelError, match="not among the 0 constants"):
        parse(to_text(network()))


def test_constant_that_is_another() -> None:
    graph = one_constant(np.arange(100))
    with pytest.raises(ModelError, match="another one"):
        parse(to_text(graph), {digest(np.arange(100)): np.zeros(100, np.int64)})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no graph"),
        ("hello", "line 1"),
        ('graph "g" {', "'}'"),
        ('graph "g" {\nnonsense\n}', "line 2"),
        ('graph "g" {\n%y: float32[2] = Relu(%x)\n}', "unknown value 'x'"),
        ('graph "g" {\ninput %x: float33[2]\n}', "tensor type"),
        ('graph "g" {\ninput %x: float32[2\n}', "not closed"),
        ('graph "g" {\ninput %x: float32[a.b]\n}', "bad shape"),
        ('graph "g" {\ninput %x: float32[2]\ninput %x: float32[2]\n}', "taken"),
        ('graph "g" {\ninput %x: float32[2]\n%y: float32[2] = Relu(%x) {a=open()}\n}', "line 3"),
        ('graph "g" {\ninput %x: float32[2]\n%y: float32[2] = Relu(%x) {a=graph(1)}\n}', "subgraph"),
        ('graph "g" {\n%c: int64[3] = const [1, 2]\n}', "line 2"),
        ('graph "g" {\n%c: int64[1] = const [one]\n}', "line 2"),
    ],
)
def test_malformed_text(text: str, word: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(text)
    assert word in str(caught.value)
