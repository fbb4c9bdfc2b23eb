"""Group and instance normalisation of channels-last data on a CUDA GPU, in three launches.

The first finds mean and sum of squared differences of every channel over shares of the pixels, the second joins shares
and channels of a group (Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, 1979), the third normalises and applies the epilogue. Bound by reading the tensor twice and writing it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.instructions import literal
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, widened
from temper.tactics.cuda.source import Stage, kernel_of, stores
from temper.tactics.geometry import typical_count

_PROCESSORS = 132
#: Elements of a block, and numbers that one block joins.
_TILE, _JOINED = 2048, 8192

_SHARES = """\
tile = tl.program_id(0)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
channel_ok = channel < C
split = tile // COLUMNS % SPLITS
batch = tile // (COLUMNS * SPLITS)
LAST = tl.minimum(split * SHARE + SHARE, PIXELS)
count = tl.zeros((1,), tl.float32)
mean = tl.zeros((BN,), tl.float32)
squares = tl.zeros((BN,), tl.float32)
for start in range(split * SHARE, LAST, BM):
    p = start + tl.arange(0, BM)
    live = (p < LAST)[:, None] & channel_ok[None, :]
    x = {load}
    n = tl.minimum(LAST - start, BM).to(tl.float32)
    own = tl.sum(x, axis=0) / n
    d = tl.where(live, x - own[None, :], 0.0)
    away = own - mean
    whole = count + n
    mean += away * (n / whole)
    squares += tl.sum(d * d, axis=0) + away * away * (count * n / whole)
    count = whole
