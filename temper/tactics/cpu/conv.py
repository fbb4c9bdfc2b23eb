"""Float convolution as an implicit matrix product (templates/conv_gemm.c), and the fallback for any convolution.

The same template computes a matrix product with a constant right operand: a 1x1 convolution of one row (gemm.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.conv_geometry import TYPICAL_PIXELS, ConvShape, conv_shape
from temper.tactics.cpu.blocking import COPIED, Blocking, Geometry, blockings, predict_seconds, prefetch_rate
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import static


def decline_dtype(w: Workload) -> str | None:
    """Reason a float32 tactic declines, by the dtypes of the anchor's inputs, accumulator and first result."""
    types = [s.type.dtype for s in w.inputs if s is not None] + [w.outputs[0].type.dtype, w.epilogue.operands[0].dtype]
    odd = sorted({t for t in types if t != "float32"})
    return f"computes float32 only, not {', '.join(odd)}" if odd else None


@dataclass(frozen=True)
class Terms:
    """What the words of the product are (tile.h), and the input they come from.

    kind: FLOAT, HALVES, BYTES or PAIRS.
    in_t: C type of the input.
    channels: its elements per group, xld: per pixel.
    zero_point: the input's code for zero, which padding holds.
    flip: signed bytes are made unsigned.
    widened: bfloat16 is made float.
    sums: where the sums of a channel's weights are, counted from its bias; -1 if the zero point is a constant.
    packed: a kernel row is one tap, in which pixels follow each other (ConvShape.packed).
    """

    kind: str
    in_t: str
    channels: int
    xld: int
    zero_point: int = 0
    flip: bool = False
    widened: bool = False
    sums: int = -1
    packed: bool = False

    @property
    def defines(self) -> dict[str, int | str]:
        return {
            "FLOAT": 0,
            "BYTES": 1,
            "PAIRS": 2,
            "HALVES": 3,
            "TERMS": self.kind,
            "in_t": self.in_t,
            "ICX": self.channels,
            "XLD": self.xld,
            "ZERO_POINT": f"({self.zero_point})",
            "FLIP": int(self.flip),
            "PACKED": int(self.packed),
            "WIDENED": int(self.widened),
            "SUMS": f"({self.sums})",
        }


def conv_kernel(
    g: Geometry, w: Workload, entry: str, refs: Sequence[ArgRef], bias: int, terms: Terms | None = None
) -> Kernel:
    """The kernel for a geometry.

    refs: the anchor's pointer arguments x, weights[, bias[, zero point]].
    bias: 0 none, 1 padded per group, 2 of exact length.
    terms: floats if None; otherwise `g.s` counts input channels in words.
    """
    s, b = g.s, g.b
    symbols = w.symbols
    args: list[ArgRef] = [*refs, ("output", 0), *epilogue_args(w.epilogue)]
    out = len(refs)
    workspace = g.workspace
    if workspace != 0:
        args.append(("workspace", 0))
    unroll, lines = prefetch_rate(g)
    text = defines(
        {
            "ENTRY": entry,
            "BATCH": c_dim(s.n, symbols),
            "IH": c_dim(s.ih, symbols),
            "IW": c_dim(s.iw, symbols),
            "OH": c_dim(s.oh, symbols),
            "OW": c_dim(s.ow, symbols),
            "IMG_ROWS": c_dim(s.img_rows, symbols),
            **(terms or Terms("FLOAT", "float", s.icg, s.xld)).defines,
            "ICG": s.icg,
            "OCG": s.ocg,
            "GROUPS": s.groups,
            "KH": s.kernel[0],
            "KW": s.kernel[1],
            "SH": s.strides[0],
            "SW": s.strides[1],
            "DH": s.dilations[0],
            "DW": s.dilations[1],
            "PAD_T": f"({s.pads[0]})",
            "PAD_L": f"({s.pads[1]})",
            "PAD_R": f"({s.pads[3]})",
            "PADDED": int(s.padded),
            "BAND_LD": g.band_ld,
            "OLD": s.old,
            "MR": b.mr,
            "MRT": f"({g.mrt})",
            "NB": b.nb,
            "NBT": g.nbt,
            "NLT": g.nlt,
            "OCS": b.ocs,
            "PT": b.pt,
            "KC": b.kc,
            "KBLOCKED": int(b.kc < s.k),
            "LATE": int(terms is not None and _late(g)),
            "UK": unroll,
            "PFL": lines,
            "MODE": b.mode,
            "SPLIT": b.split,
            "EPI_LOOP": int(heavy_epilogue(w)),
            "BIAS": bias,
            "P_X": 0,
            "P_W": 1,
            "P_BIAS": 2,
            "P_ZERO": 3,
            "P_OUT": out,
            "P_WS": len(args) - 1 if workspace != 0 else "(-1)",
        }
    )
    source = (
        template_text("vec.h", "vmath.h")
        + text
        + workload_epilogue_c(w, out + 1)
        + template_text("tile.h", "conv_gemm.c")
    )
    return Kernel(source, (entry,), tuple(args), symbols, workspace)


def _late(g: Geometry) -> bool:
    """True if a tile's products are many enough, in one run, to make the results of the tile before between them. Of
    fewer than 128 words that costs more than it hides (measured: 16 words, 1.4 times the time)."""
    one_run = g.s.kernel == (1, 1) or g.b.mode == COPIED
    return one_run and g.b.kc >= g.s.k >= 128 and g.lanes == 16


