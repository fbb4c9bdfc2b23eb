"""What a profile costs: plans for a range of sizes against plans built for one size, taking turns at that size.

    python -m benchmarks.dynamic                             # every case, one thread
    python -m benchmarks.dynamic --cases resnet50_batch,bert_base --threads 2

For each case: milliseconds of both, their ratio (dynamic / static), the largest difference of their outputs, and the
time to bind a shape for the first time. --plans weighs plans of several batch sizes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from benchmarks import models
from benchmarks.transformer_bert import BERT_BASE, bert
from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.peers import interleaved, pin
from temper.plan.file import to_bytes
from temper.runtime.engine import Engine

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """make: the model with open dimensions. ranges: of its symbols; both plans run at the optimum."""

    make: Callable[[], ModelProto]
    ranges: dict[str, Range]


def opened(model: ModelProto, dims: Sequence[str | None]) -> ModelProto:
    """The model with the dimensions of its inputs renamed: a name opens a dimension, None leaves it."""
    for value in model.graph.input:
        for name, d in zip(dims, value.type.tensor_type.shape.dim, strict=True):
            if name is not None:
                d.dim_param = name
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return model


def yolo_features() -> ModelProto:
    """YOLOv8n without its box decoding, whose anchors are constants for one size: the three levels' maps."""
    model = models.yolo("N")
    ends = [n.output[0] for n in model.graph.node if n.name.startswith("/model/22/level") and n.op_type == "Concat"]
    ends = [e for e in ends if "levels" not in e]
    needed, kept = set(ends), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(reversed(kept))
    model.graph.output.extend(onnx.helper.make_tensor_value_info(e, onnx.TensorProto.FLOAT, None) for e in ends)
    return opened(model, ["N", None, "H", "W"])


IMAGE = ("N", None, "H", "W")

CASES: dict[str, Case] = {
    "resnet50_batch": Case(partial(models.resnet50, "N"), {"N": (1, 1, 8)}),
    "resnet50_batch8": Case(partial(models.resnet50, "N"), {"N": (1, 8, 8)}),
    "resnet50_image": Case(
        lambda: opened(models.resnet50(), IMAGE), {"N": (1, 1, 2), "H": (64, 224, 320), "W": (64, 224, 320)}
    ),
    "mobilenetv2_batch": Case(partial(models.mobilenetv2, "N"), {"N": (1, 1, 8)}),
    "mobilenetv2_image": Case(
        lambda: opened(models.mobilenetv2(), IMAGE), {"N": (1, 1, 2), "H": (64, 224, 320), "W": (64, 224, 320)}
    ),
    "yolo_batch": Case(partial(models.yolo, "N"), {"N": (1, 1, 4)}),
    "yolo_image": Case(yolo_features, {"N": (1, 1, 2), "H": (320, 640, 640), "W": (320, 640, 640)}),
    "bert_base": Case(partial(bert, BERT_BASE, "S", batch="N"), {"N": (1, 1, 8), "S": (1, 128, 256)}),
}


def feeds_for(engine: Engine) -> dict[str, np.ndarray]:
    """Seeded inputs of a static engine: normal floats, integers 0 and 1."""
    rng = np.random.default_rng(3)
    feeds = {}
    for spec in engine.inputs:
        normal = spec.dtype.kind == "f"
        made = rng.standard_normal(spec.shape) if normal else rng.integers(0, 2, spec.shape)  # type: ignore[arg-type]
        feeds[spec.name] = made.astype(spec.dtype)
    return feeds


