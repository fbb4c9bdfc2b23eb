"""What the tests of precision share: the float graph of the small model and where its codes would be placed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from temper.config import BuildConfig
from temper.frontends.onnx import import_onnx
from temper.ir.graph import Graph
from temper.passes.manager import run_passes
from temper.passes.pipeline import PIPELINE
from temper.quantize.placement import place, quantizable
from tests.conftest import small_model


def float_form(batch: int = 1, **shape: int) -> tuple[Graph, list[str]]:
    """The small model just before quantization, and the tensors that would carry codes."""
    graph = import_onnx(small_model(batch, **shape))
    run_passes(graph, PIPELINE[: [p.name for p in PIPELINE].index("integer")])
    placement = place(graph, [n for n in graph.nodes if quantizable(n) is None])
    return graph, [t for g in placement.groups for t in g.tensors]


def pictures(count: int, size: int = 12, seed: int = 0) -> np.ndarray:
    """float32 [count, 3, size, size] of growing brightness."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, size, size)) * np.linspace(0.2, 2.0, count)[:, None, None, None]
    return x.astype(np.float32)


@pytest.fixture
def quick(timing_cache: Path) -> BuildConfig:
    """A build without timing."""
    return BuildConfig(threads=2, effort=0, cache=timing_cache)
