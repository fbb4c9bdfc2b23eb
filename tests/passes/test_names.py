"""Names of what rules made: the same in graphs of other sizes, whose passes made other nodes before."""

from __future__ import annotations

import pytest

from benchmarks.transformer_nets import vit
from benchmarks.transformer_parts import Transformer
from temper.builder import float_graph
from temper.config import BuildConfig
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


def test_names_do_not_tell_how_many_nodes_there_are() -> None:
    """As profiles' graphs have more or fewer: a transpose of one channel is a reshape that the layout pass makes."""

    def names(others: int) -> set[str]:
        net = Net(3)
        x = net.input(2, 1, 6, 6)
        y = net("Relu", net.conv(x, 4, 3))
        y = net.conv(net("ReduceMean", y, axes=(2, 3), keepdims=1), 4, 1)
        graph = net.done(y, *(net("Exp", x) for _ in range(others)))
        for k, node in enumerate(graph.nodes):  # as an imported model has them
            node.name = f"layer{k}"
            graph.rename(node.output, f"tensor{k}")
        return {n.name for n in float_graph(graph, BuildConfig()).nodes if "Conv" in n.op or "shape" in n.op.lower()}

    assert names(0) <= names(3)
