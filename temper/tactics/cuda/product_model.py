"""Cost model of tensor-core products: candidate blockings and their predicted time. Knows no workloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from temper.tactics.conv_geometry import TYPICAL_PIXELS, ConvShape
from temper.tactics.cuda.product_text import ROW, Blocking
from temper.tactics.geometry import static


@dataclass(frozen=True)
class Device:
    """Rough figures of the largest chip of a level; they rank candidates and nothing else.

    flops: per second in 8-bit integers and float16 (tensor cores), in float32 as TF32 and without tensor cores. shared:
    bytes of shared memory one block may use; cache: bytes of the last-level cache.
    """

    processors: int
    flops8: float
    flops16: float
    flops_tf32: float
    flops32: float
    bandwidth: float
    shared: int
    cache: int

    def flops(self, size: int, tf32: bool) -> float:
        return {1: self.flops8, 2: self.flops16}.get(size, self.flops_tf32 if tf32 else self.flops32)


DEVICES: Mapping[str, Device] = {
    "sm_80": Device(108, 624e12, 312e12, 156e12, 19.5e12, 1.9e12, 166_912, 40 << 20),
    "sm_89": Device(142, 724e12, 362e12, 82e12, 91e12, 0.86e12, 101_376, 72 << 20),
    "sm_90": Device(132, 1979e12, 989e12, 494e12, 67e12, 3.0e12, 232_448, 50 << 20),
    "sm_100": Device(148, 4500e12, 2250e12, 1100e12, 75e12, 7.7e12, 232_448, 126 << 20),
}

#: (rows, channels, terms in bytes, warps, stages), tensor cores.
_TILES = (
    (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 8, 4), (128, 128, 128, 4, 4), (256, 64, 128, 8, 3),
    (64, 256, 128, 4, 3), (128, 64, 128, 4, 4), (64, 128, 128, 4, 4), (64, 64, 128, 4, 5), (128, 32, 128, 4, 4),
    (128, 16, 128, 4, 4), (64, 32, 128, 4, 5), (32, 64, 128, 4, 5), (32, 128, 128, 4, 4), (32, 32, 128, 2, 6),
    (16, 64, 128, 4, 6), (16, 32, 128, 2, 6), (16, 128, 128, 4, 5), (64, 64, 256, 4, 3), (32, 64, 256, 4, 4),
    (16, 64, 256, 4, 4), (64, 16, 128, 4, 5),
    (128, 64, 64, 4, 4), (128, 128, 64, 4, 4), (256, 64, 64, 8, 4), (64, 64, 64, 4, 5), (128, 256, 64, 8, 4),
    (256, 128, 64, 8, 4), (128, 16, 64, 4, 4), (128, 32, 64, 4, 4), (64, 32, 64, 4, 5), (64, 16, 64, 2, 5),
    (64, 128, 64, 4, 4), (128, 128, 128, 4, 3), (128, 128, 128, 8, 3),
)  # fmt: skip
#: Float32 products without tensor cores: tiles are bounded by registers; terms in elements.
_TILES32 = (
    (64, 64, 16, 4, 3), (128, 64, 16, 8, 3), (64, 64, 32, 4, 2), (64, 32, 16, 4, 3), (32, 32, 16, 2, 3),
    (64, 16, 16, 2, 3), (128, 32, 16, 4, 3), (32, 64, 32, 4, 3),
)  # fmt: skip

#: Ranges the terms may be split into where tiles leave processors idle.
_SPLITS = (2, 3, 4, 6, 8, 12, 16)


def blockings(s: ConvShape, size: int, isa: str, tf32: bool) -> list[Blocking]:
    """Every sensible blocking for data of `size` bytes an element; at least one."""
    d = DEVICES[isa]
    cores = size < 4 or tf32
    fitting = [
        _blocking(s, size, bm, bn, bk // size if cores else bk, warps, stages)
        for bm, bn, bk, warps, stages in (_TILES if cores else _TILES32)
        if stages * (bm + bn) * (bk if cores else bk * size) <= d.shared
        # the compiler takes 20 s for these, and they are no faster
        and not (size == 2 and bk == 64 and bm * bn > 16384)
    ]
    pixels = static(s.pixels)
    found = [b for b in fitting if _fits(s, b, size, pixels)] or fitting[-2:]
    # a loop of one step has no stages
    found = list({(b.bm, b.bn, b.bk, b.warps, b.steps(s) > 1 and b.stages): b for b in reversed(found)}.values())[::-1]
    return [c for b in found for c in _splits(s, b, d, pixels)]


def _blocking(s: ConvShape, size: int, bm: int, bn: int, bk: int, warps: int, stages: int) -> Blocking:
    flat = int(s.icg < bk and s.icg * size % ROW != 0 and s.kernel != (1, 1))
    return Blocking(bm, bn, bk, warps, stages, 1, flat)


def _fits(s: ConvShape, b: Blocking, size: int, pixels: int | None) -> bool:
    """Whether tiles of this blocking are not mostly empty."""
    if b.bn > max(16, 1 << (s.ocg - 1).bit_length()):
        return False
    if pixels is not None and b.bm > max(16, 1 << (pixels - 1).bit_length()):
        return False
    return bool(b.flat) or b.bk <= 2 * s.icg or b.bk * size <= 64


def _splits(s: ConvShape, b: Blocking, d: Device, pixels: int | None) -> Iterator[Blocking]:
    """The blocking itself, and with split-K where its tiles leave processors idle."""
    yield b
    if pixels is not None:
        tiles, steps = -(-pixels // b.bm) * -(-s.ocg // b.bn), b.steps(s)
        for split in _SPLITS:
            # a part of one step is all start-up
            if tiles * split <= 2 * d.processors and steps >= 2 * split:
                yield replace(b, split=split)


#: Fitted to times of ResNet-50's and BERT-large's products on one H100 (67 workloads, 530 kernels): the first predicted
#: is 16 % slower than the best in the mean, the better of the first two 5 %, both mostly by batch 1.
_EFFICIENCY = 0.81  # of the tensor cores' rate that a step's products reach
_FEED = 51e9  # bytes a second that a processor loads
_DRAM = 0.83  # of the bandwidth
_ROWS_LEAST = 14  # rows of a tile below which fewer take as long
_ADDRESS = 2.5e-12  # seconds to find where a row of 16 bytes of a window lies
_ELEMENT = 6.8e-11  # seconds a processor takes to finish an element
_NEAR, _DIRECT = 0.8, 0.85  # of the time of loads, and of an epilogue
_NARROW = 1.08  # of a step that takes less of a row than it could
_ALONE = 1.15  # of codes' blocks that have a processor to themselves: nothing multiplies while they finish
_CROWDED, _LIGHT = 1.1, 0.92  # of blocks that read a residual: many sums in a thread; small, waiting but once
_EARLY = 0.94  # of blocks whose residual is loaded before the products
_STEP, _START, _BLOCK, _LAUNCH, _PART = 0.81e-6, 1.0e-6, 0.08e-6, 1.6e-6, 1.2e-6


@dataclass(frozen=True)
class Work:
    """What a product is besides its geometry.

    size: bytes of an element of data.
    full: tensors that the epilogue reads at every element.
    functions: such as GELU that it computes there.
    """

    size: int
    tf32: bool
    full: int = 0
    functions: int = 0

    @property
    def element(self) -> float:
        """Seconds of the epilogue, per element."""
        return _ELEMENT + 4e-11 * self.full + 5.7e-11 * self.functions


def _step(b: Blocking, work: Work, d: Device) -> tuple[float, float]:
    """Seconds of the products of one step of a tile, and of its loads."""
    rate = _EFFICIENCY * d.flops(work.size, work.tf32) / d.processors
    return 2 * max(b.bm, _ROWS_LEAST) * b.bn * b.bk / rate, (b.bm + b.bn) * b.bk * work.size / _FEED


def tile_seconds(b: Blocking, terms: int, work: Work, d: Device) -> tuple[float, float, float]:
    """Seconds of a tile's products, its loads and its epilogue."""
    multiply, load = _step(b, work, d)
    return terms / b.bk * multiply, terms / b.bk * load, b.bm * b.bn * work.element


