"""8-bit floats on a real GPU: models that bring them, and a search in which INT8, E4M3 and FP16 compete.

    python -m tests.precision.device [--layers N] [--width N] [--batch N]

What a plan answers is compared with the references' evaluation of the very graph that it was made from, roundings to
narrow types included. Prints a line each; status 1 if one is apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper

from benchmarks.transformer_bert import bert
from benchmarks.transformer_parts import Transformer
from benchmarks.transformers import sample_inputs
from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.ir.evaluate import evaluate
from temper.precision.build import build_int8
from temper.precision.request import Request
from temper.runtime.engine import Engine
from tests.passes.float8_net import model

Feeds = Mapping[str, np.ndarray]

#: Of the largest output: a float16 or E4M3 value that is rounded to its neighbour moves what follows.
_APART = 0.02


def apart(build: Build, feeds: Sequence[Feeds]) -> float:
    """Largest difference of the engine's outputs from the references', over the largest output."""
    engine, worst = Engine(build.plan), 0.0
    for batch in feeds:
        for got, want in zip(engine.run(dict(batch)), evaluate(build.graph, batch), strict=True):
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    return worst


def eights(build: Build) -> int:
    """Products of 8-bit floats."""
    return sum("=float8" in r["workload"] for r in build.plan.report["regions"] if r["op"] in ("Conv", "MatMul"))


def outliers(layers: int, width: int, batch: int) -> ModelProto:
    """BERT without training, two channels of whose every normalisation are far larger than the others: what INT8's one
    step for all of them ruins."""
    made = bert(Transformer(layers, width, 12, 4 * width, 1000, 128), 128, batch=batch)
    for t in made.graph.initializer:
        if "LayerNorm" in t.name and "weight" in t.name:
            scale = numpy_helper.to_array(t).copy()
            scale[7] *= 60
            scale[50] *= -40
            t.CopyFrom(numpy_helper.from_array(scale, t.name))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--effort", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    failed = False

    def told(what: str, found: float, most: float = _APART) -> None:
        nonlocal failed
        failed |= not found <= most
        print(f"[{time.perf_counter() - start:5.1f} s] {what}; apart by {found:.1e} (at most {most:g})", flush=True)

    images = np.random.default_rng(1).standard_normal((3, 2, 3, 12, 12)).astype(np.float32)
    for precision in ("fp16", "fp32"):
        for folded in (True, False):
            config = BuildConfig(device="cuda", effort=args.effort, precision=precision)
            build = build_plan(model(folded), config)
            failed |= eights(build) != 3
            words = f"explicit E4M3, {precision}, weights {'folded' if folded else 'not folded'}: {eights(build)} of 3"
            told(f"{words} products in 8-bit floats", apart(build, [{"image": x} for x in images]))
    net = outliers(args.layers, args.width, args.batch)
    feeds = [sample_inputs(net, seed=k) for k in range(12)]
    config = BuildConfig(device="cuda", effort=args.effort, precision="fp16")
    with tempfile.TemporaryDirectory() as folder:
        request = Request(calibration=feeds, compensate=False, work=Path(folder))
        made = build_int8(net.SerializeToString(), config, request, say=lambda line: print("   ", line, flush=True))
    kinds = [s.precision for s in made.outcome.sites]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
    print(f"three precisions: {counts}; {made.outcome.verdict}")
    for p in made.outcome.points:
        print(f"    {p.label}: {p.kind}, {p.ms and round(p.ms, 4)} ms, off by {p.divergence}", flush=True)
    told(f"the chosen engine with {eights(made.build)} products in 8-bit floats", apart(made.build, feeds[-2:]), 0.05)
    sys.exit(failed)


if __name__ == "__main__":
    main()
