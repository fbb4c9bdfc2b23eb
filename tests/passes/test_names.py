"""Names of what rules made: the same in graphs of other sizes, whose passes made other nodes before."""

from __future__ import annotations

import pytest

from benchmarks.transformer_nets import vit
from benchmarks.transformer_parts import Transformer
from temper.builder import float_graph
from temper.config import BuildConfig
from temper.ir.ops import make
from tests.passes.nets import Net


@pytest.mark.parametrize("batch", [2, 8])
def test_profiles_name_tensors_alike(batch: int) -> None:
    model = vit(Transformer(2, 32, 2, 64), image=32, batch="N")

    def named(size: int) -> set[str]:
        graph = float_graph(model, BuildConfig(batches=((size, size, size),)))
        moved = ("Transpose", "Reshape")  # which sizes of 1 turn into one another; thresholds are of what they move
        return {v.name for v in graph.values if v.const is None and (v.producer is None or v.producer.op not in moved)}

    one, more = named(1), named(batch)
    assert one == more
    assert any(name.endswith(".split") for name in one) and any(name.endswith(".gelu") for name in one)


def test_names_do_not_tell_how_many_nodes_there_were_before() -> None:
    """As other profiles' graphs have had others: a transpose of one channel is a reshape that the layout pass makes."""

    def names(before: int) -> list[str]:
        net = Net(3)
        x = net.input(2, 1, 6, 6)
        for _ in range(before):
            net.graph.remove_node(make(net.graph, "Relu", [x], {}, name="gone"))
        y = net("Relu", net.conv(x, 4, 3))
        y = net.conv(net("ReduceMean", y, axes=(2, 3), keepdims=1), 4, 1)
        graph = net.done(y)
        for node, name in zip(graph.nodes, "abcdefgh", strict=False):
            node.name = name  # as an imported model has them
            graph.rename(node.output, name)
        return [n.name for n in float_graph(graph, BuildConfig()).nodes]

    assert names(0) == names(5)
