"""The checker of orders: byte ranges against sets of bytes, plans with planted faults, and every kind of program there
is, for CPUs and GPUs, with kernels chosen by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper import target
from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import VerificationError
from temper.plan.conflicts import Bytes, Step, Touch, program_faults, unordered
from temper.plan.format import Launch, Native, Plan
from temper.target import graph_order
from tests.conftest import all_integer, small_model
from tests.frontends.models import zoo
from tests.frontends.test_onnx_zoo import ZOO
from tests.fuzz.generate import Fuzzer
from tests.ops.cases import CASES
from tests.passes.nets import Net
from tests.runtime.cuda.nets import NETS, model
from tests.runtime.handmade import make_plan
from tests.tactics.regions import Variant, subjects
from tests.uncompiled import uncompiled

ARENA = ("arena", 0)


def plans(source: Any, folder: Path, seed: int = 0, **settings_: Any) -> list[Plan]:
    """For a GPU and for a CPU, with kernels chosen by chance."""
    made = []
    for device in ("cuda:sm_90", "cpu"):
        config = BuildConfig(device=device, effort=2, threads=2, cache=folder / f"{device[:4]}{seed}", **settings_)
        with uncompiled(seed):
            made.append(build_plan(source, config).plan)
    return made


def assert_sound(made: Sequence[Plan]) -> None:
    for plan in made:
        assert program_faults(plan, graph_order if plan.device == "cuda" else None) == []


# ---- bytes


@st.composite
def _bytes(draw: st.DrawFn) -> Bytes:
    width = draw(st.integers(0, 6))
    stride = draw(st.sampled_from([8, 8, 8, 12]))
    return Bytes(("arena", draw(st.integers(0, 1))), draw(st.integers(0, 40)), width, stride, draw(st.integers(0, 4)))


def _set(b: Bytes) -> set[int]:
    return {b.start + r * b.stride + k for r in range(b.rows) for k in range(b.width)}


@given(_bytes(), _bytes())
@settings(deadline=None, max_examples=300)
def test_meets_is_what_sets_of_bytes_say(a: Bytes, b: Bytes) -> None:
    want = a.memory == b.memory and bool(_set(a) & _set(b))
    exact = a.stride == b.stride or min(a.rows, b.rows) == 1
    assert a.meets(b) == want if exact else a.meets(b) >= want
    assert a.meets(b) == b.meets(a)


# ---- planted faults


def _step(name: str, reads: Sequence[Bytes], writes: Sequence[Bytes]) -> Step:
    own = [tuple(Touch(ARENA, b, b.start) for b in given) for given in (reads, writes)]
    return Step(name, -1, *own)


def test_a_piece_written_before_the_last_reader_of_its_memory_is_found() -> None:
    old, other = Bytes(ARENA, 0, 100), Bytes(ARENA, 200, 100)
    pieces = [_step(f"p{i}", [], [Bytes(ARENA, at, 10, 20, 5)]) for i, at in enumerate((0, 10))]
    steps = [_step("a", [], [old]), _step("b", [old], [other]), *pieces]
    assert unordered(steps, [[], [0], [1], [1]]) == []
    assert unordered(steps, [[], [0], [1], []]) == [
        "'b' reads and 'p1' writes bytes 10 to 100 of the arena, in no order",
        "'a' writes and 'p1' writes bytes 10 to 100 of the arena, in no order",
    ]


def test_pieces_that_overlap_are_found() -> None:
    steps = [_step("p", [], [Bytes(ARENA, 0, 11, 20, 5)]), _step("q", [], [Bytes(ARENA, 10, 10, 20, 5)])]
    assert len(unordered(steps, [[], []])) == 1


def test_launches_that_do_not_wait() -> None:
    plan = make_plan()
    ((segment,),) = plan.programs
    assert isinstance(segment, Native)
    assert program_faults(plan) == []
    mix, dense = segment.launches
    free = replace(plan, programs=((Native((mix, replace(dense, barrier=False))),),))
    assert any("'mix' writes and 'dense' reads" in f for f in program_faults(free))


def test_wrong_sources_are_found(tmp_path: Path) -> None:
    net = Net()
    x = net.input(1, 8, 6, 6)
    a, b = net.conv(x, 8, 3), net.conv(x, 8, 1)
    plan = plans(net.done(net("Mul", net.conv(a, 8, 3), net.conv(b, 8, 3))), tmp_path)[0]
    ((segment,),) = plan.programs
    assert isinstance(segment, Native)
    writer = next(x for x in segment.launches if any(x.args[k].kind == "arena" for k in x.writes))
    at_once = replace(plan.profiles[0], offsets=(0,) * len(plan.buffers))
    faults = program_faults(replace(plan, profiles=(at_once,)), graph_order)
    assert any("whose results it does not take" in f for f in faults) and any("overwrites what" in f for f in faults)
    late = replace(plan, programs=((Native((*(x for x in segment.launches if x is not writer), writer)),),))
    assert any("nothing has written" in f for f in program_faults(late, graph_order))


def _free(plan: Plan, unit: Any, profile: Any, env: Mapping[str, int], launches: Sequence[Launch]) -> list[list[int]]:
    return [[] for _ in launches]


def test_the_builder_refuses_a_plan_with_a_conflict(tmp_path: Path) -> None:
    net = Net()
    x = net.input(1, 8, 6, 6)
    graph = net.done(net.conv(net.conv(x, 8, 3), 8, 3))
    with patch.object(target, "graph_order", _free), pytest.raises(VerificationError, match="writes and '.+' reads"):
        plans(graph, tmp_path)


# ---- all kinds of programs


@given(st.integers(0, 1 << 30))
@settings(deadline=None, max_examples=12)
def test_random_programs(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Convolutional nets with concatenations, splits, residual sums and branches; batches known and not."""
    graph = Fuzzer(seed, 24).graph()
    ranges = {"profiles": (Profile.of(N=1), Profile.of(N=(1, 2, 5)))} if graph.inputs[0].type.symbols else {}
    assert_sound(plans(graph, tmp_path_factory.mktemp("random"), seed, **ranges))


