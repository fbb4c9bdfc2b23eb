"""Names what changes an output: an operator's meaning, a pass, a rule and the node it was applied to, a region's
kernel, a tactic, or the memory plan.

The model goes the way of a build, and after every step is evaluated again: the imported graph by the numpy references
(beside ONNX Runtime, node by node), the graph after every pass by the references, then each compiled kernel alone on
the region's real inputs beside the reference, then the engine as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from temper.config import BuildConfig
from temper.debug.extract import Case, Subject
from temper.debug.judge import Row, build_for, imported, rows, tolerances
from temper.debug.regions import Kernels, faulty_region, first_wrong_layer
from temper.errors import DataError, ShapeError, TemperError, VerificationError
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.text import to_text
from temper.ir.verify import verify
from temper.passes.manager import Log, Pass
from temper.passes.pipeline import PIPELINE

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """What changes an output.

    kind: "operator", "pass", "rule", "region", "tactic" or "engine".
    name: of the op, pass, rule, region, tactic.
    layer: the node or region it happens at.
    origin: the source nodes concerned.
    relative, tolerance, worst: as of `Row`; for a kernel, worst is what its own check says.
    disable: option of `temper build` that does without it; "" if there is none.
    candidates: of a region, every kernel looked at, best predicted first, and "ok" or what is wrong.
    """

    kind: str
    name: str
    layer: str
    worst: str
    origin: tuple[str, ...] = ()
    relative: float | None = None
    tolerance: float | None = None
    disable: str = ""
    candidates: tuple[tuple[str, str], ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """One sentence."""
        what = {
            "operator": f"the meaning of {self.name} at node '{self.layer}' is not ONNX Runtime's",
            "pass": f"the pass '{self.name}' changes an output",
            "rule": f"the rule '{self.name}' changes an output where it is applied to '{self.layer}'",
            "region": f"every kernel of the region '{self.layer}' ({self.name}) is wrong on its real inputs",
            "tactic": f"the tactic '{self.name}' is wrong on the real inputs of the region '{self.layer}'",
            "engine": f"the engine is wrong from the layer '{self.layer}' on, though its kernel alone is right: "
            "the memory plan or the schedule is at fault",
        }[self.kind]
        return f"{what} ({self.worst})"


@dataclass(frozen=True)
class Bisection:
    """stages: what was looked at, in order, and what came of it. finding: None if no output deviates."""

    stages: tuple[str, ...]
    finding: Finding | None


def bisect(
    case: Case,
    *,
    config: BuildConfig | None = None,
    tolerance: float | None = None,
    peer: bool = True,
    passes: Sequence[Pass] = PIPELINE,
    progress: Progress = lambda text: None,
) -> Bisection:
    """The first step of a build that changes an output of this model on these inputs.

    config: threads, effort, code level and what is disabled.
    tolerance: relative to an output's largest value; by default derived (see `tolerances`).
    peer: compare with ONNX Runtime first, where it is installed.
    """
    config = config or BuildConfig(threads=1)
    stages: list[str] = []

    def tell(text: str) -> None:
        stages.append(text)
        progress(text)

    graph = imported(case.model, case.feeds)
    feeds = {v.name: case.feeds[v.name] for v in graph.inputs}
    want = evaluate(graph, feeds)
    limits = tolerances(graph, feeds, tolerance)

    def deviation(other: Graph) -> Row | None:
        return _worst(rows(graph, evaluate(other, feeds), want, limits))

    if peer:
        found = _operator(case, graph, feeds, want, limits, tell)
        if found is not None:
            return Bisection(tuple(stages), found)
    found, after = _passes(graph, passes, config.disable, deviation, tell)
    if found is not None:
        return Bisection(tuple(stages), found)
    found = _compiled(case, graph, after, feeds, want, limits, config, tell)
    return Bisection(tuple(stages), found)


def _worst(found: Sequence[Row]) -> Row | None:
    bad = [r for r in found if r.deviates]
    return max(bad, key=lambda r: r.relative) if bad else None


def _operator(
    case: Case,
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    want: Sequence[np.ndarray],
    limits: Mapping[str, float],
    tell: Progress,
) -> Finding | None:
    """The first node whose reference, on ONNX Runtime's inputs, is not ONNX Runtime's result."""
    from temper.debug.extract import by_onnxruntime  # the values of this very engine, no other
    from temper.debug.judge import onnxruntime_outputs

    try:
        other = onnxruntime_outputs(case.model, feeds, graph.output_names)
    except DataError as e:
        tell(f"import: not compared: {e}")
        return None
    bad = _worst(rows(graph, want, other, limits))
    if bad is None:
        tell("import: the references agree with ONNX Runtime")
        return None
    tell(f"import: the references differ from ONNX Runtime: {bad}")
    inner = by_onnxruntime(case)
    subject = Subject(case)
    if isinstance(inner, dict):
        subject.values = inner
        for i, node in enumerate(subject.nodes):
            part = subject.cut([i])
            if part is None:
                continue
            try:
                own = imported(part.model, part.feeds)
                given = {v.name: part.feeds[v.name] for v in own.inputs}
                got = evaluate(own, given)
                row = _worst(rows(own, got, [inner[n] for n in own.output_names], tolerances(own, given, None)))
            except (TemperError, KeyError) as e:
                tell(f"import: node '{node.name or node.output[0]}' cannot be looked at alone: {e}")
                continue
            if row is not None:
                name = node.name or node.output[0]
                return Finding("operator", node.op_type, name, row.worst, (name,), row.relative, row.tolerance)
    return Finding("operator", "the model", graph.name, bad.worst, (), bad.relative, bad.tolerance)


def _passes(
    graph: Graph,
    passes: Sequence[Pass],
    disable: Sequence[str],
    deviation: Callable[[Graph], Row | None],
    tell: Progress,
) -> tuple[Finding | None, Graph]:
    """The first pass after which an output deviates, and the graph as far as the passes got."""
    current, seen = graph.copy(), graph.hash()
    for p in passes:
        if p.name in disable:
            tell(f"pass {p.name}: disabled")
            continue
        before, log = current.copy(), Log(disabled=frozenset(disable))
        try:
            p.run(current, log)
            verify(current)
        except TemperError as e:
            tell(f"pass {p.name}: {type(e).__name__}: {e}")
            return Finding("pass", p.name, graph.name, str(e), disable=f"--disable {p.name}"), before
        if (state := current.hash()) == seen:
            tell(f"pass {p.name}: changes nothing")
            continue
        seen = state
        bad = deviation(current)
        tell(f"pass {p.name}: {len(log.applied)} applications; " + ("outputs agree" if bad is None else str(bad)))
        if bad is not None:
            return _application(p, before, current, log, bad, disable, deviation), current
    return None, current


class _Enough(Exception):
    """A limited number of applications has been made."""


@dataclass
class _LimitedLog(Log):
    """Ends a pass after so many applications."""

    limit: int = 0

    def did(self, rule: str, node: str) -> None:
        super().did(rule, node)
        if len(self.applied) >= self.limit:
            raise _Enough


def _application(
    p: Pass,
    before: Graph,
    after: Graph,
    log: Log,
    bad: Row,
    disable: Sequence[str],
    deviation: Callable[[Graph], Row | None],
) -> Finding:
    """The first of a pass's applications after which an output deviates; the pass where they cannot be told apart."""

    def limited(count: int) -> Graph | None:
        """The graph after `count` applications; None where the pass cannot stop there."""
        g = before.copy()
        if count:
            try:
                p.run(g, _LimitedLog(disabled=frozenset(disable), limit=count))
            except _Enough:
                g.prune()
            try:
                verify(g)
            except (VerificationError, ShapeError):
                return None
        return g

    whole = Finding(
        "pass", p.name, before.name, bad.worst, (), bad.relative, bad.tolerance, f"--disable {p.name}",
        texts={"before.txt": to_text(before), "after.txt": to_text(after)},
    )  # fmt: skip
    if not log.applied or deviation(before.copy()) is not None:
        return whole
    low, high, worst = 0, len(log.applied), bad
    while high - low > 1:
        middle = (low + high) // 2
        g = limited(middle)
        if g is None:
            return whole
        row = deviation(g)
        if row is None:
            low = middle
        else:
            high, worst = middle, row
    good, wrong = limited(low), limited(high)
    if good is None or wrong is None or deviation(wrong) is None:  # what deviates happens after the last application
        return whole
    rule, node = log.applied[high - 1]
    source = {n.name: n for n in good.nodes}
    origin = (
        tuple(o for o in source[node].origin if not o.startswith("rule:")) or (node,) if node in source else (node,)
    )
    return Finding(
        "rule", rule, node, worst.worst, origin, worst.relative, worst.tolerance, f"--disable {rule}",
        texts={"before.txt": to_text(good), "after.txt": to_text(wrong)},
    )  # fmt: skip