def heavy_epilogue(w: Workload) -> bool:
    """True if the epilogue is too long to be repeated for every vector of a register tile."""
    cheap = {"Relu", "Add", "Sub", "Mul", "Clip", "Max", "Min", "LeakyRelu", "Neg", "Abs", "Cast", "Saturate"}
    return len(w.epilogue.instrs) > 7 or any(i.op not in cheap for i in w.epilogue.instrs)


def pack_words(g: Geometry, weights: np.ndarray) -> np.ndarray:
    """[K, groups * ocg] words -> flat [group][block][K][vectors of the block * lanes], zeros in the padding lanes."""
    s, lanes = g.s, g.lanes
    padded = np.zeros((s.groups, s.k, g.vectors * lanes), weights.dtype)
    padded[:, :, : s.ocg] = weights.reshape(s.k, s.groups, s.ocg).transpose(1, 0, 2)
    width = g.b.nb * lanes
    pieces = [padded[i, :, j : j + width].ravel() for i in range(s.groups) for j in range(0, g.vectors * lanes, width)]
    return np.concatenate(pieces) if pieces else np.zeros(0, weights.dtype)


def pack_bias(g: Geometry, bias: np.ndarray) -> np.ndarray:
    """[groups * ocg] -> flat [group][vectors * lanes], zeros in the padding lanes."""
    padded = np.zeros((g.s.groups, g.vectors * g.lanes), bias.dtype)
    padded[:, : g.s.ocg] = bias.reshape(g.s.groups, g.s.ocg)
    return padded.ravel()


class ConvGemm:
    """Any 2-D convolution with constant float32 weights, dense or grouped, by register tiles over packed weights."""

    name = "cpu.conv_gemm"
    ops = frozenset({"Conv"})
    packing = ("nb",)

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Conv":
            return f"computes Conv, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if reason := decline_dtype(w) or anchor_declines(w.epilogue):
            return reason
        s = conv_shape(w)
        if isinstance(s, str):
            return s
        if not w.constant[1]:
            return "weights must be constant to be packed"
        if s.groups > 1 and s.icg == 1:
            return "depthwise: one input channel per group leaves nothing to share in a register tile"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = _shape(w)
        return [b.params for b in sorted(blockings(s, w.isa, w.threads), key=lambda b: self.predict(w, b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        g = Geometry(_shape(w), Blocking.of(params), ISAS[w.isa].lanes)
        return predict_seconds(g, w.isa, w.threads, len(w.epilogue.instrs))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        g = Geometry(_shape(w), Blocking.of(params), ISAS[w.isa].lanes)
        refs: list[ArgRef] = [("input", 0), ("packed", 0)]
        bias = _bias_kind(w)
        if bias:
            refs.append(("packed", 1) if bias == 1 else ("input", 2))
        return conv_kernel(g, w, entry, refs, bias)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        g = Geometry(_shape(w), Blocking.of(params), ISAS[w.isa].lanes)
        packed = pack_words(g, constants[1])
        return (packed, pack_bias(g, constants[2])) if _bias_kind(w) == 1 else (packed,)


def _bias_kind(w: Workload) -> int:
    if len(w.inputs) < 3 or w.inputs[2] is None:
        return 0
    return 1 if w.constant[2] else 2


def _shape(w: Workload) -> ConvShape:
    s = conv_shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s


class ConvFallback:
    """Every 2-D float32 convolution: any group, dilation, stride; weights as they are, even if not constant. Slow."""

    name = "cpu.conv_fallback"
    ops = frozenset({"Conv"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Conv":
            return f"computes Conv, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if reason := decline_dtype(w) or anchor_declines(w.epilogue):
            return reason
        s = conv_shape(w)
        return s if isinstance(s, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        s = _shape(w)
        lanes = ISAS[w.isa].lanes
        vectors = -(-s.ocg // lanes) * s.groups
        return (static(s.pixels) or TYPICAL_PIXELS) * vectors * (s.k * 6.0 + 30) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s = _shape(w)
        symbols = w.symbols
        bias = int(len(w.inputs) > 2 and w.inputs[2] is not None)
        args: list[ArgRef] = [*(("input", i) for i in range(2 + bias)), ("output", 0), *epilogue_args(w.epilogue)]
        text = defines(
            {
                "ENTRY": entry,
                "BATCH": c_dim(s.n, symbols),
                "IH": c_dim(s.ih, symbols),
                "IW": c_dim(s.iw, symbols),
                "OH": c_dim(s.oh, symbols),
                "OW": c_dim(s.ow, symbols),
                "ICG": s.icg,
                "OCG": s.ocg,
                "GROUPS": s.groups,
                "KH": s.kernel[0],
                "KW": s.kernel[1],
                "SH": s.strides[0],
                "SW": s.strides[1],
                "DH": s.dilations[0],
                "DW": s.dilations[1],
                "PAD_T": f"({s.pads[0]})",
                "PAD_L": f"({s.pads[1]})",
                "XLD": s.xld,
                "OLD": s.old,
                "BIAS": bias,
                "P_OUT": 2 + bias,
            }
        )
        source = (
            template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, 3 + bias) + template_text("conv_any.c")
        )
        return Kernel(source, (entry,), tuple(args), symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


#: Exported for the registry: general first, fallback last.
