"""Whether one INT8 model answers with the same integers on the CPU and on the GPU: the zoo's models, bit for bit.

    python -m benchmarks.same_bits --make FOLDER            # where the zoo is: models in Q/DQ form, the CPU's answers
    python -m benchmarks.same_bits --check FOLDER --json FILE    # where the GPU is: builds them, runs them, compares

A model is made INT8 once, on the CPU, and kept as the graph with its codes' scales and its weights' codes; both devices
build that file. Compared are outputs, every tensor of codes that no other codes are made from (`ends`), and with
--inside every tensor of codes, of the case's own samples and of one of noise. Codes behind functions in float32, such
as a softmax, may be apart by what these round. AVX-512's kernels approximate GELU, SiLU and softmax before codes as
finely as codes tell; `TEMPER_ISA=avx2` before --make asks a CPU level that computes them to float32's precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import temper
from benchmarks.int8_accuracy import gpu_name
from benchmarks.provenance import system
from benchmarks.zoo_cases import NAMES, Batch, default_zoo, load_case, load_zoo
from temper.builder import build_plan
from temper.config import BuildConfig
from temper.errors import TemperError
from temper.ir.graph import Graph, Value
from temper.ir.portable import from_bytes
from temper.peers import OnnxRuntime
from temper.plan.format import Plan
from temper.precision.build import build_int8
from temper.precision.request import Request
from temper.runtime.engine import Engine

Row = dict[str, Any]

#: Samples compared besides the one of noise; of the first one all elements are kept, of others checksums.
_SAMPLES = 7


def codes_in(graph: Graph, inside: bool) -> list[Value]:
    """Tensors of codes in the order of the graph: those that no other codes are made from, or all of them."""
    found = [n.output for n in graph.nodes if n.op == "QuantizeLinear" and n.inputs[0].const is None]  # type: ignore[union-attr]
    if inside:
        return found
    before: set[int] = set()
    for v in reversed(found):
        todo = list(v.producer.inputs) if v.producer is not None else []
        while todo and v.id not in before:
            u = todo.pop()
            if u is None or u.id in before:
                continue
            before.add(u.id)
            todo += u.producer.inputs if u.producer is not None else ()
    return [v for v in found if v.id not in before]


def program(model: bytes, inside: bool, config: BuildConfig) -> Plan:
    """The plan of a model in Q/DQ form whose further outputs are codes."""
    graph = from_bytes(model)
    more = codes_in(graph, inside)
    graph.set_outputs([*graph.outputs, *more], [*graph.output_names, *(f"codes:{v.name}" for v in more)])
    return build_plan(graph, config).plan


def profiles_of(plan: Plan) -> tuple[temper.Profile, ...]:
    ranges = [dict(p.symbols) for p in plan.profiles]
    return tuple(temper.Profile.of(**r) for r in ranges if r)


def noise(batch: Batch) -> dict[str, np.ndarray]:
    """As large as the sample's values; integers, which are indices, stay."""
    rng = np.random.default_rng(0)
    return {
        k: (rng.standard_normal(x.shape) * np.abs(x).max()).astype(x.dtype) if x.dtype.kind == "f" else x
        for k, x in batch.items()
    }


def make(name: str, model: Path, batches: Sequence[Batch], options: Mapping[str, Any], folder: Path) -> str:
    """Writes NAME.model (Q/DQ form) and NAME.npz: feeds, and answers of the CPU's engines. Returns what to print."""
    config = BuildConfig(threads=1, effort=0, portable_graph=True, **options)
    plan = build_int8(model, config, Request(calibration=list(batches), pure_int8=True)).build.plan
    (folder / f"{name}.model").write_bytes(plan.graph)
    feeds = [*batches[:_SAMPLES], noise(batches[0])]
    kept: dict[str, np.ndarray] = {f"feed {i} {k}": x for i, b in enumerate(feeds) for k, x in b.items()}
    own = BuildConfig(threads=1, effort=0, profiles=profiles_of(plan))
    kept["isa"] = np.array(plan.isa)
    kept["profiles"] = np.array(json.dumps([dict(p.symbols) for p in plan.profiles]))
    counts = []
    for inside in (False, True):
        engine = Engine(program(bytes(plan.graph), inside, own))
        names = [o.name for o in engine.outputs]
        counts.append(sum(n.startswith("codes:") for n in names))
        kept[f"names {inside}"] = np.array(json.dumps(names))
        for i, feed in enumerate(feeds):
            outputs = engine.run(dict(feed))
            kept[f"sums {inside} {i}"] = np.array([zlib.crc32(y.tobytes()) for y in outputs], np.uint32)
            if i == 0:
                kept |= {f"first {inside} {k}": y for k, y in enumerate(outputs)}
            else:  # of other samples only what is float can be apart by little
                pairs = enumerate(zip(names, outputs, strict=True))
                kept |= {f"float {inside} {i} {k}": y for k, (n, y) in pairs if not n.startswith("codes:")}
    np.savez_compressed(folder / f"{name}.npz", **kept)  # type: ignore[arg-type]
    return f"{counts[0]} ends, {counts[1]} tensors of codes"


