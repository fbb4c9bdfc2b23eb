"""Depthwise convolution (one input channel per group) on a CUDA GPU: floats summed in float32, 8-bit codes in int32.

Bound by memory where there is enough of it; at batch 1 by the time a load takes to arrive, so that all taps of an
unrolled window are requested at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.triton import CUDA_ISAS
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.loads import FLOATS, FLOATS8, FLOATS8_ISAS, HALVES
from temper.tactics.cuda.windows import Blocking, Body, Window, blockings, seconds, unrolled, window_kernel, window_of

_CODES = frozenset({"int8", "uint8"})
#: Types of weights and the most their magnitude can be.
_WEIGHTS: Mapping[str, int] = {"int8": 128, "uint8": 255, "int16": 32768}
_POINTERS = {**POINTER_TYPES, "int16": "*i16"}


def _window(w: Workload) -> Window | str:
    x, k = w.inputs[0], w.inputs[1]
    if x is None or k is None:
        return "a convolution needs data and weights"
    channels, oc = x.type.shape[-1], w.outputs[0].type.shape[-1]
    if k.type.rank != 4 or not all(isinstance(d, int) for d in (channels, *k.type.shape)):
        return "channel counts and kernel size must be known at build, and two spatial axes"
    if w.attr("group", 1) != channels or k.type.shape[2] != 1:
        return f"not depthwise: {w.attr('group', 1)} groups of {k.type.shape[2]} for {channels} channels"
    if k.row_stride is not None:
        return "its weights are a view"
    kh, kw, _, _ = k.type.shape
    assert isinstance(kh, int) and isinstance(kw, int) and isinstance(oc, int) and isinstance(channels, int)
    return window_of(w, (kh, kw), oc // max(channels, 1))


class Depthwise:
    """Depthwise Conv and ConvInt8 with any window, stride, dilation, padding and number of results a channel."""

    name = "cuda.depthwise"
    ops = frozenset({"Conv", "ConvInt8"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if w.isa not in CUDA_ISAS:
            return f"no such GPU level: {w.isa}"
        g = _window(w)
        if isinstance(g, str):
            return g
        x, k = w.inputs[0], w.inputs[1]
        assert x is not None and k is not None
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if w.op == "Conv":
            taken = {**FLOATS, **(FLOATS8 if w.isa in FLOATS8_ISAS else {})}
            if x.type.dtype not in taken or k.type.dtype not in taken:
                return f"multiplies {', '.join(taken)}, not {x.type.dtype} and {k.type.dtype}"
            if bias is not None and bias.type.dtype not in FLOATS:
                return f"its bias is {bias.type.dtype}"
            if w.epilogue.operands[0].dtype not in ("float32", x.type.dtype):
                return f"sums in float32, not {w.epilogue.operands[0].dtype}"
            return epilogue_declines(w.epilogue)
        if x.type.dtype not in _CODES or k.type.dtype not in _WEIGHTS:
            return f"multiplies codes, not {x.type.dtype} and {k.type.dtype}"
        return epilogue_declines(w.epilogue, "int32")

    def candidates(self, w: Workload) -> Sequence[Params]:
        g = _accepted(w)
        assert w.inputs[0] is not None
        found = blockings(g, itemsize(w.inputs[0].type.dtype), g.taps + 4)
        return [b.params for b in sorted(found, key=lambda b: (self.predict(w, b.params), b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        assert w.inputs[0] is not None
        stored = sum(itemsize(s.type.dtype) for s in w.outputs)
        work = 2.0 if w.op == "ConvInt8" else 1.0
        return seconds(_accepted(w), Blocking.of(params), itemsize(w.inputs[0].type.dtype), stored, work)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        g, b = _accepted(w), Blocking.of(params)
        x, k = w.inputs[0], w.inputs[1]
        assert x is not None and k is not None
        codes = w.op == "ConvInt8"
        inputs = [
            Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0)),
            Parameter("w", _POINTERS[k.type.dtype], ("input", 1)),
        ]
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if bias is not None:
            inputs.append(Parameter("bias", POINTER_TYPES[bias.type.dtype], ("input", 2)))
        late = len(w.inputs) > 3 and w.inputs[3] is not None
        if late:
            inputs.append(Parameter("zero", POINTER_TYPES[x.type.dtype], ("input", 3)))
        kind = "tl.int32" if codes else "tl.float32"
        unsigned = " & 255" if k.type.dtype == "uint8" else ""
        # every thread loads its own: of one value a channel, the compiler would send each through shared memory
        before = (
            "column = tl.broadcast_to(channel[None, :], (BM, BN))\n"
            "column_ok = tl.broadcast_to(channel_ok[None, :], (BM, BN))\n"
        )
        weight = f"tl.load(w + {{}} * CHANNELS + column, mask=column_ok, other=0).to({kind}){unsigned}"
        first = f"tl.zeros((BM, BN), {kind})"
        if bias is not None:
            before += f"first = tl.load(bias + column, mask=column_ok, other=0).to({kind})\n"
            first = "first"
        if late:
            before += f"offset = tl.load(zero).to(tl.int32){' & 255' if x.type.dtype == 'uint8' else ''}\n"
        offset = "offset" if late else str(int(str(w.attr("zero_point", 0)))) if codes else "0"
        value = f"value = value.to({kind}){' & 255' if x.type.dtype == 'uint8' else ''}\n"
        if offset != "0":
            value += f"value = tl.where(taken, value - ({offset}), 0)\n"
        for t in range(g.taps if unrolled(g, b) else 0):
            before += f"w{t} = {weight.format(t)}\n"

        def step(a: str, tap: int | None) -> str:
            weights = "wt" if tap is None else f"w{tap}"
            return f"{a} += value * {weights}\n" if codes else f"{a} = tl.fma(value, {weights}, {a})\n"

        made = w.epilogue.operands[0].dtype
        half = f".to({HALVES[made]})" if made in HALVES else ""
        body = Body(
            start=lambda a: f"{a} = {first}\n",
            step=step,
            finish=lambda a, r, c: f"v0 = {a}{half}\n",
            before=before,
            tap=f"wt = {weight.format('tap')}\n",
            value=value,
        )
        about = f"Depthwise {g.kernel[0]}x{g.kernel[1]} convolution: groups of {b.rows}x{b.cols} pixels."
        return window_kernel(w, entry, about, g, b, inputs, body)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _accepted(w: Workload) -> Window:
    g = _window(w)
    if isinstance(g, str):
        raise ValueError(f"workload was not accepted: {g}")
    return g
