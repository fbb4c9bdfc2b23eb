"""Sizes that depend on data in the graph: order, pruning, copies, and the verifier's laws."""

from __future__ import annotations

import pytest

from temper.errors import VerificationError
from temper.ir.dims import Dim, data_symbols, from_data
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.symbolic import lower_bound, sign_of
from temper.ir.text import parse, to_text
from temper.ir.types import TensorType
from temper.ir.verify import verify

N = Dim.symbol("_n")


def counted() -> Graph:
    """y is as long as NonZero(x) has results, though it does not read them."""
    g = Graph("counted")
    x, c = g.add_input("x", TensorType("float32", (8,))), g.add_input("c", TensorType("float32", ()))
    expand = g.add_node("Expand", [c], [TensorType("float32", (N,))], {"shape": (N,)}, name="fill")
    make(g, "NonZero", [x], {"count": N}, name="find")
    g.set_outputs([expand.output], ["y"])
    return g


def test_a_node_follows_the_one_that_binds_its_sizes() -> None:
    g = counted()
    verify(g)
    assert [n.name for n in g.nodes] == ["find", "fill"]
    assert g.prune() == 0
    assert g.nodes[0].binds == ("_n",) and g.nodes[1].reads == {"_n"} and not g.free_symbols
    again = parse(to_text(g))
    assert again.hash() == g.hash() == g.copy().hash()
    g.set_outputs([g.inputs[0]], ["x"])
    assert g.prune() == 2


def test_sizes_are_bound_once_and_by_some_node() -> None:
    g = counted()
    make(g, "NonZero", [g.inputs[0]], {"count": N}, name="again")
    with pytest.raises(VerificationError, match="'again'.*_n is bound once"):
        verify(g)
    g = Graph("free")
    c = g.add_input("c", TensorType("float32", ()))
    node = make(g, "Expand", [c], {"shape": (N,)})
    g.set_outputs([node.output])
    with pytest.raises(VerificationError, match="but _n is not"):
        verify(g)


def test_cycles_through_sizes() -> None:
    g = Graph("cycle")
    c = g.add_input("c", TensorType("float32", ()))
    filled = make(g, "Expand", [c], {"shape": (N,)}, name="fill")
    found = make(g, "NonZero", [filled.output], {"count": N}, name="find")
    g.set_outputs([found.output])
    with pytest.raises(VerificationError, match="cycle through Expand 'fill', NonZero 'find'"):
        verify(g)


def test_a_size_from_data_may_be_zero() -> None:
    assert from_data("_n") and not from_data("n")
    assert lower_bound(N) == 0 and lower_bound(Dim.symbol("n")) == 1
    assert sign_of(N) is None and sign_of(N + 1) == 1
    assert data_symbols(N * 2 + Dim.symbol("m"), 3) == {"_n"}
