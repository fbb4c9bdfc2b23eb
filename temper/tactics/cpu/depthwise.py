"""Depthwise convolution (one input channel per group), channels-last, with constant float32 weights.

Limits on one core with 2 FMA and 2 loads of a register a cycle: KH*KW/2 cycles per vector of results if everything is
in L1; a tile of NB columns loads (NB-1)*stride + 2*KW vectors per kernel row for NB*KW products, so loads never bind
for NB >= 4. Large images are bound by the levels below: each input line enters L1 once per block of channels.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import int_tuple

#: Extents that stand for unknown ones when candidates are ranked.
_TYPICAL_EXTENT = 28
_HZ = 3.8e9


@dataclass(frozen=True)
class Shape:
    """Geometry of a depthwise convolution; only n, ih, iw, oh, ow may be symbolic. xld, old: pixel strides."""

    n: DimLike
    ih: DimLike
    iw: DimLike
    oh: DimLike
    ow: DimLike
    oc: int
    multiplier: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    xld: int
    old: int


def depthwise_shape(w: Workload) -> Shape | str:
    """Geometry of a depthwise Conv workload, or the reason it is none."""
    if len(w.inputs) < 2 or w.inputs[0] is None or w.inputs[1] is None:
        return "a convolution needs input and weights"
    x, k, out = w.inputs[0], w.inputs[1], w.outputs[0]
    if x.type.rank != 4 or not w.attr("channels_last", 0):
        return "computes channels-last 2-D convolutions only"
    channels, oc = x.type.shape[3], k.type.shape[3]
    kh, kw, per_group = k.type.shape[:3]
    if not all(isinstance(d, int) for d in (channels, oc, kh, kw, per_group)):
        return "channel counts and kernel size must be known at build time"
    assert isinstance(channels, int) and isinstance(oc, int) and isinstance(kh, int) and isinstance(kw, int)
    if w.attr("group", 1) != channels or per_group != 1 or oc % max(channels, 1):
        return f"not depthwise: {w.attr('group', 1)} groups of {per_group} for {channels} channels"
    strides, dilations = int_tuple(w, "strides", 2, 1), int_tuple(w, "dilations", 2, 1)
    pads = int_tuple(w, "pads", 4, 0)
    if strides is None or dilations is None or pads is None or min(pads) < 0:
        return "strides and dilations must have 2 entries, pads 4 that are not negative"
    n, ih, iw, _ = x.type.shape
    _, oh, ow, _ = out.type.shape
    return Shape(n, ih, iw, oh, ow, oc, oc // channels, (kh, kw), (strides[0], strides[1]),
                 (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3]), x.row_stride or channels,
                 out.row_stride or oc)


def tiles_c(s: Shape, nb: int) -> str:
    """The body of TILES(t): tiles of one output row; `edge` 0 promises that no tap falls outside the image."""
    ow, iw, pad = s.ow, s.iw, s.pads[1]
    reach = (s.kernel[1] - 1) * s.dilations[1]
    sw = s.strides[1]
    if isinstance(ow, Dim) or isinstance(iw, Dim):
        inside = f"ox * {sw} >= {pad} && (ox + {nb - 1}) * {sw} - {pad} + {reach} < iw"
        return (f"int64_t ox = 0; for (; ox + {nb} <= ow; ox += {nb}) {{ if ({inside}) t(ox, {nb}, 0) "
                f"else t(ox, {nb}, 1) }} for (; ox < ow; ox++) t(ox, 1, 1)")
    count = -(-ow // nb)
    widths = [ow // count + (i < ow % count) for i in range(count)] if ow % nb else [nb] * count
    calls: list[tuple[int, int, bool]] = []
    ox = 0
    for width in widths:
        edge = ox * sw < pad or (ox + width - 1) * sw - pad + reach >= iw
        calls.append((ox, width, edge))
        ox += width
    text = []
    i = 0
    while i < len(calls):
        ox, width, edge = calls[i]
        last = i
        while not edge and last + 1 < len(calls) and calls[last + 1][1:] == (width, False):
            last += 1
        if last > i:
            text.append(f"for (int64_t ox = {ox}; ox <= {calls[last][0]}; ox += {width}) t(ox, {width}, 0)")
        else:
            text.append(f"t({ox}, {width}, {int(edge)})")
        i = last + 1
    return " ".join(text)


#: Sums of products of codes below this are exact in float32.
_EXACT = 1 << 24


class Depthwise:
    """Depthwise convolution by register tiles of columns x channel vectors: of floats, or of codes (ConvInt8)."""

    name = "cpu.depthwise"
    ops = frozenset({"Conv", "ConvInt8"})
    packing = ("cb",)

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes Conv, not {w.op}"
        s = depthwise_shape(w)
        if isinstance(s, str):
            return s
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.op == "ConvInt8":
            k = w.inputs[1]
            if s.kernel[0] * s.kernel[1] * 255 * (128 if k is None or k.type.dtype == "int8" else 255) >= _EXACT:
                return "sums of so many taps are not exact in float32"
            if not all(w.constant[1:3]):
                return "weights and bias must be constant to be packed"
            return anchor_declines(w.epilogue, "int32", STORED)
        types = {x.type.dtype for x in w.inputs if x is not None} | {w.outputs[0].type.dtype}
        if types != {"float32"}:
            return f"computes float32 only, not {', '.join(sorted(types - {'float32'}))}"
        if not w.constant[1] or (len(w.inputs) > 2 and w.inputs[2] is not None and not w.constant[2]):
            return "weights and bias must be constant to be packed"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = _shape(w)
        isa = ISAS[w.isa]
        vectors = -(-s.oc // isa.lanes)
        ow = _TYPICAL_EXTENT if isinstance(s.ow, Dim) else s.ow
        oh = _TYPICAL_EXTENT if isinstance(s.oh, Dim) else s.oh
        out: dict[Params, None] = {}
        for cb in (1, 2, 3, 4):
            if cb > vectors or (vectors % cb and cb > 2 and vectors > cb):
                continue
            room = isa.registers - 2 - s.kernel[1] * cb
            most = max(1, min(14, room // cb, ow))
            sizes = (most, max(1, most * 2 // 3), min(most, 7), min(most, 4))
            widths = {max(1, -(-ow // -(-ow // nb))) for nb in sizes}
            for nb in widths:
                for rows in {oh, min(oh, 8), min(oh, 2)} | ({-(-oh // w.threads)} if w.threads > 1 else set()):
                    for prefetch in (0, 1):
                        out[(("cb", cb), ("nb", nb), ("pf", prefetch), ("rows", rows))] = None
        return sorted(out, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        s, q = _shape(w), dict(params)
        n, oh, ow, ih, iw = ((1 if i == 0 else _TYPICAL_EXTENT) if isinstance(d, Dim) else d
                             for i, d in enumerate((s.n, s.oh, s.ow, s.ih, s.iw)))
        isa = ISAS[w.isa]
        vectors = -(-s.oc // isa.lanes)
        taps = s.kernel[0] * s.kernel[1]
        tiles = -(-ow // q["nb"])
        fma = 0.5 if isa.name != "portable" else 1.0
        chains = q["nb"] * q["cb"]
        per_tap = max(fma, 4.0 / chains)
        per_row = ow * (taps * per_tap + 2 + len(w.epilogue.instrs)) + tiles * (s.kernel[0] * (2 + s.kernel[1]) + 8)
        work = n * oh * vectors * per_row
        again = 1 + max(0, s.kernel[0] - s.strides[0]) / q["rows"] / 4
        line_bytes = 4 * n * s.oc * (ih * iw / s.multiplier * again + 2 * oh * ow)
        bandwidth = 40.0 if line_bytes < 900_000 else 12.0
        strided = 1.0 + 0.15 * (s.oc > q["cb"] * isa.lanes and q["cb"] * isa.lanes < 32)
        units = n * -(-oh // q["rows"]) * -(-vectors // q["cb"])
        balance = -(-units // w.threads) / units
        moved = line_bytes / bandwidth * strided
        return float((max(work, moved) + 0.3 * min(work, moved)) * balance / _HZ + 3e-7)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, q = _shape(w), dict(params)
        symbols = w.symbols
        zero: list[ArgRef] = [("input", 3)] if len(w.inputs) > 3 else []
        args: tuple[ArgRef, ...] = (
            ("input", 0), ("packed", 0), ("output", 0), *zero, *epilogue_args(w.epilogue))
        x = w.inputs[0]
        assert x is not None
        dtype = x.type.dtype
        text = defines({
            "CODES": int(w.op == "ConvInt8"), "in_t": C_TYPES[dtype], "LOAD_CODES": f"ld_{dtype}",
            "ZERO_POINT": f"({w.attr('zero_point', 0)})", "P_ZERO": 3 if zero else "(-1)",
            "ENTRY": entry, "BATCH": c_dim(s.n, symbols), "IH": c_dim(s.ih, symbols), "IW": c_dim(s.iw, symbols),
            "OH": c_dim(s.oh, symbols), "OW": c_dim(s.ow, symbols), "OC": s.oc, "MULT": s.multiplier,
            "KH": s.kernel[0], "KW": s.kernel[1], "SH": s.strides[0], "SW": s.strides[1],
            "DH": s.dilations[0], "DW": s.dilations[1], "PAD_T": s.pads[0],
            "PAD_L": s.pads[1], "XLD": s.xld, "OLD": s.old,
            "NB": q["nb"], "CB": q["cb"], "ROWS": q["rows"], "PREFETCH": q["pf"], "TILES(t)": tiles_c(s, q["nb"]),
        })
        epilogue = workload_epilogue_c(w, 3 + len(zero))
        source = template_text("vec.h", "vmath.h") + text + epilogue + template_text("depthwise.c")
        return Kernel(source, (entry,), args, symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        s, q = _shape(w), dict(params)
        width = q["cb"] * ISAS[w.isa].lanes
        blocks = -(-s.oc // width)
        rows = np.zeros((1 + s.kernel[0] * s.kernel[1], blocks * width), np.float32)
        if 2 in constants:  # floats, or int32 whose bits are kept
            rows[0, :s.oc] = constants[2].view(np.float32)
        rows[1:, :s.oc] = constants[1].reshape(-1, s.oc)
        return (np.ascontiguousarray(rows.reshape(-1, blocks, width).transpose(1, 0, 2)),)


def _shape(w: Workload) -> Shape:
    s = depthwise_shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