at = found + (batch * SPLITS + split) * C + channel
tl.store(at, mean, mask=channel_ok)
tl.store(at + IMAGES * SPLITS * C, squares, mask=channel_ok)
"""

_JOIN = """\
tile = tl.program_id(0)
batch = tile // GROUPS
split = tl.arange(0, SPLITS)[:, None]
channel = tl.arange(0, EACH_ROOM)[None, :]
there = (split < SPLITS) & (channel < EACH)
at = found + (batch * SPLITS + split) * C + tile % GROUPS * EACH + channel
mean = tl.load(at, mask=there, other=0.0)
squares = tl.load(at + IMAGES * SPLITS * C, mask=there, other=0.0)
pixels = tl.maximum(tl.minimum(PIXELS - split * SHARE, SHARE), 0).to(tl.float32)
count = tl.where(there, pixels, 0.0)
total = (tl.zeros((1,), tl.float32) + PIXELS) * EACH
middle = tl.sum(tl.sum(mean * count, axis=1), axis=0) / total
d = mean - middle[:, None]
variance = tl.sum(tl.sum(squares + count * d * d, axis=1), axis=0) / total
stats = found + 2 * IMAGES * SPLITS * C + tile + tl.arange(0, 1)
tl.store(stats, middle)
tl.store(stats + IMAGES * GROUPS, tl.div_rn(tl.full((1,), 1.0, tl.float32), tl.sqrt_rn(variance + {epsilon})))
"""

_APPLY = """\
tile = tl.program_id(0)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
channel_ok = channel < C
batch = tile // (COLUMNS * PIXEL_TILES)
p = tile // COLUMNS % PIXEL_TILES * BM + tl.arange(0, BM)
row_ok = p < PIXELS
live = row_ok[:, None] & channel_ok[None, :]
row = batch.to(tl.int64) * PIXELS + p
image = row // PIXELS
x = {load}
stats = found + 2 * IMAGES * SPLITS * C + batch * GROUPS + channel // EACH
middle = tl.load(stats, mask=channel_ok, other=0.0)
factor = tl.load(stats + IMAGES * GROUPS, mask=channel_ok, other=0.0) * {scale}
v0 = (x - middle[None, :]) * factor[None, :] + {bias}[None, :]
"""


class GroupNorm:
    """Parameters. splits: shares of an image's pixels. warps: of the blocks that normalise."""

    name = "cuda.group_norm"
    ops = frozenset({"GroupNormalization", "InstanceNormalization"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes GroupNormalization and InstanceNormalization, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0]
        if x is None or not w.attr("channels_last", 0) or isinstance(x.type.shape[-1], Dim):
            return "normalises channels-last data of a known number of channels"
        if other := [s.type.dtype for s in w.inputs if s is not None and s.type.dtype not in FLOATS]:
            return f"normalises {', '.join(FLOATS)}, not {other[0]}"
        if 0 in x.type.shape:
            return "it computes no element"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        images, pixels, channels, groups = _sizes(w)
        room = 1 << (channels // groups - 1).bit_length()
        columns = -(-channels // _width(channels))
        found = []
        for splits in (1, 4, 16, 64):
            enough = not isinstance(images, Dim) and images * columns * splits > 24 * _PROCESSORS
            short = not isinstance(pixels, Dim) and splits * 32 > pixels
            if splits > 1 and (splits * room > _JOINED or enough or short):
                continue
            found += [(("splits", splits), ("warps", warps)) for warps in (4, 8)]
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        images, _, channels, _ = _sizes(w)
        x, p = w.inputs[0], dict(params)
        assert x is not None
        count, columns = typical_count(x.type.shape), -(-channels // _width(channels))
        read = count * itemsize(x.type.dtype)
        blocks = (8 if isinstance(images, Dim) else images) * columns * p["splits"]
        written = count * sum(itemsize(s.type.dtype) for s in w.outputs)
        share = min(1.0, blocks / (4 * _PROCESSORS))
        return 5e-6 + read / (2.5e12 * share) + (read + written) / 2.5e12 * (1 + 0.01 * p["warps"])

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        images, pixels, channels, groups = _sizes(w)
        x, p = w.inputs[0], dict(params)
        assert x is not None
        bn = _width(channels)
        bm, each = _TILE // bn, channels // groups
        columns, tiles = -(-channels // bn), ceil_div(pixels, bm)
        names = ("x_at", "scale", "bias")
        inputs = [
            Parameter(n, POINTER_TYPES[s.type.dtype], ("input", i))
            for i, (n, s) in enumerate(zip(names, w.inputs, strict=True))
            if s is not None
        ]
        inputs.append(Parameter("found", "*fp32", ("shared", 0)))
        splits = p["splits"]
        sizes: dict[str, DimLike] = {
            "IMAGES": images, "PIXELS": pixels, "C": channels, "GROUPS": groups, "EACH": each, "BM": bm, "BN": bn,
            "EACH_ROOM": 1 << (each - 1).bit_length(), "COLUMNS": columns, "PIXEL_TILES": tiles, "SPLITS": splits,
            "SHARE": ceil_div(pixels, splits), "X_STRIDE": x.row_stride or channels,
        }  # fmt: skip
        place = "(batch.to(tl.int64) * PIXELS + p)[:, None] * X_STRIDE + channel[None, :]"
        load = widened(f"tl.load(x_at + {place}, mask=live, other=0.0)", x.type.dtype)
        vectors = {
            n: widened(f"tl.load({n} + channel, mask=channel_ok, other=0.0)", s.type.dtype)
            for n, s in zip(names[1:], w.inputs[1:], strict=True)
            if s is not None
        }
        body = _APPLY.format(load=load, **vectors)
        if (made := w.epilogue.operands[0].dtype) != "float32":
            body += f"v0 = v0.to({FLOATS[made]})\n"
        before = (
            Stage(_SHARES.format(load=load), images * columns * splits, 4, 2),
            Stage(_JOIN.format(epsilon=literal(w.attr("epsilon"))), images * groups, 4),
        )
        about = f"{w.op} of {channels} channels in {groups} groups."
        return kernel_of(
            w, entry, about, inputs, sizes, body + stores(w), grid=images * columns * tiles, warps=p["warps"],
            before=before, scratch=images * (8 * (splits * channels + groups)),
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _width(channels: int) -> int:
    """Channels of a block."""
    return min(64, 1 << (channels - 1).bit_length())


def _sizes(w: Workload) -> tuple[DimLike, DimLike, int, int]:
    """Images, pixels of each, channels and groups."""
    x = w.inputs[0]
    assert x is not None
    shape = x.type.shape
    channels = shape[-1]
    assert isinstance(channels, int)
    groups = w.attr("num_groups", channels)
    assert isinstance(groups, int)
    return shape[0], product(shape[1:-1]), channels, groups
