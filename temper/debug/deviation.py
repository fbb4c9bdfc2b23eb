"""How far two results are apart, how far they may be, and which layer is the first to be too far.

Errors are relative to the largest magnitude in the tensor (in a layer: also in the values it is computed from), since
float rounding scales with the terms of a sum, not with what is left after they cancel. Bounds are those of
tune/verify.py: a float32 dot product of n terms is off by about eps * sqrt(n) (Higham and Mary 2019), with the
constants 2 and 8 that verification uses, plus 4 eps for every further elementwise op, times the tactic's own error
factor (Winograd). A GPU may round operands of products to TF32, half or 8-bit floats: four units in the last place of
that type more. Through a network errors add up along the longest path. An exponential turns the absolute error of
its argument into a relative one, so it multiplies what comes in by its largest argument in the data at hand: twice for
Softmax, whose result depends on differences, a quarter for Sigmoid.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper.dtypes import CODED
from temper.errors import DataError
from temper.ir.evaluate import bind, evaluate_values, run_node
from temper.ir.graph import Graph, Node, Value
from temper.passes.host import TUNED_FOR
from temper.plan.format import Native, Plan, value_of
from temper.reference.formats import decode
from temper.runtime.engine import Engine
from temper.runtime.trace import trace

_EPS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "complex64": 2.0**-23,
    "complex128": 2.0**-52,
}
#: what rounding a product's operands to a narrower type adds, by what its workload's key says
_NARROW = (("float8", 2.0**-3), ("bfloat16", 2.0**-7), ("float16", 2.0**-10), ("|tf32", 2.0**-10))
_EXPONENTIAL = {"Softmax": 2.0, "Exp": 1.0, "Tanh": 1.0, "Sigmoid": 0.25}


@dataclass(frozen=True)
class Difference:
    """Errors of one tensor against another. relative: the largest one over the largest magnitude; for whole numbers the
    share that differs.
    """

    max_abs: float
    mean_abs: float
    relative: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"max_abs": self.max_abs, "mean_abs": self.mean_abs, "relative": self.relative, "note": self.note}


def as_float(array: np.ndarray, dtype: str) -> np.ndarray:
    """Values in float64 (complex128); types numpy lacks arrive as reference/formats.py has them."""
    if dtype in CODED and array.dtype == np.uint8:
        array = decode(array, dtype)
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def difference(got: np.ndarray, want: np.ndarray, dtype: str, scale: float = 0.0) -> Difference:
    """scale: a magnitude the error is relative to where it is above the wanted tensor's own."""
    if got.shape != want.shape:
        return Difference(math.inf, math.inf, math.inf, f"shape {list(got.shape)} instead of {list(want.shape)}")
    if not want.size:
        return Difference(0.0, 0.0, 0.0)
    if dtype not in _EPS:
        differ = got != want
        return Difference(
            float(differ.any()),
            float(np.mean(differ)),
            float(np.mean(differ)),
            f"{int(differ.sum())} values differ" if differ.any() else "",
        )
    a, b = as_float(got, dtype), as_float(want, dtype)
    finite = np.isfinite(a) & np.isfinite(b)
    same = finite | (np.isnan(a) & np.isnan(b)) | (a == b)
    if not same.all():
        return Difference(
            math.inf, math.inf, math.inf, f"{int((~same).sum())} values are not finite in only one of the two"
        )
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(a - b), 0.0)
    largest = max(magnitude(want, dtype), scale)
    worst = float(error.max())
    return Difference(worst, float(error.mean()), worst / largest if largest else (math.inf if worst else 0.0))


def magnitude(array: np.ndarray, dtype: str) -> float:
    """Largest finite magnitude; 0 for whole numbers and empty tensors."""
    if dtype not in _EPS or not array.size:
        return 0.0
    values = np.abs(as_float(array, dtype))
    return float(values.max(initial=0.0, where=np.isfinite(values)))


@dataclass(frozen=True)
class Bounds:
    """Relative error bounds.

    rows: of each region's own arithmetic.
    totals: of its result from the model's inputs on.
    outputs: of each output.
    """

    rows: tuple[float, ...]
    totals: tuple[float, ...]
    outputs: tuple[float, ...]


