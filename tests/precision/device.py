"""8-bit floats on a real GPU: models that bring them, and a search in which INT8, E4M3 and FP16 compete.

    python -m tests.precision.device [explicit three speed] [--layers N] [--width N] [--batch N] [--feeds N]

Beside them (speed) a search that leaves in FP16 what INT8 makes slower. What a plan answers is compared with the
references' evaluation of the very graph that it was made from, roundings to narrow types included, and so is every
layer's result, computed from what the engine gave that layer: networks magnify roundings, single layers do not. Prints
a line each; status 1 if one is apart.
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
from benchmarks.transformer_nets import vit
from benchmarks.transformer_parts import Transformer
from benchmarks.transformers import sample_inputs
from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.debug.deviation import bounds, compare_layers
from temper.ir.evaluate import evaluate
from temper.precision.build import Made, build_int8
from temper.precision.divergence import Bounds
from temper.precision.request import Request
from temper.runtime.engine import Engine
from tests.passes.float8_net import model

Feeds = Mapping[str, np.ndarray]

#: Of the largest output: a float16 or E4M3 value that is rounded to its neighbour moves what follows.
_APART = 0.02

#: Of the outputs' deviation, where codes are behind float arithmetic: as much as INT8 itself may add.
_NOISE = 0.1

#: What outputs may diverge by: as in a build without an evaluation function, and by whatever.
_DEFAULT, _ANYTHING = Bounds(), Bounds(loss=1e6, answers=1e6, shares=1e6, values=1e6, maps=1e6, aim=1e6)

#: Images of which the references' products of integers take seconds.
_COMPARED = 8

#: Of the codes of one layer: sums of another order are on the other side of what is rounded.
_CODES = 0.02


def apart(build: Build, feeds: Sequence[Feeds]) -> float:
    """Largest difference of the engine's outputs from the references', over the largest output."""
    engine, worst = Engine(build.plan), 0.0
    for batch in feeds:
        for got, want in zip(engine.run(dict(batch)), evaluate(build.graph, batch), strict=True):
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    return worst


def noise(build: Build, feeds: Feeds) -> float:
    """Root mean square of what the engine's outputs are off the references' by, over the outputs' deviation: codes that
    rounding makes the next ones move single outputs by whole steps."""
    engine, worst = Engine(build.plan), 0.0
    for got, want in zip(engine.run(dict(feeds)), evaluate(build.graph, feeds), strict=True):
        off, largest = float(np.sqrt(np.square(got - want).mean()) / want.std()), float(np.abs(got - want).max())
        print(f"    output {want.shape}: noise {off:.1e}, largest difference {largest:.1e} of {np.abs(want).max():.1e}")
        worst = max(worst, off)
    return worst


def layers(build: Build, feeds: Feeds, told: Told) -> None:
    """Every layer alone: floats within their type's bound; of codes, which rounding may make the next ones, few."""
    engine = Engine(build.plan)
    rows = compare_layers(build.graph, engine, feeds, bounds(build.plan, {}), None)
    kinds = [[dtype for _, dtype, *_ in engine.report["regions"][k]["results"]] for k in range(len(rows))]
    codes = [r for r, k in zip(rows, kinds, strict=True) if {"int8", "uint8", "float8e4m3fn"} & set(k)]
    floats = [r for r in rows if r not in codes]
    worst = max(floats, key=lambda r: r["own"] / r["tolerance"])
    told(f"    the worst of {len(floats)} layers of floats, {worst['name']}", worst["own"], worst["tolerance"])
    if codes:
        most = max(codes, key=lambda r: r["own"])
        told(f"    the worst of {len(codes)} layers of codes, {most['name']}: share that differs", most["own"], _CODES)
    path = ", ".join(f"{r['total'] or 0:.0e}" for r in rows)
    print(f"    from the inputs on, layer by layer: {path}", flush=True)


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


class Told:
    """Prints lines, and remembers whether something was apart."""

    def __init__(self) -> None:
        self.start, self.failed = time.perf_counter(), False

    def __call__(self, what: str, found: float, most: float = _APART) -> None:
        self.failed |= not found <= most
        at = f"[{time.perf_counter() - self.start:5.1f} s]"
        print(f"{at} {what}; apart by {found:.1e} (at most {most:g})", flush=True)


def explicit(args: argparse.Namespace, told: Told) -> None:
    """Models that bring E4M3."""
    images = np.random.default_rng(1).standard_normal((3, 2, 3, 12, 12)).astype(np.float32)
    for precision in ("fp16", "fp32"):
        for folded in (True, False):
            config = BuildConfig(device="cuda", effort=args.effort, precision=precision)
            build = build_plan(model(folded), config)
            told.failed |= eights(build) != 3
            words = f"explicit E4M3, {precision}, weights {'folded' if folded else 'not folded'}: {eights(build)} of 3"
            told(f"{words} products in 8-bit floats", apart(build, [{"image": x} for x in images]))


def searched(net: ModelProto, count: int, args: argparse.Namespace, bounds: Bounds = _DEFAULT) -> Made:
    """The INT8 build of a model on random inputs; prints what it says and every engine that was looked at."""
    feeds = [sample_inputs(net, seed=k) for k in range(count)]
    config = BuildConfig(device="cuda", effort=args.effort, precision="fp16")
    with tempfile.TemporaryDirectory() as folder:
        request = Request(calibration=feeds, compensate=False, bounds=bounds, work=Path(folder))
        made = build_int8(net.SerializeToString(), config, request, say=lambda line: print("   ", line, flush=True))
    kinds = [s.precision for s in made.outcome.sites]
    print(", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)) + f"; {made.outcome.verdict}")
    for p in made.outcome.points:
        ms = "not timed" if p.ms is None else f"{p.ms:.4f} ms"
        print(f"    {p.label} ({p.kind}): {ms}, off by {p.divergence}", flush=True)
    return made


def three(args: argparse.Namespace, told: Told) -> None:
    """What INT8 ruins, in 8-bit floats or in float16."""
    net = outliers(args.layers, args.width, args.batch or 16)
    made = searched(net, args.feeds or 12, args)
    words = f"three precisions: the chosen engine with {eights(made.build)} products in 8-bit floats"
    told(words, noise(made.build, sample_inputs(net, seed=99)), _NOISE)
    layers(made.build, sample_inputs(net, seed=99), told)


def speed(args: argparse.Namespace, told: Told) -> None:
    """What INT8 makes slower, in float16: attention of a vision transformer, whose accuracy does not matter here."""
    net = vit(Transformer(args.layers, 768, 12, 3072), batch=args.batch or 1)
    made = searched(net, args.feeds or 40, args, _ANYTHING)
    for step in made.outcome.steps:
        if "for speed" in step.name:
            print(f"    {step.name}: {step.why}; {step.ms_before} ms -> {step.ms_after} ms")
    for site in made.outcome.sites:
        if site.precision != "int8":
            print(f"    {site.name}: {site.why}")
    if (args.batch or 1) <= _COMPARED:
        told("time alone: the chosen engine", noise(made.build, sample_inputs(net, seed=99)), _NOISE)
        layers(made.build, sample_inputs(net, seed=99), told)


PARTS = {"explicit": explicit, "three": three, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=0, help="16, or 1 of speed")
    parser.add_argument("--feeds", type=int, default=0, help="batches to calibrate with; 12, or 40 of speed")
    parser.add_argument("--effort", type=int, default=2)
    args = parser.parse_args()
    told = Told()
    for name in args.parts:
        PARTS[name](args, told)
    sys.exit(told.failed)


if __name__ == "__main__":
    main()
