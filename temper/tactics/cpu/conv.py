"""Float convolution as an implicit matrix product (templates/conv_gemm.c), and the fallback that computes any convolution.

The same template computes a matrix product with a constant right operand: a 1x1 convolution of a one-row image (gemm.py).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, product
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

FLAT, ROWS, COPIED, BAND = 0, 1, 2, 3

#: Pixel count that stands for an unknown one when candidates are ranked.
_TYPICAL_PIXELS = 784


@dataclass(frozen=True)
class ConvShape:
    """Geometry of a convolution per group, with pixel strides (elements) of input and output.

    img_rows: output rows per index of axis 0, for the epilogue's `img`. Only n, ih, iw, oh, ow, img_rows may be symbolic.
    """

    n: DimLike
    ih: DimLike
    iw: DimLike
    oh: DimLike
    ow: DimLike
    icg: int
    ocg: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    xld: int
    old: int
    img_rows: DimLike

    @property
    def k(self) -> int:
        """Products per output element."""
        return self.kernel[0] * self.kernel[1] * self.icg

    @property
    def pixels(self) -> DimLike:
        return product((self.n, self.oh, self.ow))

    @property
    def flat(self) -> bool:
        """Output pixel i reads exactly input pixel i."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def padded(self) -> bool:
        """A tap can fall outside the input."""
        return any(p > 0 for p in self.pads)


def static(d: DimLike) -> int | None:
    """The dimension if it is known."""
    return None if isinstance(d, Dim) else int(d)


def decline_dtype(w: Workload) -> str | None:
    """Reason a float32 tactic declines, from the dtypes of the anchor's inputs, its accumulator and the first result."""
    types = [s.type.dtype for s in w.inputs if s is not None] + [w.outputs[0].type.dtype, w.epilogue.operands[0].dtype]
    odd = sorted({t for t in types if t != "float32"})
    return f"computes float32 only, not {', '.join(odd)}" if odd else None


def conv_shape(w: Workload) -> ConvShape | str:
    """Geometry of a channels-last 2-D Conv workload, or the reason it has none here."""
    x, k = w.inputs[0], w.inputs[1]
    if x is None or k is None:
        return "a convolution needs input and weights"
    if x.type.rank != 4 or k.type.rank != 4:
        return f"computes 2-D convolutions (rank 4), not rank {x.type.rank}"
    if not w.attr("channels_last", 0):
        return "computes channels-last tensors only"
    channels, oc = static(x.type.shape[3]), static(k.type.shape[3])
    kh, kw, icg = (static(d) for d in k.type.shape[:3])
    groups = w.attr("group", 1)
    if channels is None or oc is None or kh is None or kw is None or icg is None or not isinstance(groups, int):
        return "channel counts and kernel size must be known at build time"
    if channels != icg * groups or oc % groups:
        return f"{channels} input and {oc} output channels do not fit {groups} groups of {icg}"
    n, ih, iw, _ = x.type.shape
    out = w.outputs[0]
    _, oh, ow, _ = out.type.shape
    return ConvShape(n, ih, iw, oh, ow, icg, oc // groups, groups, (kh, kw), _pair(w, "strides"), _pair(w, "dilations"), _pads(w),
                     x.row_stride or channels, out.row_stride or oc, product((oh, ow)))


def _pair(w: Workload, name: str) -> tuple[int, int]:
    value = w.attr(name, (1, 1))
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"Conv attribute {name} must have 2 entries, not {value!r}")
    return int(value[0]), int(value[1])


def _pads(w: Workload) -> tuple[int, int, int, int]:
    value = w.attr("pads", (0, 0, 0, 0))
    if not isinstance(value, tuple) or len(value) != 4:
        raise ValueError(f"Conv attribute pads must have 4 entries, not {value!r}")
    t, left, b, r = (int(p) for p in value)
    return t, left, b, r


#: Register tiles (pixels, vectors) that keep accumulators, weights and a broadcast in registers. The largest (14x2, 9x3, 7x4) never
#: won: their epilogues are too long to overlap with the next tile's products.
_TILES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "avx512": ((6, 4), (7, 2), (8, 2), (10, 2), (8, 3), (7, 3), (5, 5), (4, 6), (12, 1), (14, 1), (24, 1)),
    "avx2": ((6, 2), (4, 3), (5, 2), (12, 1), (7, 1), (3, 4), (4, 2)),
    "portable": ((5, 2), (4, 2), (3, 3), (10, 1), (7, 1), (2, 4)),
}