def _compiled(
    case: Case,
    graph: Graph,
    after: Graph,
    feeds: Mapping[str, np.ndarray],
    want: Sequence[np.ndarray],
    limits: Mapping[str, float],
    config: BuildConfig,
    tell: Progress,
) -> Finding | None:
    """What is wrong with the engine: a kernel on real inputs, or the way kernels are put together."""
    from temper.runtime.engine import Engine

    build = build_for(case.model, case.feeds, config=config)
    engine = Engine(build.plan)
    bad = _worst(rows(graph, engine.run(feeds), want, limits))
    if bad is None:
        tell("engine: its outputs agree with the references")
        return None
    tell(f"engine: {bad}")
    found: Kernels | None = faulty_region(build, feeds, config)
    if found is not None:
        tell(f"region {found.region.name}: its kernel alone is wrong on its real inputs")
        right = [label for label, text in found.candidates if text == "ok"]
        return Finding(
            "tactic" if right else "region",
            found.chosen.tactic.name if right else found.region.op,
            found.region.name,
            found.wrong,
            found.region.origin,
            bad.relative,
            bad.tolerance,
            f"--disable {found.chosen.tactic.name}" if right else "",
            found.candidates,
            {"kernel.c": found.chosen.kernel.source},
        )
    tell(f"regions: all {len(build.parts)} are right alone on their real inputs")
    layer, worst, origin = first_wrong_layer(after, engine, feeds)
    return Finding("engine", graph.name, layer, worst or bad.worst, origin, bad.relative, bad.tolerance)


def part_of(case: Case, finding: Finding, still: Callable[[Case], bool]) -> Case:
    """The part of the model around a finding, if the fault shows there as well; else the whole model."""
    if finding.kind in ("operator", "tactic", "region", "rule") and finding.origin:
        part = Subject(case).of_names(finding.origin)
        if part is not None and still(part):
            return part
    return case


def as_dict(found: Bisection) -> dict[str, Any]:
    """For JSON."""
    f = found.finding
    if f is None:
        return {"stages": list(found.stages), "finding": None}
    fields = {k: getattr(f, k) for k in ("kind", "name", "layer", "worst", "relative", "tolerance", "disable")}
    shown = [{"kernel": label, "result": text} for label, text in f.candidates]
    return {
        "stages": list(found.stages),
        "finding": {**fields, "text": f.text, "origin": list(f.origin), "candidates": shown},
    }