@pytest.mark.parametrize("name", NETS)
def test_sizes_and_steps_that_depend_on_data(name: str, tmp_path: Path) -> None:
    made = plans(model(NETS[name][0]), tmp_path)
    assert_sound(made)
    if name in ("branched", "looped"):
        assert made[0].subs


def test_programs_of_the_case_library(tmp_path: Path) -> None:
    """Every sixteenth case, with elementwise steps behind it."""
    found = 0
    for case in (c for c in CASES[::16] if not c.op.endswith("Bfloat16")):  # which no model holds
        graphs = {id(s.graph): s.graph for s in subjects(case, "cuda:sm_90", Variant(program=True))}
        for graph in graphs.values():
            found += 1
            assert_sound(plans(graph, tmp_path, found))
    assert found > 30


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_narrow_programs(precision: str, tmp_path: Path) -> None:
    """Residual blocks for four batches, each a program of its own that shares one arena."""
    source, own = small_model("N", blocks=3).SerializeToString(), BuildConfig(device="cuda:sm_90", effort=0)
    with uncompiled(5):
        recipe = all_integer(source, own) if precision == "int8" else None
        config = replace(
            own, effort=2, precision="fp16", profiles=tuple(Profile.of(N=n) for n in (1, 3, 8, 32)),
            cache=tmp_path / "times",
        )  # fmt: skip
        plan = build_plan(source, config, quantize=recipe).plan
    assert_sound([plan])


@pytest.mark.parametrize("name", ZOO)
def test_trained_models(name: str, tmp_path: Path) -> None:
    if (folder := zoo()) is None:
        pytest.skip("there is no zoo: set TEMPER_ZOO to its folder")
    sizes = {"p2o_DynamicDimension_1": 48, "p2o_DynamicDimension_2": 192} if name == "ppocr_cls" else {}
    profiles = (Profile.of(**sizes),) if sizes else ()
    assert_sound(plans(folder / "models" / f"{name}.onnx", tmp_path, profiles=profiles))
