"""Attention of codes: every code level gives the reference's bits, and the reference is near attention of floats."""

from __future__ import annotations

import numpy as np
import pytest

from temper.compile.cc import ISAS
from temper.ir.dims import Dim
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.reference import REFERENCES
from temper.reference.attention import weight_codes
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.attention_int8 import AttentionInt8
from temper.tactics.epilogue import Epilogue
from tests.ops.cases import cases_of
from tests.tactics.kernels import Runner, f32

LEVELS = [name for name, isa in ISAS.items() if isa.needs <= cpu_flags()]
CASES = list(cases_of("AttentionInt8"))


def workload(arrays: list[np.ndarray | None], attrs: dict[str, object], isa: str) -> Workload:
    slots = tuple(None if a is None else Slot(TensorType(str(a.dtype), a.shape)) for a in arrays)
    out = TABLE["AttentionInt8"].infer([None if s is None else s.type for s in slots], attrs)[0]
    given = tuple(sorted(attrs.items()))
    identity = Epilogue.identity("float32", out.rank)
    return Workload("AttentionInt8", given, slots, (False,) * len(slots), (Slot(out),), identity, isa)  # type: ignore[arg-type]


def test_weights_are_codes_of_exponentials() -> None:
    x = np.linspace(-20, 0, 100_001, dtype=np.float32)
    codes = weight_codes(x)
    assert codes[-1] == 255 and codes[0] == 0 and (np.diff(codes) >= 0).all()
    assert np.abs(codes - 255 * np.exp(x.astype(np.float64))).max() < 0.5 + 0.03


@pytest.mark.parametrize("isa", LEVELS)
def test_bits_are_the_references(isa: str) -> None:
    for case in CASES[LEVELS.index(isa) :: 2]:
        arrays = case.arrays()
        attrs = dict(case.full_attrs)
        w = workload(arrays, attrs, isa)
        (want,) = REFERENCES["AttentionInt8"](arrays, attrs)
        params = AttentionInt8().candidates(w)
        (got,) = Runner(AttentionInt8(), w, params[len(case.name) % len(params)]).same_for_all_splits(arrays)
        assert got.tobytes() == want.tobytes(), f"{case.name}: {(got != want).sum()} of {got.size} differ"


@pytest.mark.parametrize("isa", LEVELS)
def test_extreme_codes_and_ties(isa: str) -> None:
    """Sums as large as 8 bits make them; equal scores; scores so far apart that one key has all the weight."""
    rng = np.random.default_rng(0)
    d, t = 68, 150
    q = rng.choice(np.array([-128, 127], np.int8), (1, 2, 33, d))
    k = np.full((1, 2, t, d), -128, np.int8)
    k[:, :, ::3] = 127
    k[:, :, 1::7] = 0
    v = rng.choice(np.array([-128, -127, 127], np.int8), (1, 2, t, 70))
    attrs = {"heads": 2, "kv_heads": 2, "layout": "hhhh", "causal": 0, "safe": 0, "zero_point": 0}
    run = Runner(AttentionInt8(), workload([q, k, v, None, np.float32(1).reshape(())], dict(attrs), isa))
    for scale in (1e-12, 3e-7, 1e-3):  # one kernel for all of them
        arrays = [q, k, v, None, np.array(scale, np.float32)]
        (want,) = REFERENCES["AttentionInt8"](arrays, attrs)
        (got,) = run.same_for_all_splits(arrays)
        assert got.tobytes() == want.tobytes()


def test_sizes_known_at_run_time() -> None:
    tokens = Dim.symbol("T")
    shapes = [(1, tokens, 24)] * 3
    attrs = {"heads": 3, "kv_heads": 3, "layout": "rrrr", "causal": 1, "safe": 0, "zero_point": 0}
    slots = [Slot(TensorType("int8", s)) for s in shapes]
    w = Workload(
        "AttentionInt8",
        tuple(sorted(attrs.items())),  # type: ignore[arg-type]
        (*slots, None, f32()),
        (False,) * 5,
        (f32(1, tokens, 24),),
        Epilogue.identity("float32", 3),
        LEVELS[0],
    )
    run = Runner(AttentionInt8(), w)
    rng = np.random.default_rng(1)
    for size in (1, 31, 97):
        codes = [rng.integers(-128, 128, (1, size, 24)).astype(np.int8) for _ in range(3)]
        arrays = [*codes, None, np.array(0.001, np.float32)]
        (want,) = REFERENCES["AttentionInt8"](arrays, attrs)
        assert run.same_for_all_splits(arrays, env={"T": size})[0].tobytes() == want.tobytes()


def test_near_attention_of_floats() -> None:
    """Codes of normal data: within 2 % of what floats give, where half of it is the codes' own rounding."""
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((1, 4, 96, 64), np.float32) for _ in range(3)]
    steps = [np.float32(np.abs(a).max() / 127) for a in x]
    codes = [np.rint(a / s).astype(np.int8) for a, s in zip(x, steps, strict=True)]
    attrs = {"heads": 4, "kv_heads": 4, "layout": "hhhh"}
    (want,) = REFERENCES["Attention"](x, {**attrs, "scale": 0.125})
    scale = np.array(0.125 * float(steps[0]) * float(steps[1]), np.float32)
    (got,) = REFERENCES["AttentionInt8"]([*codes, None, scale], attrs)
    error = np.sqrt(np.mean((got * steps[2] - want) ** 2) / np.mean(want**2))
    assert error < 0.02
