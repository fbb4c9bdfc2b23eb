"""Blockings of products on tensor cores and the time they should take; nothing here knows about workloads or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from temper.tactics.cpu.blocking import TYPICAL_PIXELS, ConvShape, static
from temper.tactics.cuda.product_text import ROW, Blocking


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
)  # fmt: skip
#: Float32 products without tensor cores: tiles are bounded by registers; terms in elements.
_TILES32 = (
    (64, 64, 16, 4, 3), (128, 64, 16, 8, 3), (64, 64, 32, 4, 2), (64, 32, 16, 4, 3), (32, 32, 16, 2, 3),
    (64, 16, 16, 2, 3), (128, 32, 16, 4, 3), (32, 64, 32, 4, 3),
)  # fmt: skip

#: Ranges the terms may be split into where tiles leave processors idle.
_SPLITS = (2, 3, 4, 6, 8, 12, 16)


def blockings(s: ConvShape, size: int, isa: str, tf32: bool) -> list[Blocking]:
    """Every sensible one; at least one."""
    d = DEVICES[isa]
    cores = size < 4 or tf32
    fitting = [
        _blocking(s, size, bm, bn, bk // size if cores else bk, warps, stages)
        for bm, bn, bk, warps, stages in (_TILES if cores else _TILES32)
        if stages * (bm + bn) * (bk if cores else bk * size) <= d.shared
    ]
    pixels = static(s.pixels)
    found = [b for b in fitting if _fits(s, b, size, pixels)] or fitting[-2:]
    return [c for b in found for c in _splits(s, b, d, pixels)]


def _blocking(s: ConvShape, size: int, bm: int, bn: int, bk: int, warps: int, stages: int) -> Blocking:
    flat = int(s.icg < bk and s.icg * size % ROW != 0 and s.kernel != (1, 1))
    return Blocking(bm, bn, bk, warps, stages, 1, flat)


def _fits(s: ConvShape, b: Blocking, size: int, pixels: int | None) -> bool:
    """Not mostly empty."""
    if b.bn > max(16, 1 << (s.ocg - 1).bit_length()):
        return False
    if pixels is not None and b.bm > max(16, 1 << (pixels - 1).bit_length()):
        return False
    return bool(b.flat) or b.bk <= 2 * s.icg or b.bk * size <= 64


def _splits(s: ConvShape, b: Blocking, d: Device, pixels: int | None) -> Iterator[Blocking]:
    """The blocking whole, and in parts where its tiles leave processors idle."""
    yield b
    if pixels is not None:
        tiles, steps = -(-pixels // b.bm) * -(-s.ocg // b.bn), b.steps(s)
        for split in _SPLITS:
            # a part of one step is all start-up
            if tiles * split <= 2 * d.processors and steps >= 2 * split:
                yield replace(b, split=split)


def seconds(s: ConvShape, b: Blocking, size: int, isa: str, tf32: bool) -> float:
    """Waves of blocks, each as long as its products at the device's rate, or the bytes at its bandwidth."""
    d = DEVICES[isa]
    pixels = static(s.pixels) or TYPICAL_PIXELS
    tiles = -(-pixels // b.bm) * -(-s.ocg // b.bn) * b.split
    steps = -(-b.steps(s) // b.split)
    resident = max(1, min(d.shared // (b.stages * (b.bm + b.bn) * b.bk * size), 16 // b.warps))
    rate = 0.65 * d.flops(size, tf32) / d.processors
    loads = (b.bm + b.bn) * b.bk * size / 50e9
    step = max(2 * b.bm * b.bn * b.bk / rate, loads)
    end = b.bm * b.bn * 5e-11  # the epilogue's arithmetic
    latency = 1.2e-6 + steps * 0.25e-6 / b.stages
    block = max(steps * step, latency) + end
    waves = tiles / d.processors
    whole = -(-tiles // d.processors)
    together = min(resident, 2) ** 0.3 if waves > 1 else 1.0  # one block's epilogue runs beside another's products
    total = block * (whole if waves <= resident else 0.5 * (whole + waves)) / together
    bytes_moved = size * (pixels * (s.icg * s.strides[0] * s.strides[1] + s.ocg) + s.k * s.ocg)
    more = 0.0
    if b.split > 1:
        more = 2.0e-6 + 2 * b.split * pixels * s.ocg * 4 / d.bandwidth
    return max(total, bytes_moved / d.bandwidth) + 2.0e-6 + more


#: (rows, channels, bytes of terms, warps, stages) of blocks that stay.
_STREAMED = (
    (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 4, 4), (128, 128, 128, 8, 4), (128, 64, 128, 4, 4),
    (256, 64, 128, 8, 3),
)  # fmt: skip


def streamed_blockings(s: ConvShape, size: int, isa: str) -> list[Blocking]:
    """Those worth trying for blocks that stay; none where a tile would be mostly empty."""
    pixels, shared = static(s.pixels), DEVICES[isa].shared
    return [
        Blocking(bm, bn, bk // size, warps, stages)
        for bm, bn, bk, warps, stages in _STREAMED
        if bn <= max(64, s.ocg)
        and (pixels is None or pixels >= bm)
        and s.icg * size >= 64
        and stages * (bm + bn) * bk + bm * bn <= shared
    ]


def streamed_seconds(s: ConvShape, b: Blocking, size: int, isa: str) -> float:
    """As for blocks that go, less what the copy engine saves, and the time to make descriptors."""
    return 0.9 * seconds(s, b, size, isa, True) + 1.5e-6
