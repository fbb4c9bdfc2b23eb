"""Squeeze-excite in one kernel: both forms against the reference, tails, views, symbolic sizes, any number of
shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from temper.ir.dims import Dim, evaluate
from temper.ir.types import TensorType
from temper.reference import REFERENCES
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.squeeze_excite import SqueezeExcite
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, assert_close, bias_relu_scale, f32

rng = np.random.default_rng(11)

#: image, channels, hidden, features
SHAPES = [
    (7, 7, 48, 12, 48),
    (1, 1, 16, 4, 16),
    (5, 3, 21, 7, 33),
    (20, 19, 3, 1, 5),
    (4, 4, 200, 37, 200),
    (2, 2, 130, 65, 70),
]


def workload(
    shape: tuple[int | Dim, int | Dim, int, int, int],
    isa: str = "avx512",
    *,
    n: int | Dim = 2,
    e: Epilogue | None = None,
    xs: int | None = None,
    os: int | None = None,
    bias: bool = True,
    threads: int = 1,
    **attrs: Any,
) -> Workload:
    h, w, c, r, f = shape
    named = {
        "activation": "Silu",
        "gate": "Sigmoid",
        "gate_alpha": 1 / 6,
        "gate_beta": 0.5,
        "channels_last": 1,
        **attrs,
    }
    e = e or Epilogue.identity("float32", 4)
    biases = (f32(r), f32(f)) if bias else (None, None)
    ins = (f32(n, h, w, c, stride=xs), f32(c, r), biases[0], f32(r, f), biases[1])
    outs = tuple(f32(n, 1, 1, f, stride=os if k == 0 else None) for k in range(len(e.results)))
    constant = (False, True, bias, True, bias)
    return Workload("SqueezeExcite", tuple(sorted(named.items())), ins, constant, outs, e, isa, threads)


def arrays(w: Workload, env: Mapping[str, int]) -> list[np.ndarray | None]:
    out: list[np.ndarray | None] = []
    for s in w.inputs:
        if s is None:
            out.append(None)
            continue
        shape = tuple(evaluate(d, env) for d in s.type.shape)
        scale = shape[0] ** -0.5 if len(shape) == 2 else 1.0
        out.append((rng.standard_normal(shape) * scale * 2).astype(np.float32))
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[int, int, int, int, int], split: int, isa: str) -> None:
    w = workload(shape, isa, bias=shape[2] != 48)
    ins = arrays(w, {})
    (got,) = Runner(SqueezeExcite(), w, (("split", split),)).same_for_all_splits(ins)
    (want,) = REFERENCES["SqueezeExcite"](ins, dict(w.attrs))
    assert_close(got, want, 16, 2e-6)


@pytest.mark.parametrize("activation", ["Relu", "Silu", "HardSwish"])
@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_functions(activation: str, gate: str) -> None:
    for alpha in (1 / 6, 0.2):
        w = workload((3, 5, 40, 10, 40), activation=activation, gate=gate, gate_alpha=alpha)
        ins = arrays(w, {})
        (got,) = Runner(SqueezeExcite(), w)(ins)
        assert_close(got, REFERENCES["SqueezeExcite"](ins, dict(w.attrs))[0], 16, 2e-6)


@pytest.mark.parametrize("split", [0, 1])
def test_views_epilogue_and_symbols(split: int) -> None:
    e = bias_relu_scale()
    w = workload((Dim.symbol("H"), 3, 21, 5, 35), n=N, e=e, xs=24, os=40)
    run = Runner(SqueezeExcite(), w, (("split", split),))
    for n, h in ((1, 2), (5, 4), (0, 3)):
        ins = arrays(w, {"N": n, "H": h})
        a, b = (rng.standard_normal((m, 1, 1, 35)).astype(np.float32) for m in (1, n))
        got = run.same_for_all_splits(ins, (None, a, b), {"N": n, "H": h})
        with np.errstate(all="ignore"):
            (acc,) = REFERENCES["SqueezeExcite"](ins, dict(w.attrs))
        for g, want in zip(got, epilogue_reference(e, [acc, a, b]), strict=True):
            assert_close(g, want, 16, 4e-6)


def test_split_is_offered_to_several_threads_and_agrees() -> None:
    def splits(threads: int, *shape: int) -> set[int]:
        w = workload(shape, threads=threads, n=1)  # type: ignore[arg-type]
        return {dict(p)["split"] for p in SqueezeExcite().candidates(w)}

    assert splits(2, 7, 7, 1152, 48, 1152) == {0, 1} and splits(1, 7, 7, 1152, 48, 1152) == {0}
    assert splits(2, 7, 7, 96, 24, 96) == {0}, "two barriers would cost more than half of the work"
    w = workload((7, 7, 96, 24, 96), threads=2, n=1)
    ins = arrays(w, {})
    one, two = (Runner(SqueezeExcite(), w, (("split", k),))(ins, parts=2)[0] for k in (0, 1))
    assert one.tobytes() == two.tobytes()


def test_declines() -> None:
    w = workload((7, 7, 48, 12, 48))
    t = SqueezeExcite()
    half = Slot(TensorType("float16", (2, 7, 7, 48)))
    reasons = {
        "constant": replace(w, constant=(False, False, True, True, True)),
        "channels-last": workload((7, 7, 48, 12, 48), channels_last=0),
        "float32": replace(w, inputs=(half, *w.inputs[1:])),
        "no C form": workload((7, 7, 48, 12, 48), gate="Tan"),
        "no pixels": workload((0, 7, 48, 12, 48)),
        "not Conv": replace(w, op="Conv"),
    }
    for word, bad in reasons.items():
        assert word in (t.accepts(bad) or ""), word