def check(name: str, folder: Path, inside: bool, config: BuildConfig) -> Row:
    """Builds a case here and compares."""
    with np.load(folder / f"{name}.npz") as z:
        kept = {k: z[k] for k in z.files}
    ranges = [r for r in json.loads(str(kept["profiles"])) if r]
    profiles = tuple(temper.Profile.of(**{k: tuple(v) for k, v in r.items()}) for r in ranges)
    config = BuildConfig(**{**vars(config), "profiles": profiles})
    engine = Engine(program((folder / f"{name}.model").read_bytes(), inside, config))
    names = [o.name for o in engine.outputs]
    assert names == json.loads(str(kept[f"names {inside}"])), "another graph"
    row: Row = {"case": name, "cpu": str(kept["isa"]), "inside": inside}
    row |= {"codes": 0, "elements": 0, "samples": 0, "apart": {}, "outputs": []}
    row["codes"] = sum(n.startswith("codes:") for n in names)
    row["kernels"] = sum(r["tactic"] != "host" for r in engine.report["regions"])
    row["host"] = sorted({r["op"] for r in engine.report["regions"] if r["tactic"] == "host"})
    while f"sums {inside} {row['samples']}" in kept:
        i = row["samples"]
        feeds = {k.split(" ", 2)[2]: x for k, x in kept.items() if k.startswith(f"feed {i} ")}
        for k, (n, y) in enumerate(zip(names, engine.run(feeds), strict=True)):
            same = zlib.crc32(y.tobytes()) == int(kept[f"sums {inside} {i}"][k])
            want = kept.get(f"first {inside} {k}") if i == 0 else kept.get(f"float {inside} {i} {k}")
            if n.startswith("codes:"):
                row["elements"] += y.size
                if not same:
                    found = "" if want is None else f": {_apart(y, want)}"
                    row["apart"].setdefault(n.removeprefix("codes:"), f"sample {i}{found}")
            elif want is not None:
                far = float(np.abs(y.astype(np.float64) - want).max() / max(float(np.abs(want).max()), 1e-30))
                row["outputs"].append(0.0 if same else far)
        row["samples"] += 1
    row["outputs_same"], row["outputs"] = not any(row["outputs"]), max(row["outputs"], default=0.0)
    return row


def _apart(y: np.ndarray, want: np.ndarray) -> str:
    steps = np.abs(y.astype(np.int16) - want)
    return f"{int((steps > 0).sum())} of {y.size} elements, by {int(steps.max())} at most"


def told(row: Row) -> str:
    equal = f"{row['codes'] - len(row['apart'])} of {row['codes']} tensors of codes the same"
    outputs = "outputs the same" if row["outputs_same"] else f"outputs apart by {row['outputs']:.1e}"
    first = next((f"; first apart: {k} ({v})" for k, v in row["apart"].items()), "")
    compared = f"{row['elements']:,} codes of {row['samples']} samples"
    return f"{equal} ({compared}), {outputs}, {row['kernels']} kernels{first}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    parser.add_argument("--cases", default="", help="all of the zoo, or what the folder holds, if not given")
    parser.add_argument("--device", default="cuda", help="to check")
    parser.add_argument("--inside", action="store_true", help="also compare every tensor of codes")
    parser.add_argument("--zoo", type=Path, default=default_zoo(), help="folder of zoo.py, to make")
    parser.add_argument("--samples", type=int, default=40, help="to calibrate with")
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write results here; cases that are not checked keep their rows")
    args = parser.parse_args()
    names = [n for n in args.cases.split(",") if n]
    if args.make:
        args.make.mkdir(parents=True, exist_ok=True)
        zoo = load_zoo(args.zoo)
        for name in names or NAMES:
            case = load_case(zoo, name, args.samples, lambda path: OnnxRuntime().prepare(path, 1))
            for k, parts in enumerate(zip(case.models, case.batches, case.options, strict=True)):
                own = name if len(case.models) == 1 else f"{name}{k + 1}"
                print(f"{own:18s} {make(own, *parts, args.make)}", flush=True)
    if args.check:
        rows, failed = [], False
        for name in names or sorted(p.stem for p in args.check.glob("*.model")):
            for inside in (False, True)[: 1 + args.inside]:
                try:
                    row = check(name, args.check, inside, BuildConfig(device=args.device, effort=args.effort))
                except TemperError as e:
                    row = {"case": name, "cpu": "", "inside": inside, "error": str(e)[:300]}
                print(f"{name:18s} {row.get('error') or told(row)}", flush=True)
                failed |= "error" in row or bool(row["apart"])
                rows.append(row)
                if args.json:
                    record(args.json, rows, args.device)
        sys.exit(failed)


def record(path: Path, rows: Sequence[Row], device: str) -> None:
    """Writes rows by case and CPU level; others that are there stay."""
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {(r["case"], r["cpu"], r["inside"]) for r in rows}
    kept = [r for r in old if (r["case"], r["cpu"], r["inside"]) not in new]
    every = sorted([*kept, *rows], key=lambda r: (r["case"], r["cpu"], r["inside"]))
    about = {"date": date.today().isoformat(), "device": gpu_name(device), **system()}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as f:
        f.write(json.dumps({**about, "temper": temper.__version__, "rows": every}, indent=1) + "\n")
    Path(f.name).replace(path)


if __name__ == "__main__":
    main()