def exponentials(graph: Graph) -> dict[str, Value]:
    """The argument of every exponential of the imported graph, by node name."""
    return {n.name: n.inputs[0] for n in graph.nodes if n.op in _EXPONENTIAL and n.inputs[0] is not None}


def bounds(plan: Plan, arguments: Mapping[str, tuple[str, float]]) -> Bounds:
    """Bounds of a plan with a build report. arguments: op and largest argument of every exponential, by source node."""
    best = [defaultdict(lambda: TUNED_FOR, {s: opt for s, (_, opt, _) in p.symbols.items()}) for p in plan.profiles]
    own: list[float] = []
    totals: list[float] = []
    for r in plan.report.get("regions", []):
        incoming = max((totals[i] for i in r.get("inputs", [])), default=0.0)
        incoming *= max(
            [1.0, *(_EXPONENTIAL[op] * x for op, x in (arguments[o] for o in r["origin"] if o in arguments))]
        )
        narrow = 4 * rounded(r) if plan.device != "cpu" else 0.0
        own.append(narrow + _own(r, best[r.get("profile", 0)]))
        totals.append(incoming + own[-1])
    deepest = max(totals, default=_EPS["float32"])
    outputs = []
    for i, b in enumerate(plan.outputs):
        writers = [
            x.report
            for program in plan.programs
            for s in program
            if isinstance(s, Native)
            for x in s.launches
            for k in x.writes
            if x.args[k].kind == "output" and x.args[k].index == i
        ]
        limit = max((totals[w] for w in writers if 0 <= w < len(totals)), default=deepest)
        outputs.append(limit if b.dtype in _EPS else 0.0)
    return Bounds(tuple(own), tuple(totals), tuple(outputs))


def condition_bound(between_others: Difference, dtype: str) -> float:
    """Bound of an output's relative error from how far two other correct implementations are apart on the same data.

    Both round about as often, so their distance measures how much this network, on this data, magnifies rounding; the
    factor 100 leaves room for other orders of summation and Winograd, and 100 eps for distances that are small by luck.
    """
    return 100 * max(between_others.relative, _EPS[dtype]) if dtype in _EPS else 0.0


def _own(row: Mapping[str, Any], env: Mapping[str, int]) -> float:
    """Bound of one region's own arithmetic."""
    if row["tactic"] == "host" or not row.get("results"):
        return 4 * _EPS["float32"]
    _, dtype, shape, _, _ = row["results"][0]
    elements = max(1, math.prod(value_of(d, env) for d in shape))
    eps = max(_EPS.get(dtype, 0.0), _EPS["float32"] if dtype not in ("float64", "complex128") else 0.0)
    return eps * _factor(row["tactic"]) * (2 * math.sqrt(row["operations"] / elements) + 8 + 4 * len(row["nodes"]))


def rounded(row: Mapping[str, Any]) -> float:
    """What a region may lose by rounding operands of its products to a type narrower than float32; 0 for none."""
    return next((eps for name, eps in _NARROW if name in row["workload"]), 0.0)


def coarseness(plan: Plan) -> float:
    """How many times as much as float32's the coarsest rounding of a plan is."""
    rows = plan.report.get("regions", []) if plan.device != "cpu" else []
    return max([1.0, *(rounded(r) / _EPS["float32"] for r in rows)])


def _factor(label: str) -> float:
    """The error factor of the tactic with this label; 1 for one that states none, or that this Temper no longer has."""
    from temper.tactics.cpu.sources import cpu_tactics

    name, *pairs = label.split(" ")
    params = tuple((k, int(v)) for k, _, v in (p.partition("=") for p in pairs) if v.lstrip("-").isdigit())
    for tactic in cpu_tactics():
        if tactic.name == name and hasattr(tactic, "error_factor"):
            return float(tactic.error_factor(params))
    return 1.0


