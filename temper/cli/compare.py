"""`temper compare`: an engine's outputs, or every layer's, against ONNX Runtime's and the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.engines import DEVICE

if TYPE_CHECKING:
    import numpy as np

    from temper.ir.graph import Graph
    from temper.plan.format import Plan, Profile

TOLERANCE = (
    "Largest error, relative to the largest value of the tensor; "
    "by default derived from dtypes, reduction lengths and depth."
)


def compare(
    model: Annotated[Path, typer.Argument(help="ONNX file the plan was built from.", show_default=False)],
    plan: Annotated[Path, typer.Argument(help="Plan file.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="Inputs: an .npz by name, or an .npy; random if not given.", show_default=False)
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="One input, NAME=FILE.npy; may be repeated.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random inputs.")] = 0,
    batch: Annotated[int, typer.Option(help="Batch of random inputs; 0: the profile's best size.", min=0)] = 0,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Compare every layer, and name the first that deviates.")
    ] = False,
    tolerance: Annotated[float | None, typer.Option(help=TOLERANCE, min=0, show_default=False)] = None,
    threads: Annotated[int, typer.Option(help="Maximum number of threads; 0: as built.", min=0)] = 0,
    device: Annotated[str, typer.Option(help=DEVICE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare a plan with its model. Exit code 1 if an output or a layer deviates beyond the tolerance.

    An INT8 plan is judged by the quantized graph in it (--portable), not by the float model, unless --tolerance is
    given.
    """
    from temper.cli.engines import random_feeds
    from temper.cli.files import is_plan, read_feeds
    from temper.cli.show import console, print_json
    from temper.debug.deviation import (
        bounds,
        coarseness,
        compare_layers,
        condition_bound,
        difference,
        exponentials,
        magnitude,
    )
    from temper.errors import ConfigError
    from temper.ir.evaluate import evaluate, evaluate_values
    from temper.ir.portable import from_bytes
    from temper.runtime.engine import Engine
    from temper.runtime.shapes import choose_profile, solve

    if not is_plan(plan) or is_plan(model):
        raise ConfigError("give the ONNX file first and the plan second: temper compare MODEL.onnx MODEL.plan")
    engine = Engine.load(plan, threads=threads or None, device=device)
    chosen = engine.report.get("int8", {})
    quantized = bool(chosen.get("int8", 0) or chosen.get("eights", 0))
    own = from_bytes(engine.plan.graph) if quantized and len(engine.plan.graph) else None
    if quantized and per_layer and own is None:
        raise ConfigError(
            "--per-layer compares an INT8 plan with its quantized graph, which this plan does not contain: build it "
            "with --portable"
        )
    given = read_feeds([s.name for s in engine.inputs], inputs or (), data)
    feeds = given or random_feeds(engine, batch, seed)
    names = [s.name for s in engine.outputs]
    ours = dict(zip(names, engine.run(feeds), strict=True))
    env = solve(engine.plan.inputs, tuple(feeds[b.name].shape for b in engine.plan.inputs))
    graph = _import(model, engine.plan, engine.profiles[choose_profile(engine.profiles, env)])
    arguments = exponentials(graph)
    values = evaluate_values(graph, feeds, [*graph.outputs, *arguments.values()])
    reference = {name: values[v.id] for name, v in zip(graph.output_names, graph.outputs, strict=True)}
    ops = {n.name: n.op for n in graph.nodes}
    peer, note = _onnxruntime(model, feeds, names)
    largest = {k: (ops[k], magnitude(values[v.id], v.type.dtype)) for k, v in arguments.items()}
    wide = bounds(engine.plan, largest)
    out: dict[str, Any] = {"random_inputs": not given, "notes": [note] if note else [], "outputs": []}
    if quantized and tolerance is None:
        out["notes"].append(
            f"this plan computes in 8 bits, which its build judged ({chosen['verdict']}): how far it is from the float "
            "model is shown, and judged only by --tolerance"
        )
    exact = None if own is None else dict(zip(names, evaluate(own, feeds), strict=True))
    for k, name in enumerate(names):
        dtype = engine.plan.outputs[k].dtype
        limit = wide.outputs[k]
        if peer is not None:
            apart = condition_bound(difference(peer[name], reference[name], dtype), dtype)
            limit = min(limit, apart * coarseness(engine.plan))
        if tolerance is not None:
            limit = tolerance
        pairs = [("temper", "reference", ours[name], reference[name])]
        if exact is not None:
            pairs.insert(0, ("temper", "quantized graph", ours[name], exact[name]))
        if peer is not None:
            pairs += [
                ("temper", "onnxruntime", ours[name], peer[name]),
                ("onnxruntime", "reference", peer[name], reference[name]),
            ]
        for left, right, a, b in pairs:
            d = difference(a, b, dtype)
            judged = left == "temper" and (not quantized or tolerance is not None or right == "quantized graph")
            out["outputs"].append(
                {
                    "output": name,
                    "of": left,
                    "against": right,
                    **d.as_dict(),
                    "tolerance": limit if judged or left != "temper" else None,
                    "deviates": judged and d.relative > limit,
                }
            )
    if per_layer:
        layers = compare_layers(_after_passes(own or graph, engine.plan), engine, feeds, wide, tolerance)
        out["layers"] = layers
        out["first_deviating_layer"] = next((x["name"] for x in layers if x["deviates"]), None)
    bad = any(x["deviates"] for x in [*out["outputs"], *out.get("layers", ())])
    if as_json:
        print_json(out)
    else:
        _print(console(), out)
    if bad:
        raise typer.Exit(1)


