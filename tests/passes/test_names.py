"""Names of what rules made: the same in graphs of other sizes, whose passes made other nodes before."""

from __future__ import annotations

import pytest

from benchmarks.transformer_nets import vit
from benchmarks.transformer_parts import Transformer
from temper.builder import float_graph
from temper.config import BuildConfig


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