def bind_seconds(engine: Engine, feeds: dict[str, np.ndarray]) -> float:
    """Least seconds to bind these shapes in a context that has run others: no memory is laid out, nothing runs."""
    context = engine.context()
    arrays = engine._arguments((feeds,), {})
    shapes = tuple(a.shape for a in context._checked(arrays))
    context._bind(shapes)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        context._bind(shapes)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(case: Case, threads: int, effort: int, seconds: float, cache: Path | None) -> dict[str, Any]:
    model = case.make()
    best = {name: r[1] for name, r in case.ranges.items()}
    config = {"threads": threads, "effort": effort, "cache": cache}
    static = build_plan(model, BuildConfig(profiles=(Profile.of(**best),), **config)).plan  # type: ignore[arg-type]
    dynamic = build_plan(model, BuildConfig(profiles=(Profile.of(**case.ranges),), **config)).plan  # type: ignore[arg-type]
    engines = {"static": Engine(static), "dynamic": Engine(dynamic)}
    feeds = feeds_for(engines["static"])
    results = {k: e.run(feeds) for k, e in engines.items()}
    apart = max(
        float(np.abs(a - b).max() / max(1e-30, np.abs(a).max()))
        for a, b in zip(results["static"], results["dynamic"], strict=True)
    )
    runs = {k: (lambda e=e: e.run(feeds)) for k, e in engines.items()}
    timings = interleaved(runs, seconds)
    rows = dynamic.report["regions"]
    return {
        "sizes": best,
        "effort": effort,
        "ranges": {k: list(v) for k, v in case.ranges.items()},
        "static_ms": timings["static"].median,
        "dynamic_ms": timings["dynamic"].median,
        "ratio": timings["dynamic"].median / timings["static"].median,
        "ratio_of_least": timings["dynamic"].best / timings["static"].best,
        "difference": apart,
        "bind_ms": 1e3 * bind_seconds(engines["dynamic"], feeds),
        "host_steps": sum(r["tactic"] == "host" for r in rows),
        "plan_bytes": len(to_bytes(dynamic)),
        "static_plan_bytes": len(to_bytes(static)),
        "others_cores": timings["dynamic"].others,
    }


#: Models whose plan of several batch sizes is weighed against that of one.
SEVERAL: dict[str, Callable[[], ModelProto]] = {
    "mobilenetv2": partial(models.mobilenetv2, "N"),
    "resnet50": partial(models.resnet50, "N"),
}
BATCHES = (1, 2, 4, 8)


def plan_sizes(make: Callable[[], ModelProto], threads: int, effort: int, cache: Path | None) -> dict[str, Any]:
    """Bytes of a plan with a profile for every one of `BATCHES`, of one for the first, and their ratio."""
    model = make()
    one, several = (
        len(to_bytes(build_plan(model, BuildConfig(threads=threads, effort=effort, cache=cache, batches=sizes)).plan))
        for sizes in (((1, 1, 1),), tuple((b, b, b) for b in BATCHES))
    )
    return {"batches": list(BATCHES), "effort": effort, "bytes": several, "bytes_of_one": one, "ratio": several / one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--plans", default="", help=f"models to weigh several profiles for: {','.join(SEVERAL)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, for each engine of a case")
    parser.add_argument("--cache", type=Path, help="timing cache")
    parser.add_argument("--json", type=Path, help="write results here; cases not run keep their rows")
    options = parser.parse_args()
    pin(options.threads)
    found: dict[str, Any] = {}
    print(f"{'case':<20}{'static ms':>10}{'dynamic':>10}{'ratio':>7}{'least':>7}{'bind ms':>9}{'host':>5}  difference")
    for name in filter(None, options.cases.split(",")):
        r = found[name] = measure(CASES[name], options.threads, options.effort, options.seconds, options.cache)
        print(
            f"{name:<20}{r['static_ms']:>10.3f}{r['dynamic_ms']:>10.3f}{r['ratio']:>7.3f}{r['ratio_of_least']:>7.3f}"
            f"{r['bind_ms']:>9.3f}{r['host_steps']:>5}  {r['difference']:.1e}",
            flush=True,
        )
    plans: dict[str, Any] = {}
    for name in filter(None, options.plans.split(",")):
        p = plans[name] = plan_sizes(SEVERAL[name], options.threads, options.effort, options.cache)
        print(f"{name}: batches {p['batches']} make {p['bytes']} bytes, {p['ratio']:.3f} of a plan for one", flush=True)
    if options.json:
        from temper.runtime.machine import cpu_name

        old = json.loads(options.json.read_text()) if options.json.is_file() else {}
        about = {"machine": cpu_name(), "python": platform.python_version(), "date": str(date.today())}
        about["threads"] = options.threads
        rows = {"cases": {**old.get("cases", {}), **found}, "plans": {**old.get("plans", {}), **plans}}
        options.json.write_text(json.dumps({**about, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
