"""Winograd convolution F(4x4, 3x3) of 8-bit codes, exact (templates/winograd_codes.c): 3x3, stride 1, one group.

A tile of 4x4 results costs 36 products of int16 per channel pair in place of 144 of bytes, and a register of int16
pairs holds half as many: half the multiply-adds, less the transforms. Sums are taken modulo 2^32 and scaled by 576, so
they come out exact while they are below 2^25, which ConvInt8's `bits` says. Where the CPU has no products of bytes,
bytes are multiplied as int16 anyway, and it is a quarter. The transforms are those of Lavin and Gray (2015,
arXiv:1509.09308) with denominators taken out.

Weights grow to 8 times their bytes: few tiles with many channels would wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, ceil_div, evaluate, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.points import odd_lines, products_at_points
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

#: 24 G of F(4, 3) at 0, 1, -1, 2, -2, infinity, its rows divided by 6, -4, -4, 1, 1, 24.
_G = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]])

_POINTS, _TILE, _AHEAD_KB = 36, 4, 96

#: Most bits of a sum that the scaled arithmetic modulo 2^32 leaves.
_BITS = 25

#: For `predict`: clock; bytes a second of weights; cycles per tile and register of input, of output channels.
_CLOCK, _STREAM, _INPUT, _OUTPUT = 4e9, 40e9, 110.0, 130.0


@dataclass(frozen=True)
class _Shape:
    """Sizes. tiles: of all images; typical: what stands for their number in predictions."""

    ic: int
    oc: int
    tiles: DimLike
    typical: int
    lanes: int

    @property
    def vectors(self) -> int:
        """Registers of output channels."""
        return self.oc // self.lanes


def _shape(w: Workload) -> _Shape:
    x, out = w.inputs[0], w.outputs[0]
    assert x is not None
    n, oh, ow, oc = out.type.shape
    tiles = product((n, ceil_div(oh, _TILE), ceil_div(ow, _TILE)))
    typical = evaluate(tiles, dict.fromkeys(tiles.symbols, 28)) if isinstance(tiles, Dim) else tiles
    return _Shape(int(str(x.type.shape[3])), int(str(oc)), tiles, max(1, int(typical)), ISAS[w.isa].lanes)


class WinogradInt8:
    """Parameters. tiles: per block; mr, nb: register tile (tiles x registers of output channels); ahead: KiB by which
    weights are fetched ahead, 0 = left to the hardware."""

    name = "cpu.conv_int8.winograd"
    ops = frozenset({"ConvInt8"})
    packing = ("nb",)

    def accepts(self, w: Workload) -> str | None:
        if w.op != "ConvInt8":
            return f"computes ConvInt8, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        x, k = w.inputs[0], w.inputs[1]
        if x is None or k is None or x.type.rank != 4 or not w.attr("channels_last", 0):
            return "computes channels-last 2-D convolutions only"
        if x.type.dtype not in ("int8", "uint8") or k.type.dtype != "int8":
            return "multiplies int8 or uint8 data by int8 weights"
        if tuple(k.type.shape[:2]) != (3, 3):
            return "needs a 3x3 kernel"
        if w.attr("strides", (1, 1)) != (1, 1) or w.attr("dilations", (1, 1)) != (1, 1) or w.attr("group", 1) != 1:
            return "needs stride 1, dilation 1 and one group"
        if not all(w.constant[1:]):
            return "the weights are not constant, so they cannot be transformed at build"
        lanes = ISAS[w.isa].lanes
        ic, oc = x.type.shape[3], w.outputs[0].type.shape[3]
        if not isinstance(ic, int) or not isinstance(oc, int) or min(ic, oc) < 1:
            return "channel counts must be known at build"
        if ic % max(2 * lanes, 8) or oc % lanes:
            return f"takes input channels by {max(2 * lanes, 8)} and output channels by {lanes}"
        bits = w.attr("bits", 31)
        if not isinstance(bits, int) or bits > _BITS:
            return f"sums may exceed {_BITS} bits"
        pads = w.attr("pads", (0, 0, 0, 0))
        if not isinstance(pads, tuple) or len(pads) != 4 or any(not 0 <= int(p) <= 2 for p in pads):
            return "needs pads of 0 to 2"
        return anchor_declines(w.epilogue, "int32", STORED)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = _shape(w)
        registers = ISAS[w.isa].registers
        share = -(-s.typical // w.threads)
        out: dict[Params, None] = {}
        for wanted in (2, 3, 4):
            nb = -(-s.vectors // -(-s.vectors // wanted))
            rows = min((registers - 1 - nb) // nb, 14)
            per_tile = 4 * _POINTS * (nb * s.lanes + s.ic // 2)
            for budget in (96 << 10, 224 << 10, 448 << 10):
                tiles = -(-share // -(-share // max(rows, budget // per_tile)))
                mr = -(-tiles // -(-tiles // rows))
                ahead = _AHEAD_KB if 2 * _POINTS * s.ic * s.oc > 256 << 10 else 0
                out[(("ahead", ahead), ("mr", mr), ("nb", nb), ("tiles", tiles))] = None
        return sorted(out, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        s, q = _shape(w), dict(params)
        share = -(-s.typical // w.threads)
        groups = -(-q["tiles"] // q["mr"])
        rows = q["tiles"] / groups
        term = max(rows * q["nb"] / (2.0 if s.lanes > 4 else 1.0), (rows + q["nb"]) / 2, 4.0)
        calls = _POINTS * share / rows * s.vectors / q["nb"]
        cycles = calls * (s.ic / 2 * term * 1.03 + 25 + rows * q["nb"] * 1.2)
        instrs = len(w.epilogue.instrs)
        cycles += share * (s.ic / (2 * s.lanes) * _INPUT + s.vectors * (_OUTPUT + 16 * 0.7 * instrs))
        blocks = -(-share // q["tiles"])
        weights = 2 * _POINTS * s.ic * s.oc
        # what leaves the second-level cache streams once a block
        streamed = weights * (1 + (blocks - 1) * min(1.0, weights / 900_000) * 0.5) / _STREAM
        return max(cycles / _CLOCK, streamed) + 0.3 * min(cycles / _CLOCK, streamed)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, q = _shape(w), dict(params)
        points = products_at_points(
            _POINTS, s.ic // 2, True, q["tiles"], q["mr"], q["nb"], s.vectors, s.lanes, q["ahead"]
        )
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        n, h, width, _ = x.type.shape
        _, oh, ow, _ = y.type.shape
        pads = w.attr("pads", (0, 0, 0, 0))
        assert isinstance(pads, tuple)
        text = defines({
            "ENTRY": entry, "BATCH": c_dim(n, w.symbols), "H": c_dim(h, w.symbols), "W": c_dim(width, w.symbols),
            "OH": c_dim(oh, w.symbols), "OW": c_dim(ow, w.symbols), "IC": s.ic, "OC": s.oc,
            "PT": int(pads[0]), "PL": int(pads[1]), "XLD": x.row_stride or s.ic, "OLD": y.row_stride or s.oc,
            "in_t": C_TYPES[x.type.dtype], "ZERO_POINT": f"({w.attr('zero_point', 0)})",
            **points,
        })
        args: tuple[ArgRef, ...] = (
            ("input", 0), ("packed", 0), ("packed", 1), ("workspace", 0), ("output", 0), *epilogue_args(w.epilogue)
        )
        source = template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, 5)
        words = odd_lines(q["tiles"] * odd_lines(s.ic // 2)) + odd_lines(q["tiles"] * q["nb"] * s.lanes)
        source += template_text("points.h", "winograd_codes.c")
        return Kernel(source, (entry,), args, w.symbols, 4 * _POINTS * words)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """U[output-channel block][point][pairs of IC][the block's lanes], and the bias in int32."""
        s, width = _shape(w), dict(params)["nb"] * ISAS[w.isa].lanes
        u = np.einsum("ai,bj,ijco->abco", _G, _G, constants[1].astype(np.int64), optimize=True)
        pairs = u.astype(np.int16).reshape(_POINTS, s.ic // 2, 2, s.oc).transpose(0, 1, 3, 2)
        words = np.ascontiguousarray(pairs).view(np.int32)[..., 0]
        packed = np.concatenate([words[:, :, c : c + width].ravel() for c in range(0, s.oc, width)])
        bias = np.zeros(s.oc, np.int32) if 2 not in constants else np.ascontiguousarray(constants[2], np.int32)
        return packed, bias
