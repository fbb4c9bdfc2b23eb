"""Squeeze-excite in one kernel (templates/squeeze_excite.c): means, two matrix-vector products, activation and gate;
float32.

Bound by reading the map (64 bytes a cycle from L1, 30-40 from L2) and streaming both weight matrices once an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.render import (
    anchor_declines,
    body_c,
    body_declines,
    epilogue_args,
    template_text,
    workload_epilogue_c,
)
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand

_TYPICAL_PIXELS = 196
_STREAM = 40e9
#: A further entry costs waking and joining the threads.
_BARRIER = 2e-6

#: Hidden sums and vectors of gates computed side by side: eight chains of multiply-adds with the two partial sums of
#: each.
_ROWS = _VECTORS = 4


@dataclass(frozen=True)
class _Shape:
    n: DimLike
    pixels: DimLike
    channels: int
    hidden: int
    features: int
    x_stride: int
    out_stride: int


def _shape(w: Workload) -> _Shape | str:
    """Geometry of a SqueezeExcite workload, or the reason it has no kernel."""
    if w.op != "SqueezeExcite":
        return f"computes SqueezeExcite, not {w.op}"
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if not w.attr("channels_last", 0):
        return "needs channels-last tensors"
    if w.attr("apply", 0):
        return "makes gates and does not apply them"
    x, w1, w2, out = w.inputs[0], w.inputs[1], w.inputs[3], w.outputs[0]
    if x is None or w1 is None or w2 is None:
        return "needs data and both weight matrices"
    if any(s is not None and s.type.dtype != "float32" for s in (*w.inputs, out)):
        return "computes in float32 only"
    if any(s is not None and not c for s, c in zip(w.inputs[1:], w.constant[1:], strict=True)):
        return "weights and biases must be constant to be packed"
    channels, (rows, hidden), (_, features) = x.type.shape[-1], w1.type.shape, w2.type.shape
    if not (
        isinstance(channels, int) and isinstance(rows, int) and isinstance(hidden, int) and isinstance(features, int)
    ):
        return "channel counts must be known at build"
    if min(channels, hidden, features) < 1:
        return "there are no channels"
    pixels = product(x.type.shape[1:-1])
    if pixels == 0:
        return "the map has no pixels"
    return _Shape(
        x.type.shape[0], pixels, channels, hidden, features, x.row_stride or channels, out.row_stride or features
    )


def _function(instr: Instr) -> Epilogue:
    return Epilogue((Operand("float32", (True,)),), (instr,), (1,))


def _programs(w: Workload) -> dict[str, Epilogue]:
    """activation and gate as one-instruction programs."""
    gate = str(w.attr("gate"))
    attrs: tuple[tuple[str, Attr], ...] = ()
    if gate == "HardSigmoid":
        attrs = (("alpha", w.attr("gate_alpha")), ("beta", w.attr("gate_beta")))
    return {
        "activation": _function(Instr(str(w.attr("activation")), (0,), "float32")),
        "gate": _function(Instr(gate, (0,), "float32", attrs)),
    }


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


class SqueezeExcite:
    """Parameters. split: 1 = three entries shared out over channels, 0 = one entry shared out over images."""

    name = "cpu.squeeze_excite"
    ops = frozenset({"SqueezeExcite"})

    def accepts(self, w: Workload) -> str | None:
        s = _shape(w)
        if isinstance(s, str):
            return s
        for name, program in _programs(w).items():
            if (reason := body_declines(program, vector=True)) is not None:
                return f"{name}: {reason}"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        whole, split = (("split", 0),), (("split", 1),)
        # barriers are not part of a kernel's measured time, so a split that they would eat up is not offered
        if w.threads > 1 and self.predict(w, split) < self.predict(w, whole):
            return [split, whole]
        return [whole]

    def predict(self, w: Workload, params: Params) -> float:
        s = _accepted(w)
        pixels = _TYPICAL_PIXELS if isinstance(s.pixels, Dim) else s.pixels
        images = 1 if isinstance(s.n, Dim) else s.n
        once = 4.0 * (pixels * s.channels / 3 + s.hidden * (s.channels + s.features)) / _STREAM
        if dict(params)["split"]:
            return 1e-6 + images * once / w.threads + 2 * _BARRIER
        return 1e-6 + once * -(-images // w.threads)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, split = _accepted(w), dict(params)["split"]
        lanes, symbols = ISAS[w.isa].lanes, w.symbols
        args: list[ArgRef] = [("input", 0), *(("packed", i) for i in range(4)), ("workspace", 0), ("output", 0)]
        if split:
            args.append(("shared", 0))
        first = len(args)
        names = {"MEAN_ENTRY": f"{entry}_mean", "HIDDEN_ENTRY": f"{entry}_hidden"} if split else {}
        text = defines(
            {
                "ENTRY": entry,
                **names,
                "SPLIT": split,
                "BATCH": c_dim(s.n, symbols),
                "PIXELS": c_dim(s.pixels, symbols),
                "C": s.channels,
                "R": s.hidden,
                "F": s.features,
                "XLD": s.x_stride,
                "OLD": s.out_stride,
                "CB": 4 if ISAS[w.isa].registers > 16 else 2,
                "RB": _ROWS,
                "FB": _VECTORS,
            }
        )
        functions = "".join(
            f"INLINE vf {name}(vf v0) {{\n{body_c(program, vector=True)}\n  return v1;\n}}\n"
            for name, program in _programs(w).items()
        )
        source = (
            template_text("vec.h", "vmath.h")
            + text
            + functions
            + workload_epilogue_c(w, first)
            + template_text("squeeze_excite.c")
        )
        hidden = _round_up(s.hidden, lanes)
        floats = _round_up(s.channels, lanes) + hidden
        return Kernel(
            source,
            (*names.values(), entry),
            (*args, *epilogue_args(w.epilogue)),
            symbols,
            4 * (hidden if split else floats),
            4 * floats * s.n if split else 0,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """w1 [rows block][channel vector][row][lane], b1, w2 [column block][hidden][column], b2; zeros behind the
        ends."""
        s, lanes = _accepted(w), ISAS[w.isa].lanes
        width = _VECTORS * lanes
        rows, columns = _round_up(s.hidden, _ROWS), _round_up(s.features, width)
        w1 = np.zeros((rows, _round_up(s.channels, lanes)), np.float32)
        w1[: s.hidden, : s.channels] = constants[1].T
        w2 = np.zeros((s.hidden, columns), np.float32)
        w2[:, : s.features] = constants[3]
        b1, b2 = np.zeros(_round_up(s.hidden, lanes), np.float32), np.zeros(columns, np.float32)
        if 2 in constants:
            b1[: s.hidden] = constants[2]
        if 4 in constants:
            b2[: s.features] = constants[4]
        first = w1.reshape(rows // _ROWS, _ROWS, -1, lanes).transpose(0, 2, 1, 3)
        second = w2.reshape(s.hidden, -1, width).transpose(1, 0, 2)
        return np.ascontiguousarray(first), b1, np.ascontiguousarray(second), b2


def _accepted(w: Workload) -> _Shape:
    s = _shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
