"""Blocking of a convolution or matrix product over packed weights: parameters, candidates and their predicted time.

Shared by every tactic whose template is conv_gemm.c. Nothing here knows about workloads or C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike
from temper.tactics.base import Params
from temper.tactics.conv_geometry import TYPICAL_PIXELS, TYPICAL_WIDTH, ConvShape
from temper.tactics.geometry import static

FLAT, ROWS, COPIED, BAND = 0, 1, 2, 3

#: Bytes of weights that stay in the second-level cache beside the activations.
_L2 = 950_000


#: Register tiles (pixels, vectors) that keep accumulators, weights and a broadcast in registers. The largest (14x2,
#: 9x3, 7x4) never won: their epilogues are too long to overlap with the next tile's products.
_TILES: Mapping[int, tuple[tuple[int, int], ...]] = {  # by lanes
    16: ((6, 4), (7, 2), (8, 2), (10, 2), (8, 3), (7, 3), (5, 5), (4, 6), (12, 1), (14, 1), (24, 1)),
    8: ((6, 2), (4, 3), (5, 2), (12, 1), (7, 1), (3, 4), (4, 2)),
    4: ((5, 2), (4, 2), (3, 3), (10, 1), (7, 1), (2, 4)),
}


def register_tiles(isa: str, vectors: int, run: int | None) -> list[tuple[int, int]]:
    """Tiles for `vectors` vectors of channels and runs of `run` pixels, cut to leave a run no short last tile."""
    out: dict[tuple[int, int], None] = {}
    for mr, nb in _TILES[ISAS[isa].lanes]:
        if nb > vectors or (nb == 1 and vectors > 1):
            continue
        if not run or run > 8 * mr:  # of no pixels there is nothing to fit
            out[mr, nb] = None
        elif run >= mr:
            out[-(-run // -(-run // mr)), nb] = None
        else:
            room = max(m * n for m, n in _TILES[ISAS[isa].lanes] if n > 1) // run
            for n in {min(vectors, room, 16), min(vectors, room // 2, 8)} - {0}:
                out[run, n] = None
    return list(out)


@dataclass(frozen=True)
class Blocking:
    """Parameters of templates/conv_gemm.c.

    mr, nb: register tile in pixels and vectors.
    ocs: channel blocks per weight panel.
    pt: tiles (BAND: output rows) per pixel block.
    kc: terms per K block.
    split: 0 shares pixels between threads, 1 channel blocks.
    ahead: prefetch the next panel.
    """

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
        return (
            ("mr", self.mr),
            ("nb", self.nb),
            ("ocs", self.ocs),
            ("pt", self.pt),
            ("kc", self.kc),
            ("mode", self.mode),
            ("split", self.split),
            ("ahead", self.ahead),
        )

    @staticmethod
    def of(params: Params) -> Blocking:
        return Blocking(**dict(params))


@dataclass(frozen=True)
class Geometry:
    """A shape under a blocking on one code level: what generator, workspace, packing and prediction share."""

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
        """Elements a pixel in BAND mode; never a multiple of 1 KiB, which would crowd few L1 sets."""
        return self.s.icg + 16 if self.s.icg % 256 == 0 else self.s.icg

    @property
    def band_row(self) -> DimLike:
        """Words of a row of pixels in BAND mode."""
        width = self.s.iw + self.s.pads[1] + self.s.pads[3]
        return (width * self.s.packed + 3) // 4 + 1 if self.s.packed else self.band_ld * width

    @property
    def workspace(self) -> DimLike:
        """Bytes of scratch per thread."""
        s, b = self.s, self.b
        floats: DimLike = self.panels * b.mr * self.panel_ld
        if b.kc < s.k:
            floats += b.pt * b.ocs * b.mr * b.nb * self.lanes
        if b.mode == BAND:
            rows = (b.pt - 1) * s.strides[0] + (s.kernel[0] - 1) * s.dilations[0] + 1
            floats = floats + rows * self.band_row + self.lanes
        return 4 * floats

    def tiles(self, pixels: int, width: int) -> int:
        """Register tiles over `pixels` output pixels in rows of `width`."""
        if self.b.mode in (ROWS, BAND):
            return pixels // max(width, 1) * -(-width // self.b.mr)
        return -(-pixels // self.b.mr)


def prefetch_rate(g: Geometry) -> tuple[int, int]:
    """(terms unrolled, cache lines of later weights to fetch for each such group)."""
    unroll = 4 if g.b.mr * g.b.nb >= 8 else 8
    if not g.b.ahead:
        return unroll, 0
    width = static(g.s.ow) or TYPICAL_WIDTH
    per_block = g.b.pt * -(-width // g.b.mr) if g.b.mode == BAND else g.b.pt
    tiles = max(1, min(per_block, g.tiles(static(g.s.pixels) or TYPICAL_PIXELS, width)))
    return unroll, max(1, -(-unroll * g.b.nb * g.lanes * 4 // (64 * tiles)))


def predict_seconds(g: Geometry, isa: str, threads: int, epilogue_ops: int) -> float:
    """Roofline of one blocking: issue-bound register tile, copies, weights per pixel block, balance of the shares."""
    s, b = g.s, g.b
    pixels = static(s.pixels) or TYPICAL_PIXELS
    width = static(s.ow) or TYPICAL_WIDTH
    tiles = g.tiles(pixels, width)
    by_row = b.mode in (ROWS, BAND)
    fma = 1.0 if isa == "portable" else 0.5
    cycles = 0.0
    for vectors, count in ((b.nb, g.vectors // b.nb), (g.nbt, 1 if g.nbt else 0)):
        if count:
            per_term = max(b.mr * vectors * fma, (b.mr + vectors) * 0.5, 4.0) * 1.02 + 0.1
            if s.k * vectors * g.lanes * 4 > 32_000:
                per_term = max(per_term, vectors * g.lanes / 6.5)
            if b.ocs * b.nb * g.lanes * 4 * min(b.kc, s.k) > _L2 and b.pt > 1:
                per_term = max(per_term, vectors * g.lanes / 4) * 1.1
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
        pixel = s.packed / 64 if s.packed else s.icg / g.lanes * 1.4 + (4 if s.xld != g.band_ld else 0)
        copies = blocks * rows * width * s.strides[1] * pixel
    cycles += copies * s.groups / (1 if b.split else threads)
    weights = s.k * g.vectors * g.lanes * 4
    if b.ocs < g.blocks or weights > 700_000:
        cycles += (blocks - 1) * s.groups * weights / (48 if b.ahead else 24)
        reads = -(-g.blocks // b.ocs)
        if b.pt * b.mr * min(b.kc, s.k) * 4 > 600_000:
            cycles += (reads - 1) * pixels * s.groups * s.icg * 4 / 60
    if b.mode != BAND and s.xld % 1024 == 0 and b.mr > 10:
        cycles *= 1.05
    return (cycles + weights * s.groups / (20 if b.ahead else 12)) / 3.8e9


def blockings(s: ConvShape, isa: str, threads: int, in_place: bool = True) -> list[Blocking]:
    """Every blocking worth ranking for a shape. in_place: tiles may read the image itself."""
    lanes = ISAS[isa].lanes
    vectors = -(-s.ocg // lanes)
    pixels = static(s.pixels)
    known = pixels or TYPICAL_PIXELS
    width = static(s.ow)
    direct = [FLAT] if s.flat else [ROWS, COPIED]
    modes = [BAND] if s.packed else direct if in_place and not s.padded else [BAND, COPIED]
    out: dict[Blocking, None] = {}
    for mode in modes:
        run = width if mode in (ROWS, BAND) else pixels
        for mr, nb in register_tiles(isa, vectors, run):
            base = Blocking(mr, nb, 1, 1, s.k, mode, 0, 0)
            g = Geometry(s, base, lanes)
            for kc in _k_blocks(g):
                for ocs, pt in _panels(g, kc, known, width or TYPICAL_WIDTH):
                    for split in (0, 1) if threads > 1 else (0,):
                        ahead = int(ocs < g.blocks and (pixels is None or pixels >= 4))
                        out[replace(base, ocs=ocs, pt=pt, kc=kc, split=split, ahead=ahead)] = None
    return list(out)


def _panels(g: Geometry, kc: int, pixels: int, width: int) -> list[tuple[int, int]]:
    """(channel blocks per weight panel, tiles or rows per pixel block): all weights resident, or one panel of them.

    Only a K block of the pixels has to stay in the second-level cache while a panel passes over them.
    """
    s, b = g.s, g.b
    tiles = -(-pixels // width) if b.mode == BAND else g.tiles(pixels, width)
    one = 4 * (
        (-(-s.packed // 4) or s.icg) * width * s.strides[0] * s.strides[1]
        if b.mode == BAND
        else b.mr * (g.panel_ld if b.mode == COPIED else min(kc, s.k))
    )
    out: dict[tuple[int, int], None] = {}
    if s.k * g.vectors * g.lanes * 4 < 900_000 or g.blocks == 1:
        out[g.blocks, min(tiles, max(1, 16_000 // one)) if b.mode == BAND else 1] = None
    if g.blocks > 1:
        out[1, tiles if tiles * one < 1_200_000 else min(tiles, max(1, 400_000 // one))] = None
    return list(out)


def _k_blocks(g: Geometry) -> list[int]:
    k = g.s.k
    if k < 2048 or (g.b.mode in (ROWS, BAND) and g.s.kernel != (1, 1)):
        return [k]
    return [k, 1024] if k < 3072 else [k, 1024, 1536]
