"""Depthwise convolution of 8-bit codes where the CPU multiplies unsigned by signed bytes (VNNI).

Limits on one core with two products, two shuffles and two loads of a register a cycle: for 64 channels and two columns
of results, a kernel row of up to 3 taps takes 8 shuffles and 8 products; the float kernel, which other CPUs use for
codes too, takes 24 multiply-adds for those and 2 shuffles to widen each vector of codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.depthwise import Shape, depthwise_shape, tiles_c
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

_TYPICAL_EXTENT = 28
_HZ = 4e9


def _groups(s: Shape) -> tuple[int, int]:
    """(places of the first tap in a word: outputs that start at even and odd pixels, words of a kernel row)."""
    parities = 2 if s.strides[1] % 2 else 1
    return parities, (s.kernel[1] + parities + 2) // 4


class DepthwiseInt8:
    """Depthwise ConvInt8. Parameters: cb, channels of a block in 16; yb, nb: rows and columns of a tile; rows: output
    rows of a unit of work."""

    name = "cpu.depthwise_int8"
    ops = frozenset({"ConvInt8"})
    packing = ("cb",)

    def accepts(self, w: Workload) -> str | None:
        if w.op != "ConvInt8":
            return f"computes ConvInt8, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if "avx512_vnni" not in ISAS[w.isa].needs:
            return f"needs products of bytes, which {w.isa} does not have"
        s = depthwise_shape(w)
        if isinstance(s, str):
            return s
        x, k = w.inputs[0], w.inputs[1]
        assert x is not None and k is not None
        if x.type.dtype not in ("uint8", "int8") or k.type.dtype != "int8":
            return "multiplies int8 or uint8 data by int8 weights"
        if not all(w.constant[1:]):
            return "weights and bias must be constant to be packed"
        if s.multiplier != 1 or s.oc < 16:
            return "takes 16 channels at once, each with one result"
        if s.dilations != (1, 1):
            return "taps must be neighbours"
        return anchor_declines(w.epilogue, "int32", STORED)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = _shape(w)
        ow, oh = (_TYPICAL_EXTENT if isinstance(d, Dim) else d for d in (s.ow, s.oh))
        out: dict[Params, None] = {}
        for cb in (1, 2, 4):
            if 16 * cb > s.oc:
                continue
            for yb in (1, 2):
                if yb > 1 and (isinstance(s.oh, Dim) or s.oh < yb):
                    continue
                for most in (2, 4, 5) if yb == 1 else (2,):
                    nb = max(1, -(-ow // -(-ow // most)))
                    for rows in {oh, min(oh, 8)} | ({-(-oh // w.threads)} if w.threads > 1 else set()):
                        if rows >= yb:
                            out[(("cb", cb), ("nb", nb), ("rows", rows), ("yb", yb))] = None
        return sorted(out, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        s, q = _shape(w), dict(params)
        n, oh, ow = ((1 if i == 0 else _TYPICAL_EXTENT) if isinstance(d, Dim) else d
                     for i, d in enumerate((s.n, s.oh, s.ow)))
        slots, (_, groups), kh = 4 // q["cb"], _groups(s), s.kernel[0]
        blocks = -(-s.oc // (16 * q["cb"]))
        tiles = -(-ow // q["nb"])
        steps = -(-oh // (slots * q["yb"]))
        reads = kh + (q["yb"] - 1) * s.strides[0]
        pixels = (q["nb"] - 1) * s.strides[1] + s.kernel[1]
        per_row = pixels * (2 * (slots if slots > 1 else 0.5) / 2 + 1.0) + (pixels // 2) * 1.5 * 2 / 2
        products = q["nb"] * groups * 4 * kh * q["yb"] / 2
        after = 4 * q["nb"] * q["yb"] * (1.6 + 0.5 * len(w.epilogue.instrs))
        cycles = n * blocks * steps * (tiles * (reads * (per_row + 3) + products + after + 12) + 20)
        units = n * -(-oh // q["rows"]) * blocks
        return float(cycles * -(-units // w.threads) / units / _HZ + 3e-7)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, q = _shape(w), dict(params)
        symbols = w.symbols
        x = w.inputs[0]
        assert x is not None
        zero = w.attr("zero_point", 0)
        assert isinstance(zero, int)
        args: tuple[ArgRef, ...] = (("input", 0), ("packed", 0), ("output", 0), *epilogue_args(w.epilogue))
        text = defines({
            "ENTRY": entry, "BATCH": c_dim(s.n, symbols), "IH": c_dim(s.ih, symbols), "IW": c_dim(s.iw, symbols),
            "OH": c_dim(s.oh, symbols), "OW": c_dim(s.ow, symbols), "OC": s.oc,
            "KH": s.kernel[0], "KW": s.kernel[1], "SH": s.strides[0], "SW": s.strides[1],
            "PAD_T": s.pads[0], "PAD_L": s.pads[1], "XLD": s.xld, "OLD": s.old,
            "CB": q["cb"], "YB": q["yb"], "NB": q["nb"], "ROWS": q["rows"], "TILES(t)": tiles_c(s, q["nb"]),
            "PADDING": zero & 255, "FLIP": 128 if x.type.dtype == "int8" else 0,
        })
        source = template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, 3)
        return Kernel(source + template_text("depthwise_bytes.c"), (entry,), args, symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        s, width = _shape(w), 16 * dict(params)["cb"]
        (kh, kw), (parities, groups), x = s.kernel, _groups(s), w.inputs[0]
        assert x is not None
        taps = constants[1].reshape(kh, kw, s.oc)
        words = np.zeros((kh, parities, 4 * groups, s.oc), np.int8)
        for first in range(parities):
            words[:, first, first : first + kw] = taps
        codes = np.ascontiguousarray(words.reshape(kh * parities * groups, 4, s.oc).transpose(2, 0, 1))
        offset = int(str(w.attr("zero_point", 0))) + (128 if x.type.dtype == "int8" else 0)
        bias = np.zeros(s.oc, np.int64) if 2 not in constants else constants[2].astype(np.int64)
        bias = (bias - offset * taps.astype(np.int64).sum(axis=(0, 1))).astype(np.int32)
        # [OC, 1 + words]: a channel's bias and its words, of four codes each
        rows = np.concatenate([bias[:, None], codes.view(np.int32)[..., 0]], axis=1)
        firsts = [*range(0, s.oc - width, width), s.oc - width]
        return (np.ascontiguousarray(np.stack([rows[c : c + width].T for c in firsts])),)


def _shape(w: Workload) -> Shape:
    s = depthwise_shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
