"""Depthwise and small grouped convolution on a CUDA GPU, without tensor cores.

Floats are summed in float32, codes in int32. Depthwise convolution is bound by memory bandwidth where there is enough
data; at batch 1 it is bound by the latency of loads, so that all taps of an unrolled window are requested at once.
Groups of few channels, and products whose weights or zero points are known at run time only, are computed in the same
way, one input channel of the group after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.types import itemsize
from temper.tactics.base import Params, Slot, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import FLOATS, FLOATS8, HALVES
from temper.tactics.cuda.windows import Blocking, Body, Window, blockings, seconds, unrolled, window_kernel, window_of

_CODES = frozenset({"int8", "uint8"})
_INTEGERS = frozenset({"int8", "uint8", "int16"})


class _Direct:
    """Base of the tactics here; subclasses say which workloads they accept."""

    name: str
    ops: frozenset[str]

    def window(self, w: Workload) -> Window | str:
        """The workload's windows, or the reason why this tactic does not compute it."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, self.ops)) is not None:
            return reason
        g = self.window(w)
        if isinstance(g, str):
            return g
        x, k = _operands(w)
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if k.row_stride is not None:
            return "its weights are a view"
        if w.op == "ConvInt8":
            if x.type.dtype not in _CODES or k.type.dtype not in _INTEGERS:
                return f"multiplies codes, not {x.type.dtype} and {k.type.dtype}"
            return epilogue_declines(w.epilogue, "int32")
        taken = {**FLOATS, **FLOATS8}
        if x.type.dtype not in taken or k.type.dtype not in taken:
            return f"multiplies {', '.join(taken)}, not {x.type.dtype} and {k.type.dtype}"
        if bias is not None and bias.type.dtype not in FLOATS:
            return f"its bias is {bias.type.dtype}"
        if w.epilogue.operands[0].dtype not in ("float32", x.type.dtype):
            return f"sums in float32, not {w.epilogue.operands[0].dtype}"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        g = self._window(w)
        live = g.taps if _terms(w) == 1 else min(g.taps, 9)
        found = blockings(g, itemsize(_operands(w)[0].type.dtype), live + 4)
        return [b.params for b in sorted(found, key=lambda b: (self.predict(w, b.params), b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        stored = sum(itemsize(s.type.dtype) for s in w.outputs)
        size = itemsize(_operands(w)[0].type.dtype)
        work = 2.0 if w.op == "ConvInt8" else 1.0
        return seconds(self._window(w), Blocking.of(params), size, stored, work, _terms(w))

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        g, b = self._window(w), Blocking.of(params)
        about = f"{g.kernel[0]}x{g.kernel[1]} convolution of {_terms(w)} channels: groups of {b.rows}x{b.cols} pixels."
        return window_kernel(w, entry, about, g, b, *self.parts(w, b))

    def parts(self, w: Workload, b: Blocking) -> tuple[list[Parameter], Body]:
        """Pointers besides the epilogue's, and the statements for each tap of the window."""
        g = self._window(w)
        x, k = _operands(w)
        codes, terms = w.op == "ConvInt8", _terms(w)
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        late = len(w.inputs) > 3 and w.inputs[3] is not None
        inputs = [
            Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0)),
            Parameter("w", POINTER_TYPES[k.type.dtype], ("input", 1)),
        ]
        if bias is not None:
            inputs.append(Parameter("bias", POINTER_TYPES[bias.type.dtype], ("input", 2)))
        if late:
            inputs.append(Parameter("zero", POINTER_TYPES[x.type.dtype], ("input", 3)))
        kind = "tl.int32" if codes else "tl.float32"
        # every thread loads its own: of one value a channel, the compiler would send each through shared memory
        before = (
            "column = tl.broadcast_to(channel[None, :], (BM, BN))\n"
            "column_ok = tl.broadcast_to(channel_ok[None, :], (BM, BN))\n"
        )
        at = "{}" if terms == 1 else f"({{}} * {terms} + term)"
        unsigned = " & 255" if k.type.dtype == "uint8" else ""
        weight = f"tl.load(w + {at} * CHANNELS + column, mask=column_ok, other=0).to({kind}){unsigned}"
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
        weights = "".join(f"w{t} = {weight.format(t)}\n" for t in range(g.taps if unrolled(g, b) else 0))

        def step(a: str, tap: int | None) -> str:
            name = "wt" if tap is None else f"w{tap}"
            return f"{a} += value * {name}\n" if codes else f"{a} = tl.fma(value, {name}, {a})\n"

        made, oc = w.epilogue.operands[0].dtype, w.outputs[0].type.shape[-1]
        each = int(str(oc)) // int(str(w.attr("group", 1)))
        group = f"channel // {each}" if each > 1 else "channel"
        half = f".to({HALVES[made]})" if made in HALVES else ""
        return inputs, Body(
            start=lambda a: f"{a} = {first}\n",
            step=step,
            finish=lambda a, r, c: f"v0 = {a}{half}\n",
            before=before,
            tap=f"wt = {weight.format('tap')}\n",
            value=value,
            source=group if terms == 1 else f"{group} * {terms} + term",
            terms=terms,
            each=weights,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()

    def _window(self, w: Workload) -> Window:
        g = self.window(w)
        if isinstance(g, str):
            raise ValueError(f"workload was not accepted: {g}")
        return g


def _operands(w: Workload) -> tuple[Slot, Slot]:
    x, k = w.inputs[0], w.inputs[1]
    assert x is not None and k is not None
    return x, k


def _terms(w: Workload) -> int:
    """Input channels of a group."""
    return int(str(_operands(w)[1].type.shape[2]))


def _grouped_window(w: Workload) -> Window | str:
    if len(w.inputs) < 2 or w.inputs[0] is None or w.inputs[1] is None:
        return "a convolution needs data and weights"
    x, k = _operands(w)
    channels, oc = x.type.shape[-1], w.outputs[0].type.shape[-1]
    if k.type.rank != 4 or not all(isinstance(d, int) for d in (channels, *k.type.shape)):
        return "channel counts and kernel size must be known at build, and two spatial axes"
    kh, kw, terms, _ = (int(str(d)) for d in k.type.shape)
    if terms < 1 or int(str(w.attr("group", 1))) * terms != channels:
        return f"{channels} channels are not {w.attr('group', 1)} groups of {terms}"
    return window_of(w, (kh, kw), int(str(channels)) / max(1, int(str(oc))))


class Depthwise(_Direct):
    """Depthwise Conv and ConvInt8 with any window, stride, dilation, padding and number of results a channel."""

    name = "cuda.depthwise"
    ops = frozenset({"Conv", "ConvInt8"})

    def window(self, w: Workload) -> Window | str:
        g = _grouped_window(w)
        if not isinstance(g, str) and _terms(w) != 1:
            return f"not depthwise: groups of {_terms(w)} channels"
        return g


class ConvDirect(_Direct):
    """Conv and ConvInt8 of planes that no matrix product computes: several groups, codes wider than a byte, weights or
    a zero point known at run time only."""

    name = "cuda.conv_direct"
    ops = frozenset({"Conv", "ConvInt8"})

    def window(self, w: Workload) -> Window | str:
        g = _grouped_window(w)
        if isinstance(g, str):
            return g
        if _terms(w) == 1:
            return "one channel a group is for cuda.depthwise"
        known = all(w.constant[1:]) and len(w.inputs) < 4
        if w.attr("group", 1) == 1 and known and _operands(w)[1].type.dtype not in ("int16", "uint8"):
            return "a matrix product computes it"
        return g

    def candidates(self, w: Workload) -> Sequence[Params]:
        """Where there are many terms, a fallback for which few blockings will do: those of large tiles."""
        found = super().candidates(w)
        if _terms(w) * self._window(w).taps <= 72:
            return found
        return sorted(found, key=lambda p: -Blocking.of(p).bm * Blocking.of(p).bn)[:3]