def _import(model: Path, plan: Plan, profile: Profile) -> Graph:
    """The model as the program of this profile was built from it: sizes the profile holds are constants. DataError if
    its inputs are not the plan's.
    """
    from temper.config import BuildConfig
    from temper.config import Profile as Ranges
    from temper.errors import DataError
    from temper.frontends.onnx.inputs import input_types
    from temper.plan.format import value_of
    from temper.profiles import resolve_sizes

    ends = [{name: r[end] for name, r in profile.symbols.items()} for end in range(3)]
    given = {b.name: b.shape for b in plan.inputs if all(isinstance(d, int) for d in b.shape)}
    types = input_types(model)
    have, want = sorted(types), sorted(b.name for b in plan.inputs)
    if have != want:
        raise DataError(
            f"the plan was not built from {model}: its inputs are {', '.join(want)} and the model's {', '.join(have)}"
        )
    ranges: dict[str, tuple[int, int, int]] = {}
    for b in plan.inputs:
        for d, stated in zip(types[b.name].shape, b.shape, strict=False) if b.name not in given else ():
            if str(d).isidentifier():
                low, best, high = (value_of(stated, env) for env in ends)
                ranges[str(d)] = low, best, high
    sizes = resolve_sizes(model, BuildConfig(profiles=(Ranges.of(**ranges),), shapes=given))  # type: ignore[arg-type]
    (fixed,) = sizes.groups()
    graph = sizes.graph_with(dict(fixed))
    if sorted(graph.output_names) != sorted(b.name for b in plan.outputs):
        raise DataError(
            f"the plan was not built from {model}: its outputs are {', '.join(b.name for b in plan.outputs)} "
            f"and the model's {', '.join(graph.output_names)}"
        )
    return graph


def _after_passes(graph: Graph, plan: Plan) -> Graph:
    """The graph the plan's regions were cut from: the same passes leave the same names."""
    from temper.passes.manager import run_passes
    from temper.passes.pipeline import PIPELINE

    run_passes(graph, PIPELINE, stop_after=plan.report.get("stop_after", ""), disable=plan.report.get("disable", ()))
    return graph


def _onnxruntime(
    model: Path, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[dict[str, np.ndarray] | None, str]:
    """ONNX Runtime's outputs by name, or None and why there are none."""
    from temper.peers import MissingPeer, OnnxRuntime

    try:
        run = OnnxRuntime().prepare(model, 1)
        return dict(zip(names, run(dict(feeds)), strict=True)), ""
    except MissingPeer as e:
        return None, f"not compared with ONNX Runtime ({e})"
    except (RuntimeError, ValueError, OSError) as e:
        return None, f"ONNX Runtime cannot run this model: {str(e).splitlines()[0]}"


def _verdict(row: Mapping[str, Any]) -> str:
    """Of a comparison that is judged; others have no word."""
    judged = row["of"] == "temper" and row["tolerance"] is not None
    return "DEVIATES" if row["deviates"] else "ok" if judged else ""


def _print(screen: Any, out: Mapping[str, Any]) -> None:
    from temper.cli.show import table

    for note in out["notes"]:
        screen.print(f"note: {note}", markup=False)
    if out["random_inputs"]:
        screen.print("inputs are random")
    screen.print(
        table(
            ("output", "of", "against", "max abs", "mean abs", "max / largest", "tolerance", ""),
            [
                (
                    x["output"],
                    x["of"],
                    x["against"],
                    f"{x['max_abs']:.3g}",
                    f"{x['mean_abs']:.3g}",
                    f"{x['relative']:.3g}",
                    "-" if x["tolerance"] is None else f"{x['tolerance']:.3g}",
                    x["note"] or _verdict(x),
                )
                for x in out["outputs"]
            ],
        )
    )
    if "layers" in out:
        screen.print(
            table(
                ("layer", "ops", "own error", "tolerance", "error so far", "", "tactic"),
                [
                    (
                        x["name"],
                        "+".join(x["ops"]),
                        f"{x['own']:.3g}",
                        f"{x['tolerance']:.3g}",
                        "-" if x["total"] is None else f"{x['total']:.3g}",
                        x["note"] or ("DEVIATES" if x["deviates"] else "ok"),
                        x["tactic"],
                    )
                    for x in out["layers"]
                ],
                title="layers: own error against the reference on the engine's own inputs; "
                "errors relative to the largest value",
            )
        )
        first = out["first_deviating_layer"]
        screen.print(f"the first layer that deviates is '{first}'" if first else "no layer deviates", markup=False)