def _bytes(s: ConvShape, work: Work, pixels: int) -> float:
    seen = 1 if s.kernel == (1, 1) else s.strides[0] * s.strides[1]  # input pixels to one of the output
    return work.size * (pixels * (s.icg * seen + s.ocg * (1 + work.full)) + s.k * s.ocg)


def seconds(s: ConvShape, b: Blocking, work: Work, isa: str) -> float:
    """Predicted seconds of a product with one tile (or part of one) per block.

    Blocks that run side by side on a processor share it: together they take as long as the busiest of its units, or as
    long as one block alone if that is more.
    """
    d = DEVICES[isa]
    pixels = static(s.pixels) or TYPICAL_PIXELS
    tiles = -(-pixels // b.bm) * -(-s.ocg // b.bn) * b.split
    steps = -(-b.steps(s) // b.split)
    own = b.bm * b.bn / (32 * b.warps)
    registers = min(255.0, own * (1 + 0.25 * work.full * b.early) + (46 if b.direct else 71))
    fit = d.shared // ((b.stages if steps > 1 else 1) * (b.bm + b.bn) * b.bk * work.size + 1024)
    beside = max(1, min(int(fit), int(65536 // (registers * 32 * b.warps)), 16))
    multiply, load = _step(b, work, d)
    load /= 1 + 0.06 * max(0.0, min(beside, 3.0, tiles / d.processors) - 1)  # more loads are under way
    if b.near:  # windows overlap where their strides are small, and the cache is what shared memory leaves
        load *= _NEAR if s.strides == (1, 1) and b.stages < 4 else 1.0
    address = b.bm * (b.bk * work.size / 16) * _ADDRESS if s.kernel != (1, 1) else 0.0
    finish = b.bm * b.bn * (work.element if b.split == 1 else _ELEMENT / 2) * (_DIRECT if b.direct else 1.0)
    start = _START * (0.7 if b.early else 1.0)
    alone = start + steps * max(multiply + address, load, _STEP / b.stages) + finish * max(1.0, 4 / b.warps)
    busy = max(steps * (multiply + address), steps * load, finish + steps * address) + _BLOCK
    waves, whole = tiles / d.processors, -(-tiles // d.processors)
    if whole <= beside:
        total = max(alone, whole * busy)
    else:
        block = max(busy, alone / min(beside, max(1.0, waves)))
        total = max(waves, 0.5 * (waves + whole)) * block + 0.5 * (alone - block)
    memory = _bytes(s, work, pixels) / (_DRAM * d.bandwidth)
    more = _PART + 8 * b.split * pixels * s.ocg / d.bandwidth if b.split > 1 else 0.0
    if b.bk * work.size < min(128, s.icg * work.size):
        total *= _NARROW
    if work.size == 1 and s.flat and b.bm * b.bn >= 32768:
        total *= _ALONE
    if work.full:  # one step of loads, the residual's among them, is waited for at once: more blocks, not larger ones
        light = steps == 1 and b.bm * b.bn <= 8192 and b.direct
        total *= (_CROWDED if steps <= 4 else 1.0) if own >= 128 else _LIGHT if light else 1.0
        total *= _EARLY if b.early else 1.0
    feed = 0.6 * tiles * steps * load / d.processors  # of blocks alike, those that load less
    return float((total**4 + memory**4 + feed**4) ** 0.25 + _LAUNCH + more)


#: (rows, channels, bytes of terms, warps, stages) of blocks that stay.
_STREAMED = (
    (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 4, 3), (128, 128, 128, 8, 4), (128, 64, 128, 4, 4),
    (256, 64, 128, 8, 3),
)  # fmt: skip


def beside(b: Blocking) -> int:
    """Persistent blocks per processor: two if they have four warps, so that one multiplies while the other finishes."""
    return 2 if b.warps == 4 else 1


def streamed_blockings(s: ConvShape, size: int, isa: str, direct: int = 0) -> list[Blocking]:
    """Blockings worth trying for persistent blocks; none where a tile would be mostly empty. direct: results need no
    shared memory on their way out."""
    pixels, shared = static(s.pixels), DEVICES[isa].shared
    return [
        Blocking(bm, bn, bk // size, warps, stages + direct * (bm * bn == 32768), direct=direct)
        for bm, bn, bk, warps, stages in _STREAMED
        if bn <= max(64, s.ocg)
        and (pixels is None or pixels >= bm)
        and s.icg * size >= 64
        and (stages + direct * (bm * bn == 32768)) * (bm + bn) * bk + bm * bn * (1 - direct)
        <= (shared * warps // 8)
    ]


#: Fitted to BERT-large's and ViT's INT8 products at batch 128: of loads of codes by two blocks, of an epilogue behind
#: the other's products, and of a tile of codes whose sums are waited for a step later.
_BOTH, _BEHIND, _LATE = 0.7, 0.4, 0.82


def streamed_seconds(s: ConvShape, b: Blocking, work: Work, isa: str) -> float:
    """Predicted seconds of a product with persistent blocks.

    One block a processor: loads hide behind the products, and the epilogue follows them. Of two blocks on a processor,
    one multiplies during the other's epilogue.
    """
    d = DEVICES[isa]
    pixels = static(s.pixels) or TYPICAL_PIXELS
    tiles, together = -(-pixels // b.bm) * -(-s.ocg // b.bn), beside(b)
    finish = b.bm * b.bn * work.element * max(1.0, 4 / b.warps) * (_DIRECT if b.direct else 1.0)
    if b.warps < 8 or work.full:  # nothing else runs while a tile's residual is waited for
        finish *= 1.2
    multiply, load = _step(b, work, d)
    if together > 1 and tiles > d.processors:
        tile = b.steps(s) * max(multiply, load * (_BOTH if work.size == 1 else 1.0)) + _BEHIND * finish
    else:
        together = 1
        tile = (b.steps(s) * max(multiply, load) + finish) * (_LATE if work.size == 1 else 1.0)
    memory = _bytes(s, work, pixels) / (_DRAM * d.bandwidth)
    total = -(-tiles // (d.processors * together)) * together * tile
    return float((total**4 + memory**4) ** 0.25 + _LAUNCH + 2.6e-6)


#: Of blocks that keep their weights, fitted to 131 kernels of 7 workloads in codes: seconds of an element and of its
#: residual, of a start, and of what is waited for where data are copied no more than one tile ahead; warps of a
#: processor below which instructions wait for each other. What keeps them out of the contest where a block computes
#: one tile, so that nothing is kept.
_KEPT_ELEMENT, _KEPT_FULL, _KEPT_START, _KEPT_WAIT, _KEPT_WARPS = 4e-11, 4.5e-11, 0.9e-6, 1.4e-6, 4.7
_KEPT_ONCE = 50e-6


def kept_seconds(s: ConvShape, b: Blocking, beside: int, work: Work, isa: str) -> float:
    """Predicted seconds of a weight-stationary product with `beside` blocks on a processor: a tile's loads overlap with
    the epilogues of others."""
    d = DEVICES[isa]
    pixels = static(s.pixels) or TYPICAL_PIXELS
    columns, blocks = -(-s.ocg // b.bn), -(-pixels // b.bm)
    groups = min(blocks, max(1, d.processors * beside // columns))
    multiply = _step(b, work, d)[0]
    load = b.bm * work.size * (b.bk + work.full * b.bn) / (2 * _FEED)
    element = _KEPT_ELEMENT + _KEPT_FULL * work.full + (work.element - _ELEMENT - 4e-11 * work.full)
    finish = b.bm * b.bn * element
    alone = multiply + finish * max(1.0, _KEPT_WARPS / b.warps) + (_KEPT_WAIT if b.stages < 3 else 0.0)
    busy = beside * (max(multiply, load, finish * max(1.0, _KEPT_WARPS / (b.warps * beside))) + _BLOCK)
    turns = -(-blocks // groups)
    total = _KEPT_START + turns * max(alone, busy) + (0.0 if turns > 1 else _KEPT_ONCE)
    memory = _bytes(s, work, pixels) / (_DRAM * d.bandwidth)
    return float((total**4 + memory**4) ** 0.25 + _LAUNCH)
