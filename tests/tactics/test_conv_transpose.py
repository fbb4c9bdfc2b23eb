"""The transposed convolution of last resort against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from temper.ir.ops import TABLE
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.conv_transpose import ConvTransposeFallback
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, bias_relu_scale, f32

rng = np.random.default_rng(0)


def workload(
    size: tuple[Any, ...],
    channels: int,
    each: int,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    extra: tuple[int, int] = (0, 0),
    bias: bool = True,
    isa: str = "avx512",
    x_stride: int | None = None,
    y_stride: int | None = None,
) -> Workload:
    attrs = {
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "group": group,
        "channels_last": 1,
        "output_padding": extra,
    }
    slots = [
        f32(*size, channels, stride=x_stride),
        f32(*kernel, channels, each),
        *([f32(each * group)] if bias else []),
    ]
    (out,) = TABLE["ConvTranspose"].infer([s.type for s in slots], attrs)
    e = Epilogue.identity("float32", 4)
    return Workload(
        "ConvTranspose",
        tuple(sorted(attrs.items())),
        tuple(slots),
        (False,) * len(slots),
        (Slot(out, y_stride),),
        e,
        isa,
    )


def check(w: Workload, env: dict[str, int] | None = None) -> None:
    inputs = [rng.standard_normal(s.type.bind(env or {}).shape).astype(np.float32) for s in w.inputs if s]
    (got,) = Runner(ConvTransposeFallback(), w).same_for_all_splits(inputs, env=env)
    (want,) = TABLE["ConvTranspose"].reference(inputs, dict(w.attrs))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bias", [True, False])
def test_geometries(isa: str, bias: bool) -> None:
    check(workload((2, 4, 5), 3, 21, (3, 2), strides=(2, 3), pads=(1, 0, 0, 1), extra=(1, 0), bias=bias, isa=isa))
    check(workload((1, 4, 5), 4, 3, (3, 3), strides=(2, 1), dilations=(2, 3), group=2, bias=bias, isa=isa))
    check(workload((1, 4, 5), 37, 1, (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group=37, bias=bias, isa=isa))


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_sizes_and_views(isa: str) -> None:
    for group, each in ((1, 19), (18, 1)):
        w = workload((N, N, 5), 18, each, (2, 2), strides=(2, 2), group=group, isa=isa, x_stride=25, y_stride=33)
        check(w, {"N": 3})


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue(isa: str) -> None:
    w = workload((2, 4, 5), 3, 21, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1), bias=False, isa=isa)
    w = replace(w, epilogue=bias_relu_scale(), outputs=(w.outputs[0], w.outputs[0]))
    inputs = [rng.standard_normal(s.type.shape).astype(np.float32) for s in w.inputs if s]
    operands = [rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 1, 21), (2, 1, 1, 21))]
    got = Runner(ConvTransposeFallback(), w).same_for_all_splits(inputs, [None, *operands])
    (acc,) = TABLE["ConvTranspose"].reference(inputs, dict(w.attrs))
    for g, want in zip(got, epilogue_reference(w.epilogue, [acc, *operands]), strict=True):
        np.testing.assert_allclose(g, want, rtol=0, atol=2e-5)


def test_declines_with_a_reason() -> None:
    w = workload((1, 4, 5), 3, 2, (3, 3))
    first = replace(w, attrs=tuple((k, 0 if k == "channels_last" else v) for k, v in w.attrs))
    assert ConvTransposeFallback().accepts(first) == "computes channels-last tensors only"