def compare_layers(
    graph: Graph, engine: Engine, feeds: Mapping[str, np.ndarray], limits: Bounds, tolerance: float | None
) -> list[dict[str, Any]]:
    """A row a layer, in order of execution: its own error, on the inputs the engine gave it, and the error of its
    result from the model's inputs on. DataError if the graph is not the one the plan was built from.
    """
    steps = list(trace(engine, feeds))
    traced = {name: (array, step.row) for step in steps for name, array in step.tensors.items()}
    by_name = {v.name: v for v in graph.values}
    if traced and not any(_base(name) in by_name for name in traced):
        raise DataError(
            "no layer of the plan is found in the model: it is another model, "
            "or the plan comes from another version of Temper"
        )
    whole = evaluate_values(graph, feeds, [by_name[_base(n)] for n in traced if _base(n) in by_name])
    own = _own_errors(graph, feeds, traced)
    rows = []
    for step in steps:
        r = engine.report["regions"][step.row]
        row: dict[str, Any] = {
            "name": step.name,
            "ops": r["nodes"],
            "tactic": r["tactic"],
            "own": 0.0,
            "total": None,
            "note": "",
            "deviates": False,
            "tolerance": limits.rows[step.row] if tolerance is None else tolerance,
        }
        if r["tactic"] == "host":
            row["note"] = "reference"
        for name, array in step.tensors.items():
            value = by_name.get(_base(name))
            if value is None:
                row["note"] = f"'{name}' is not in the model"
                continue
            dtype = value.type.dtype
            d = own[name]
            total = difference(array, whole[value.id], dtype)
            row["own"], row["note"] = max(row["own"], d.relative), row["note"] or d.note
            row["total"] = max(row["total"] or 0.0, total.relative)
            limit = row["tolerance"] if dtype in _EPS else 0.0
            row["deviates"] = row["deviates"] or d.relative > limit
        rows.append(row)
    return rows


def _base(name: str) -> str:
    """The value a copy made for memory's sake stands for."""
    return re.sub(r"\.copy(\.\d+)?$", "", name)


def _own_errors(
    graph: Graph, feeds: Mapping[str, np.ndarray], traced: Mapping[str, tuple[np.ndarray, int]]
) -> dict[str, Difference]:
    """Every traced tensor against the reference computed from traced tensors: an earlier layer's error is not counted
    again.
    """
    env = bind(graph, feeds)
    live: dict[int, np.ndarray] = {v.id: feeds[v.name] for v in graph.inputs}
    live.update((v.id, v.const) for v in graph.constants if v.const is not None)
    copies: dict[str, list[str]] = {}
    for name in traced:
        if _base(name) != name:
            copies.setdefault(_base(name), []).append(name)
    scales: dict[int, float] = {}
    out: dict[str, Difference] = {}

    def note(v: Value) -> None:
        for name in (v.name, *copies.get(v.name, ())):
            if name in traced and name not in out:
                out[name] = difference(
                    traced[name][0], live[v.id], v.type.dtype, scales.get(v.id, 0.0) if name == v.name else 0.0
                )
        if v.name in traced and traced[v.name][0].shape == live[v.id].shape:
            live[v.id] = traced[v.name][0]

    for v in graph.inputs:
        note(v)
    last = {v.id: k for k, n in enumerate(graph.nodes) for v in n.inputs if v is not None}
    for k, node in enumerate(graph.nodes):
        results = run_node(node, [None if v is None else live[v.id] for v in node.inputs], env)
        live.update((o.id, r) for o, r in zip(node.outputs, results, strict=True))
        reach = _reach(node, live, traced, scales)
        for o in node.outputs:
            scales[o.id] = max(reach, magnitude(live[o.id], o.type.dtype))
            note(o)
        for used in (*node.inputs, *node.outputs):
            if used is not None and last.get(used.id, k) <= k:
                live.pop(used.id, None)
    return out


def _reach(
    node: Node,
    live: Mapping[int, np.ndarray],
    traced: Mapping[str, tuple[np.ndarray, int]],
    scales: Mapping[int, float],
) -> float:
    """Largest magnitude among the values inside the layer that lead to `node`: sums may cancel, their rounding errors
    do not.
    """
    if node.op in ("Mul", "Div", "Clip", "Sigmoid", "Softmax", "Exp", "Tanh", "Erf"):
        return 0.0
    sizes: Sequence[float] = [
        scales.get(v.id, 0.0) if v.name not in traced else magnitude(live[v.id], v.type.dtype)
        for v in node.inputs
        if v is not None and v.const is None and v.id in live
    ]
    return (
        max(sizes, default=0.0)
        if node.op in ("Add", "Sub", "Sum", "Relu", "LeakyRelu") or node.op.startswith("Reduce")
        else 0.0
    )
