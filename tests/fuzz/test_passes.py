"""Random graphs keep their numbers through every pass alone and through the whole pipeline; regions and storage stay
sound.
"""

from __future__ import annotations

import pytest

from temper.ir.evaluate import evaluate
from temper.ir.text import constants_of, parse, to_text
from temper.ir.verify import verify
from temper.passes.manager import Log
from temper.passes.pipeline import PIPELINE
from tests.fuzz.generate import random_graph
from tests.passes.nets import assert_same, feeds
from tests.passes.test_partition import check_partition
from tests.plan.test_storage import check_storage, nothing_strided

SEEDS = range(300)
ENV = {"N": 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_passes(seed: int) -> None:
    graph = random_graph(seed)
    verify(graph)
    data = feeds(graph, ENV)
    want = evaluate(graph, data)
    for p in PIPELINE:
        alone = graph.copy()
        p.run(alone, Log())
        verify(alone)
        assert_same(want, evaluate(alone, data), 1e-4)
    for p in PIPELINE:
        p.run(graph, Log())
        verify(graph)
        assert_same(want, evaluate(graph, data), 1e-4)
    assert parse(to_text(graph), constants_of(graph)).hash() == graph.hash()
    check_partition(graph, ENV)
    check_storage(graph.copy(), nothing_strided, ENV)
    check_storage(graph, env=ENV)