def register_tiles(isa: str, vectors: int, run: int | None) -> list[tuple[int, int]]:
    """Tiles for `vectors` vectors of channels and runs of `run` pixels, cut so that the last tile of a run is not much shorter."""
    out = {}
    for mr, nb in _TILES[isa]:
        if nb > vectors or (nb == 1 and vectors > 1):
            continue
        if run is None or run > 8 * mr:
            out[mr, nb] = None
        elif run >= mr:
            out[-(-run // -(-run // mr)), nb] = None
        else:
            room = max(m * n for m, n in _TILES[isa] if n > 1) // run
            for n in {min(vectors, room, 16), min(vectors, room // 2, 8)} - {0}:
                out[run, n] = None
    return list(out)


@dataclass(frozen=True)
class Blocking:
    """Parameters of templates/conv_gemm.c. ocs: channel blocks per weight panel; pt: tiles per pixel block; kc: terms per K block."""

    mr: int
    nb: int
    ocs: int
    pt: int
    kc: int
    mode: int
    split: int
    ahead: int

    @property
    def params(self) -> Params:
        return (("mr", self.mr), ("nb", self.nb), ("ocs", self.ocs), ("pt", self.pt), ("kc", self.kc), ("mode", self.mode),
                ("split", self.split), ("ahead", self.ahead))

    @staticmethod
    def of(params: Params) -> Blocking:
        return Blocking(**dict(params))


@dataclass(frozen=True)
class Geometry:
    """A shape under a blocking on one code level: the numbers that generator, workspace, packing and prediction share."""

    s: ConvShape
    b: Blocking
    lanes: int

    @property
    def vectors(self) -> int:
        return -(-self.s.ocg // self.lanes)

    @property
    def blocks(self) -> int:
        return -(-self.vectors // self.b.nb)

    @property
    def nbt(self) -> int:
        return self.vectors % self.b.nb

    @property
    def nlt(self) -> int:
        return self.s.ocg - (self.vectors - 1) * self.lanes

    @property
    def mrt(self) -> int:
        """Pixels of the last tile (of a row, in ROWS mode): 0 if full, -1 if unknown until run time."""
        run = static(self.s.ow if self.b.mode in (ROWS, BAND) else self.s.pixels)
        return -1 if run is None else run % self.b.mr

    @property
    def panel_ld(self) -> int:
        return ((self.s.k + self.lanes + 15) // 16 | 1) * 16

    @property
    def panels(self) -> int:
        return self.b.pt if self.b.mode == COPIED else int(self.mrt < 0)

    @property
    def band_ld(self) -> int:
        """Elements a pixel in BAND mode: as in the image, but never a multiple of 1 KiB, which would crowd few L1 sets."""
        return self.s.icg + 16 if self.s.icg % 256 == 0 else self.s.icg

    @property
    def workspace(self) -> DimLike:
        """Bytes of scratch per thread."""
        s, b = self.s, self.b
        floats: DimLike = self.panels * b.mr * self.panel_ld
        if b.kc < s.k:
            floats += b.pt * b.ocs * b.mr * b.nb * self.lanes
        if b.mode == BAND:
            rows = (b.pt - 1) * s.strides[0] + (s.kernel[0] - 1) * s.dilations[0] + 1
            floats = floats + rows * self.band_ld * (s.iw + s.pads[1] + s.pads[3]) + self.lanes
        return 4 * floats

    def tiles(self, pixels: int, width: int) -> int:
        """Register tiles over `pixels` output pixels in rows of `width`."""
        if self.b.mode in (ROWS, BAND):
            return pixels // max(width, 1) * -(-width // self.b.mr)
        return -(-pixels // self.b.mr)


def conv_kernel(g: Geometry, w: Workload, entry: str, refs: Sequence[ArgRef], bias: int) -> Kernel:
    """The kernel for a geometry. refs: the anchor's pointer arguments x, weights[, bias]; bias: 0 none, 1 padded per group, 2 exact."""
    s, b = g.s, g.b
    symbols = w.symbols
    args: list[ArgRef] = [*refs, ("output", 0), *epilogue_args(w.epilogue)]
    out = len(refs)
    workspace = g.workspace
    if workspace != 0:
        args.append(("workspace", 0))
    unroll, lines = _prefetch(g)
    text = defines({
        "ENTRY": entry, "BATCH": c_dim(s.n, symbols), "IH": c_dim(s.ih, symbols), "IW": c_dim(s.iw, symbols),
        "OH": c_dim(s.oh, symbols), "OW": c_dim(s.ow, symbols), "IMG_ROWS": c_dim(s.img_rows, symbols),
        "ICG": s.icg, "OCG": s.ocg, "GROUPS": s.groups, "KH": s.kernel[0], "KW": s.kernel[1], "SH": s.strides[0], "SW": s.strides[1],
        "DH": s.dilations[0], "DW": s.dilations[1], "PAD_T": f"({s.pads[0]})", "PAD_L": f"({s.pads[1]})",
        "PAD_R": f"({s.pads[3]})", "PADDED": int(s.padded), "BAND_LD": g.band_ld, "XLD": s.xld, "OLD": s.old,
        "MR": b.mr, "MRT": f"({g.mrt})", "NB": b.nb, "NBT": g.nbt, "NLT": g.nlt, "OCS": b.ocs, "PT": b.pt, "KC": b.kc, "UK": unroll,
        "PFL": lines, "MODE": b.mode, "SPLIT": b.split, "EPI_LOOP": int(_heavy(w)), "BIAS": bias, "P_X": 0, "P_W": 1, "P_BIAS": 2,
        "P_OUT": out, "P_WS": len(args) - 1 if workspace != 0 else "(-1)",
    })
    source = template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, out + 1) + template_text("conv_gemm.c")
    return Kernel(source, (entry,), tuple(args), symbols, workspace)


def _heavy(w: Workload) -> bool:
    """True if the epilogue is too long to be repeated for every vector of a register tile."""
    cheap = {"Relu", "Add", "Sub", "Mul", "Clip", "Max", "Min", "LeakyRelu", "Neg", "Abs"}
    return len(w.epilogue.instrs) > 5 or any(i.op not in cheap for i in w.epilogue.instrs)


def _prefetch(g: Geometry) -> tuple[int, int]:
    """(terms unrolled, cache lines of later weights to fetch for each such group)."""
    unroll = 4 if g.b.mr * g.b.nb >= 8 else 8
    if not g.b.ahead:
        return unroll, 0
    tiles = min(g.b.pt, -(-(static(g.s.pixels) or _TYPICAL_PIXELS) // g.b.mr))
    return unroll, max(1, -(-unroll * g.b.nb * g.lanes * 4 // (64 * max(tiles, 1))))


def pack_weights(g: Geometry, weights: np.ndarray) -> np.ndarray:
    """[K, groups * ocg] float32 -> flat [group][block][K][vectors of the block * lanes], zeros in the padding lanes."""
    s, lanes = g.s, g.lanes
    padded = np.zeros((s.groups, s.k, g.vectors * lanes), np.float32)
    padded[:, :, :s.ocg] = weights.reshape(s.k, s.groups, s.ocg).transpose(1, 0, 2)
    width = g.b.nb * lanes
    pieces = [padded[i, :, j:j + width].ravel() for i in range(s.groups) for j in range(0, g.vectors * lanes, width)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def pack_bias(g: Geometry, bias: np.ndarray) -> np.ndarray:
    """[groups * ocg] float32 -> flat [group][vectors * lanes], zeros in the padding lanes."""
    padded = np.zeros((g.s.groups, g.vectors * g.lanes), np.float32)
    padded[:, :g.s.ocg] = bias.reshape(g.s.groups, g.s.ocg)
    return padded.ravel()


def predict_seconds(g: Geometry, isa: str, threads: int, epilogue_ops: int) -> float:
    """Roofline of one blocking: issue-bound register tile, copies, weights per pixel block, balance of the thread shares."""
    s, b = g.s, g.b
    pixels = static(s.pixels) or _TYPICAL_PIXELS
    width = static(s.ow) or 28
    tiles = g.tiles(pixels, width)
    by_row = b.mode in (ROWS, BAND)
    fma = 1.0 if isa == "portable" else 0.5
    cycles = 0.0
    for vectors, count in ((b.nb, g.vectors // b.nb), (g.nbt, 1 if g.nbt else 0)):
        if count:
            per_term = max(b.mr * vectors * fma, (b.mr + vectors) * 0.5, 4.0) * 1.02 + 0.1
            stores = b.mr * vectors
            per_call = s.k * per_term + 20 + stores * (1.0 + 0.7 * epilogue_ops) * min(1.5, stores / 20)
            if b.kc < s.k:
                per_call += -(-s.k // b.kc) * (b.mr * vectors * 1.5 + 20)
            cycles += count * per_call
    cycles *= tiles * s.groups
    last = g.mrt if g.mrt > 0 else b.mr
    run = -(-width // b.mr) if by_row else tiles
    cycles *= 1 - (1 - last / b.mr) / max(run, 1)
    units = s.groups * g.blocks if b.split else tiles
    cycles *= -(-units // threads) / units
    blocks = max(1, -(-(pixels // max(width, 1)) // b.pt)) if b.mode == BAND else -(-tiles // b.pt)
    copies = 0.0
    if b.mode == COPIED:
        copies = pixels * (s.k / g.lanes * 1.4 + s.kernel[0] * 6)
    elif b.mode == BAND:
        rows = (b.pt - 1) * s.strides[0] + (s.kernel[0] - 1) * s.dilations[0] + 1
        copies = blocks * rows * width * s.strides[1] * (s.icg / g.lanes * 1.4 + (4 if s.xld != g.band_ld else 0))
    cycles += copies * s.groups / (1 if b.split else threads)
    weights = s.k * g.vectors * g.lanes * 4
    if b.ocs < g.blocks or weights > 700_000:
        cycles += (blocks - 1) * s.groups * weights / (48 if b.ahead else 24)
        reads = -(-g.blocks // b.ocs)
        if b.pt * b.mr * s.k * 4 > 600_000:
            cycles += (reads - 1) * pixels * s.groups * s.icg * 4 / 60
    if b.mode != BAND and s.xld % 1024 == 0 and b.mr > 7:
        cycles *= 1.05
    return (cycles + weights * s.groups / (20 if b.ahead else 12)) / 3.8e9


def blockings(s: ConvShape, isa: str, threads: int) -> list[Blocking]:
    """Every blocking worth ranking for a shape."""
    lanes = ISAS[isa].lanes
    vectors = -(-s.ocg // lanes)
    pixels = static(s.pixels)
    known = pixels or _TYPICAL_PIXELS
    width = static(s.ow)
    modes = [FLAT] if s.flat else [BAND, COPIED] if s.padded else [ROWS, COPIED]
    out: dict[Blocking, None] = {}
    for mode in modes:
        run = width if mode in (ROWS, BAND) else pixels
        for mr, nb in register_tiles(isa, vectors, run):
            base = Blocking(mr, nb, 1, 1, s.k, mode, 0, 0)
            g = Geometry(s, base, lanes)
            for ocs, pt in _panels(g, known, width or 28):
                for kc in _k_blocks(g):
                    for split in ((0, 1) if threads > 1 else (0,)):
                        out[replace(base, ocs=ocs, pt=pt, kc=kc, split=split, ahead=int(ocs < g.blocks))] = None
    return list(out)


def _panels(g: Geometry, pixels: int, width: int) -> list[tuple[int, int]]:
    """(channel blocks per weight panel, tiles or rows per pixel block): weights resident, pixels resident, and in between."""
    s, b = g.s, g.b
    tiles = -(-pixels // width) if b.mode == BAND else g.tiles(pixels, width)
    one = 4 * (s.icg * width * s.strides[0] * s.strides[1] if b.mode == BAND else b.mr * (g.panel_ld if b.mode == COPIED else s.k))
    out = {}
    if s.k * g.vectors * g.lanes * 4 < 900_000 or g.blocks == 1:
        out[g.blocks, min(tiles, max(1, 16_000 // one)) if b.mode == BAND else 1] = None
    if g.blocks > 1:
        out[1, tiles if tiles * one < 1_200_000 else min(tiles, max(1, 400_000 // one))] = None
    return list(out)


def _k_blocks(g: Geometry) -> list[int]:
    k = g.s.k
    if k < 2048 or (g.b.mode in (ROWS, BAND) and g.s.kernel != (1, 1)):
        return [k]
    return [k, 1024]


class ConvGemm:
    """Any 2-D convolution with constant float32 weights, dense or grouped, by register tiles over packed weights."""

    name = "cpu.conv_gemm"

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
        packed = pack_weights(g, constants[1])
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
        return (static(s.pixels) or _TYPICAL_PIXELS) * vectors * (s.k * 6.0 + 30) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s = _shape(w)
        symbols = w.symbols
        bias = int(len(w.inputs) > 2 and w.inputs[2] is not None)
        args: list[ArgRef] = [*(("input", i) for i in range(2 + bias)), ("output", 0), *epilogue_args(w.epilogue)]
        text = defines({
            "ENTRY": entry, "BATCH": c_dim(s.n, symbols), "IH": c_dim(s.ih, symbols), "IW": c_dim(s.iw, symbols),
            "OH": c_dim(s.oh, symbols), "OW": c_dim(s.ow, symbols), "ICG": s.icg, "OCG": s.ocg, "GROUPS": s.groups,
            "KH": s.kernel[0], "KW": s.kernel[1], "SH": s.strides[0], "SW": s.strides[1], "DH": s.dilations[0], "DW": s.dilations[1],
            "PAD_T": f"({s.pads[0]})", "PAD_L": f"({s.pads[1]})", "XLD": s.xld, "OLD": s.old, "BIAS": bias,
            "P_OUT": 2 + bias,
        })
        source = template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, 3 + bias) + template_text("conv_any.c")
        return Kernel(source, (entry,), tuple(args), symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


#: Exported for the registry: general first, fallback last.
TACTICS: tuple[ConvGemm | ConvFallback, ...] = (ConvGemm(), ConvFallback())
