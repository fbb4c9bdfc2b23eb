"""Products of codes whose epilogues are not exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from temper.builder import build_plan, float_graph
from temper.compile.cc import ISAS
from temper.config import BuildConfig, Profile
from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate
from temper.ir.types import TensorType
from temper.quantize.placement import sites_of
from temper.quantize.recipe import Recipe
from temper.runtime.engine import Engine
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.int8 import GemmInt8
from temper.tactics.cpu.parabolas import BENDS
from temper.tactics.epilogue import Epilogue, Instr, Operand
from tests.passes.nets import Net
from tests.tactics.kernels import Runner

_LEVELS = [name for name, isa in ISAS.items() if isa.needs <= cpu_flags()]


#: name of the bend: op, attributes
_BENT: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "v_gelu": ("Gelu", (("approximate", "none"),)),
    "v_gelu_tanh": ("Gelu", (("approximate", "tanh"),)),
    "v_silu": ("Silu", ()),
}


@pytest.mark.parametrize("isa", _LEVELS)
@pytest.mark.parametrize(("step", "zero", "other"), [(0.04, 7, 0.02), (0.002, 145, 0.2)])
@pytest.mark.parametrize("name", _BENT)
def test_bent_before_codes(name: str, step: float, zero: int, other: float, isa: str) -> None:
    """Accumulators in steps of 1/512 from -10 to 10 through GELU and the like to codes of all positive results, and of
    nearly the smallest size that all negative ones fit: never two codes away, and rounded otherwise than the exact
    function's in few places."""
    rows = 9728
    a = np.stack([np.arange(rows) // 128 - 38, np.arange(rows) % 128], axis=1).astype(np.int8)
    b = np.array([[127, 127], [1, 1]], np.int8)
    unit = np.float32(10 / (38 * 127))
    scalar = (False, False)
    to = (("to", "uint8"), ("zero_point", zero))
    op, attrs = _BENT[name]
    instrs = (
        Instr("Cast", (0,), "float32", (("to", "float32"),)),
        Instr("Mul", (3, 1), "float32"),
        Instr(op, (4,), "float32", attrs),
        Instr("Div", (5, 2), "float32"),
        Instr("Saturate", (6,), "uint8", to),
    )
    operands = (Operand("int32", (True, True)), Operand("float32", scalar), Operand("float32", scalar))
    w = Workload(
        "MatMulInt8",
        (("zero_point", 0),),
        (Slot(TensorType("int8", a.shape)), Slot(TensorType("int8", b.shape))),
        (False, True),
        (Slot(TensorType("uint8", (rows, 2))),),
        Epilogue(operands, instrs, (7,)),
        isa,
    )
    runner = Runner(GemmInt8(), w)
    (got,) = runner.same_for_all_splits([a, b], [None, np.array([[unit]]), np.array([[step]], np.float32)])
    x = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32) * unit
    codes = np.vectorize(BENDS[name].function)(x.astype(np.float64)) / np.float64(np.float32(step)) + zero
    assert ((codes > 0) & (codes < 255)).sum() > 2000
    assert np.abs(got - np.clip(codes, 0, 255)).max() < 1.2
    assert (got != np.clip(np.rint(codes), 0, 255)).mean() < other


@pytest.mark.parametrize("isa", _LEVELS)
def test_long_sums_whose_results_come_late(isa: str) -> None:
    """Products long enough that results of a tile are made between those of the next; several blockings, rows and
    columns that fill no last tile; codes, and floats as a second result."""
    rng = np.random.default_rng(3)
    m, k, n = 61, 1032, 150
    a, b = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-127, 128, (k, n)).astype(np.int8)
    unit, bias = rng.uniform(1e-5, 3e-4, (1, n)).astype(np.float32), rng.standard_normal((1, n)).astype(np.float32)
    channel = (False, True)
    instrs = (
        Instr("Cast", (0,), "float32", (("to", "float32"),)),
        Instr("Mul", (3, 1), "float32"),
        Instr("Add", (4, 2), "float32"),
        Instr("Saturate", (5,), "int8", (("to", "int8"), ("zero_point", 0))),
    )
    operands = (Operand("int32", (True, True)), Operand("float32", channel), Operand("float32", channel))
    floats = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32) * unit + bias
    codes = np.clip(np.rint(floats), -128, 127).astype(np.int8)
    for results, want in (((6,), [codes]), ((6, 5), [codes, floats]), ((5,), [floats])):
        w = Workload(
            "MatMulInt8",
            (("zero_point", 0),),
            (Slot(TensorType("uint8", a.shape)), Slot(TensorType("int8", b.shape))),
            (False, True),
            tuple(Slot(TensorType(str(y.dtype), y.shape)) for y in want),
            Epilogue(operands, instrs[: 4 if results[0] == 6 else 3], results),
            isa,
        )
        candidates = GemmInt8().candidates(w)
        for params in candidates[:: max(1, len(candidates) // 2)]:
            got = Runner(GemmInt8(), w, params).same_for_all_splits([a, b], [None, unit, bias])
            for x, y in zip(got, want, strict=True):
                assert x.tobytes() == y.tobytes(), params


def test_a_width_known_at_run_time_takes_what_was_chosen_for_one_that_packs() -> None:
    """At the tuned width kernel rows of three channels are runs of bytes, and K is shorter."""
    net = Net(1)
    image = net.input(1, 3, Dim.symbol("H"), Dim.symbol("W"))
    net.graph.set_outputs([net("Relu", net.conv(image, 16, 7, stride=4, pad=3))], ["y"])
    config = BuildConfig(effort=0, threads=1, profiles=(Profile.of(H=(32, 64, 128), W=(32, 64, 128)),))
    graph = float_graph(net.graph, config)
    recipe = Recipe(frozenset(s.name for s in sites_of(graph)), {v.name: 3.0 for v in graph.values if v.const is None})
    build = build_plan(net.graph, config, quantize=recipe)
    assert "cpu.conv_int8" in {str(r["tactic"]).split()[0] for r in build.plan.report["regions"]}
    for shape in ((1, 3, 64, 64), (1, 3, 40, 57)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(Engine(build.plan)(x), evaluate(build.graph, {"x": x})[0])
