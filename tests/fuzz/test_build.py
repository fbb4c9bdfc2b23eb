"""Random graphs through the whole build: the engine's outputs are the reference's, at every code level and thread
count.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.ir.evaluate import evaluate
from temper.runtime.engine import Engine
from tests.fuzz.generate import random_graph
from tests.passes.nets import assert_same, feeds

SEEDS = range(24)
ISAS = ("avx512", "avx2", "portable")


@pytest.mark.parametrize("seed", SEEDS)
def test_build(seed: int, tmp_path: Path) -> None:
    graph = random_graph(seed)
    data = feeds(graph, {"N": 2})
    want = evaluate(graph, data)
    threads = 1 + seed % 2
    config = BuildConfig(
        threads=threads,
        effort=0,
        isa=ISAS[seed % 3],
        profiles=(Profile.of(N=(1, 2, 3)),) if graph.inputs[0].type.symbols else (),
        cache=tmp_path / "timing.sqlite",
    )
    engine = Engine(build_plan(graph, config).plan)
    got = engine.run(data)
    assert_same(want, got, 1e-4)
    for a, b in zip(got, engine.run(data), strict=True):
        assert a.tobytes() == b.tobytes(), "a second run differs"
