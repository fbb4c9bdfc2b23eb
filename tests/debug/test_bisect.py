"""Seeded faults are found where they were put: in an operator, a rule, a pass, a tactic, a kernel, and the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import temper.reference
from temper.builder import build_plan
from temper.config import BuildConfig
from temper.debug.bisect import bisect, part_of
from temper.debug.extract import Case
from temper.debug.judge import build_for, imported
from temper.debug.regions import first_wrong_layer
from temper.errors import ConfigError
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import Any_, Match, Rule, op, rules_pass
from temper.plan.format import Native
from temper.runtime.engine import Engine
from temper.tactics.base import Kernel, Params, Tactic, Workload
from temper.tactics.cpu.sources import cpu_tactics
from tests.commands import Run
from tests.debug.models import chain, perceptron


@pytest.fixture(autouse=True)
def own_cache(timing_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(timing_cache))


def same(name: str, pattern: str, count: int = 1) -> Rule:
    """OP(OP(..x)) -> x: right or wrong, as the op may be."""
    inner = op(pattern, Any_("x")) if count == 1 else op(pattern, op(pattern, Any_("x")))

    def rewrite(graph: Graph, m: Match) -> Value:
        return m["x"]

    return Rule(name, inner, rewrite)


def test_nothing_is_wrong() -> None:
    found = bisect(perceptron())
    assert found.finding is None
    assert found.stages[0].startswith("import: the references agree")
    assert found.stages[-1] == "engine: its outputs agree with the references"


def test_a_wrong_rule_and_where_it_was_applied() -> None:
    right, wrong = same("neg-neg", "Neg", 2), same("no-abs", "Abs")
    passes = (rules_pass("before", ()), rules_pass("seeded", (right, wrong)))
    case = chain("Neg", "Neg", "Exp", "Neg", "Neg", "Abs", "Neg", "Abs", "Sigmoid")
    found = bisect(case, passes=passes, peer=False)
    f = found.finding
    # Exp is positive, so the first Abs may go; the second, of a negative number, may not
    assert f is not None and (f.kind, f.name, f.layer) == ("rule", "no-abs", "Abs_7")
    assert f.disable == "--disable no-abs" and f.origin == ("Abs_7",)
    assert f.relative is not None and f.tolerance is not None and f.relative > 100 * f.tolerance
    assert "worst at" in f.worst and "Abs" in f.texts["before.txt"]
    assert any(s.startswith("pass before: changes nothing") for s in found.stages)


def test_a_disabled_rule_is_not_applied() -> None:
    passes = (rules_pass("seeded", (same("no-abs", "Abs"),)),)
    config = BuildConfig(threads=1, disable=("no-abs",))
    case = chain("Neg", "Abs", "Neg")
    assert bisect(case, passes=passes, peer=False).finding is not None
    with pytest.raises(ConfigError, match="no-abs"):  # the build that follows knows no such rule
        bisect(case, passes=passes, peer=False, config=config)


def test_a_pass_that_says_nothing_is_named_whole() -> None:
    def run(graph: Graph, log: Log) -> None:
        for n in graph.nodes:
            if n.op == "Abs":
                graph.replace_uses(n.output, make(graph, "Neg", [n.inputs[0]]).output)
        graph.prune()

    found = bisect(chain("Exp", "Abs", "Sigmoid"), passes=(Pass("silent", run),), peer=False).finding
    assert found is not None and (found.kind, found.name, found.disable) == ("pass", "silent", "--disable silent")


def test_a_wrong_reference_is_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(arrays: Sequence[np.ndarray | None], attrs: Mapping[str, object]) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.tanh(arrays[0])]

    monkeypatch.setattr(temper.reference, "REFERENCES", {**temper.reference.REFERENCES, "Sigmoid": wrong})
    found = bisect(perceptron()).finding
    assert found is not None and (found.kind, found.name, found.layer) == ("operator", "Sigmoid", "gate")


class Careless:
    """Relu that stops growing at 100, which random data never reaches: its check at tuning finds nothing."""

    name = "test.careless"
    ops = frozenset({"Pointwise"})

    def accepts(self, w: Workload) -> str | None:
        return None if [i.op for i in w.epilogue.instrs] == ["Relu"] else "computes Relu only"

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 0.0

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        count = w.outputs[0].type.count
        source = f"""#include <stdint.h>
        __attribute__((visibility("default")))
        void {entry}(void *const *p, const int64_t *v, int32_t part, int32_t parts) {{
            const float *x = p[0]; float *y = p[1]; (void)v;
            for (int64_t i = part; i < {count}; i += parts)
                y[i] = x[i] > 100 ? 100 : x[i] > 0 ? x[i] : 0;
        }}"""
        return Kernel(source, (entry,), (("operand", 0), ("output", 0)), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Case:
    """The tactic among the others, and data that reaches its fault at one element."""

    def tactics() -> tuple[Tactic, ...]:
        return (*cpu_tactics(), Careless())

    monkeypatch.setattr("temper.target.cpu_tactics", tactics)
    monkeypatch.setattr("temper.debug.regions.cpu_tactics", tactics)
    case = chain("Relu", "ReduceSum", "Neg")
    case.feeds["x"][2, 3] = 500
    for d in case.model.graph.output[0].type.tensor_type.shape.dim:
        d.dim_value = 1
    return case


def test_a_wrong_tactic_and_the_right_ones(careless: Case) -> None:
    found = bisect(careless, config=BuildConfig(threads=1, effort=0)).finding
    assert found is not None and (found.kind, found.name) == ("tactic", "test.careless")
    assert found.disable == "--disable test.careless" and "got 100" in found.worst
    results = dict(found.candidates)
    assert results["cpu.pointwise"] == "ok" and "differ" in results["test.careless"]
    assert "x[i] > 100" in found.texts["kernel.c"]
    again = bisect(careless, config=BuildConfig(threads=1, effort=0, disable=("test.careless",)))
    assert again.finding is None
    untimed = BuildConfig(threads=1, effort=0)
    part = part_of(careless, found, lambda p: bisect(p, config=untimed).finding is not None)
    assert [n.op_type for n in part.model.graph.node] == ["Relu"]


def test_a_region_without_a_right_kernel(careless: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def tactics() -> tuple[Tactic, ...]:
        return (*(t for t in cpu_tactics() if t.name != "cpu.pointwise"), Careless())

    monkeypatch.setattr("temper.target.cpu_tactics", tactics)
    monkeypatch.setattr("temper.debug.regions.cpu_tactics", tactics)
    found = bisect(careless, config=BuildConfig(threads=1, effort=0)).finding
    assert found is not None and found.kind == "region" and not found.disable


def test_an_engine_wrong_as_a_whole() -> None:
    """Constants are damaged in the plan: kernels alone, with their own, are right."""
    from dataclasses import replace

    case = perceptron()
    build = build_for(case.model, case.feeds)
    constants = bytearray(build.plan.constants)
    broken = [x for s in build.plan.programs[0] if isinstance(s, Native) for x in s.launches if x.name == "second"]
    for a in broken[0].args:
        if a.kind == "const":
            assert isinstance(a.offset, int)
            np.frombuffer(constants, np.float32, 16, a.offset)[...] *= np.float32(1.5)
    engine = Engine(replace(build.plan, constants=bytes(constants)))
    layer, worst, origin = first_wrong_layer(build.graph, engine, case.feeds)
    assert layer == "second" and "second" in origin and "tolerance" in worst
    assert first_wrong_layer(build.graph, Engine(build.plan), case.feeds)[0] == "the end"


def test_builds_without_what_is_named(small_onnx: Path, timing_cache: Path) -> None:
    def build(*names: str) -> Engine:
        return Engine(build_plan(small_onnx, BuildConfig(effort=0, cache=timing_cache, disable=names)).plan)

    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    plain, without = build(), build("layout", "cpu.pool")
    assert np.allclose(plain(x), without(x), atol=1e-5)
    assert "layout" not in {name for name, _ in without.report["applied"]}
    assert ["layout", "small", "disabled"] in without.report["declined"]
    assert all(not r["tactic"].startswith("cpu.pool") for r in without.report["regions"])
    with pytest.raises(ConfigError, match="cannot disable nonsense"):
        build("nonsense")


def test_command_line(temper: Run, careless: Case, tmp_path: Path) -> None:
    onnx.save(careless.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **careless.feeds)
    args = ("debug", "bisect", tmp_path / "m.onnx", "--data", tmp_path / "x.npz")
    done = temper(*args, "-o", tmp_path / "repro")
    assert done.code == 1 and "test.careless" in done.out and "temper build" in done.out
    assert {p.name for p in (tmp_path / "repro").iterdir()} >= {"model.onnx", "inputs.npz", "kernel.c", "README.txt"}
    readme = (tmp_path / "repro" / "README.txt").read_text()
    assert "cpu.pointwise: ok" in readme and "debug bisect model.onnx --data inputs.npz" in readme
    assert len(onnx.load(tmp_path / "repro" / "model.onnx").graph.node) == 1
    said = json.loads(temper(*args, "--json").out)
    assert said["finding"]["name"] == "test.careless"
    done = temper(*args, "--disable", "test.careless")
    assert done.code == 0 and "no output deviates" in done.out
    plan = temper("build", tmp_path / "m.onnx", "-o", tmp_path / "p.plan", "--disable", "test.careless", "-q")
    assert plan.code == 0, plan.err


def test_a_missing_input_is_named() -> None:
    case = perceptron()
    assert imported(case.model, case.feeds).inputs
    from temper.errors import DataError

    with pytest.raises(DataError, match="x"):
        bisect(Case(case.model, {}))


def test_guessed_sizes_are_told(temper: Run, dynamic_onnx: Path) -> None:
    done = temper("debug", "check", dynamic_onnx)
    assert done.code == 0 and "the sizes N are taken as 1" in done.err
    done = temper("debug", "check", dynamic_onnx, "--shape", "image=3x3x12x12")
    assert done.code == 0 and "taken as 1" not in done.err


def test_draws_without_a_seed_cannot_be_compared() -> None:
    from temper.errors import DataError

    case = chain("Relu", "RandomNormalLike", "Neg")
    with pytest.raises(DataError, match="RandomNormalLike_1"):
        bisect(case)
    case.model.graph.node[1].attribute.append(onnx.helper.make_attribute("seed", 3.0))
    assert bisect(case, peer=False).finding is None
