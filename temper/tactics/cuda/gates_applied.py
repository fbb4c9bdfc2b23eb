"""Squeeze-excite fused with the multiplication by its gates, and with a depthwise convolution before it, on a CUDA GPU.

Three launches: sums over each channel; hidden units; then gates and product, where every block computes the gates of
its own channels. Behind a depthwise convolution the first launch is that convolution, whose blocks also sum what they
store: the map is then kept in scratch and read only once, by the last launch. At batch 1 the time goes into launches
and latency, not into what several blocks compute again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import indent

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, ceil_div
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload, chained
from temper.tactics.cuda.depthwise import Depthwise
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
    program_function,
)
from temper.tactics.cuda.kernel import TritonKernel, dim_text
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import widened
from temper.tactics.cuda.source import Stage
from temper.tactics.cuda.squeeze_excite import (
    DEPTH,
    SUMS,
    TYPICAL_PIXELS,
    WIDTH,
    Shape,
    accepted,
    gates_decline,
    packed_weights,
    power,
    programs_of,
)
from temper.tactics.cuda.tiles import constants_text
from temper.tactics.cuda.windows import Blocking, window_sizes, window_text

_DEPTHWISE = Depthwise()

#: The most elements of partial sums, and of weights, that a block loads at once.
_TILE = 8192
#: The most partial sums of a channel: every block of hidden units adds them all.
_PARTS = 512
#: Partial sums of all channels that it may read, in bytes.
_READ = 96 << 10

_HIDDEN = """\
unit = tl.program_id(0) % UNITS * ROWS + tl.arange(0, ROWS)
image = (tl.program_id(0) // UNITS).to(tl.int64)
acc = tl.zeros((ROWS, STEP), tl.float32)
for start in range(0, CHANNELS, STEP):
    c = start + tl.arange(0, STEP)
    taken = (unit < HIDDEN)[:, None] & (c < CHANNELS)[None, :]
    weights = tl.load(w1 + unit[:, None] * CHANNELS + c[None, :], mask=taken, other=0.0)
    sums = tl.zeros((CHUNK, STEP), tl.float32)
    for first in tl.static_range(0, SPLITS, CHUNK):
        part = first + tl.arange(0, CHUNK)
        kept = (part < SPLITS)[:, None] & (c < CHANNELS)[None, :]
        sums += tl.load(scratch + (image * SPLITS + part)[:, None] * CHANNELS + c[None, :], mask=kept, other=0.0)
    acc += weights * (tl.sum(sums, axis=0) / PIXELS)[None, :]
units = tl.sum(acc, axis=1) + tl.load(b1 + unit, mask=unit < HIDDEN, other=0.0)
tl.store(scratch + HIDDEN_AT + image * HIDDEN + unit, activation(units), mask=unit < HIDDEN)
"""

_APPLIED = """\
tile = tl.program_id(0)
channel = tile % BLOCKS * BN + tl.arange(0, BN)
pixel = tile // BLOCKS % TILES * BM + tl.arange(0, BM)
image = (tile // (BLOCKS * TILES) + tl.zeros((BM,), tl.int32)).to(tl.int64)
row = image * PIXELS + pixel
row_ok = pixel < PIXELS
channel_ok = channel < CHANNELS
live = row_ok[:, None] & channel_ok[None, :]
value = tl.load({source} + row[:, None] * X_STRIDE + channel[None, :], mask=live, other=0.0)
acc = tl.zeros((TERMS, BN), tl.float32)
for start in range(0, HIDDEN, TERMS):
    unit = start + tl.arange(0, TERMS)
    taken = (unit < HIDDEN)[:, None] & channel_ok[None, :]
    weights = tl.load(w2 + unit[:, None] * CHANNELS + channel[None, :], mask=taken, other=0.0)
    at = scratch + HIDDEN_AT + (tile // (BLOCKS * TILES)).to(tl.int64) * HIDDEN
    acc += weights * tl.load(at + unit, mask=unit < HIDDEN, other=0.0)[:, None]
gates = gate(tl.sum(acc, axis=0) + tl.load(b2 + channel, mask=channel_ok, other=0.0))
v0 = {value} * gates[None, :]
"""

_IMAGE_HEAD = """\
tile = tl.program_id(0)
group = tile // COLUMNS % SPLITS * BM + tl.arange(0, BM)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
group_ok = group < GH * GW
channel_ok = channel < CHANNELS
image = (tile // (COLUMNS * SPLITS) + tl.zeros((BM,), tl.int32)){wide}
top = group // GW * R
left = group % GW * C
y0 = top * STRIDE_Y - PAD_TOP
x0 = left * STRIDE_X - PAD_LEFT
plane = image * IH
total = tl.zeros((BM, BN), tl.float32)
"""

_KEPT = """\
at = (tile // COLUMNS).to(tl.int64) * CHANNELS + channel
tl.store(scratch + at, tl.sum(total, axis=0), mask=channel_ok)
"""


def _pixels(s: Shape) -> int:
    return TYPICAL_PIXELS if isinstance(s.pixels, Dim) else s.pixels


def _tiles(s: Shape, size: int) -> list[tuple[int, int, int]]:
    """(pixels, channels, warps) of a block that applies gates, for elements of so many bytes, best predicted first."""
    found = []
    for bn in (32, 64, 128):
        if bn > 32 and bn // 2 >= s.channels:
            continue
        for each in (4, 8, 16):
            for warps in (2, 4):
                if (bm := each * 32 * warps // bn) >= 4:
                    found.append((bm, bn, warps))
    return sorted(found, key=lambda t: (_applying(s, size, *t), t))


def _applying(s: Shape, size: int, bm: int, bn: int, warps: int) -> float:
    """Predicted seconds of the last launch: rounds of blocks, of which each waits for its loads; or its bytes, with the
    weights that every block reads, a quarter of them beyond the L2 cache."""
    images = 1 if isinstance(s.n, Dim) else s.n
    pixels = _pixels(s)
    blocks = images * -(-pixels // bm) * -(-s.channels // bn)
    resident = 132 * min(16, 48 // warps)
    weights = 4.0 * power(s.hidden) * bn
    one = 0.9e-6 + (weights + bm * bn * (size + 1)) / 1e12
    waves = -(-blocks // resident)
    moved = images * pixels * s.channels * (size + 1) + blocks * weights / 4
    return 1.0e-6 + max(one * waves, moved / 2.5e12)


def _hidden_seconds(s: Shape, splits: int, rows: int) -> float:
    """Predicted seconds of the launch of hidden units."""
    images = 1 if isinstance(s.n, Dim) else s.n
    read = 4.0 * s.channels * (splits + rows)
    blocks = images * -(-s.hidden // rows)
    return 1.6e-6 + read / 90e9 * max(1.0, blocks / 264)


def _chunk(s: Shape, splits: int) -> int:
    """Partial sums that are loaded at once."""
    return min(power(splits), max(1, _TILE // _step(s)))


def _step(s: Shape) -> int:
    """Channels of a step of hidden units."""
    return min(2048, max(16, power(s.channels)))


def _kernel(
    w: Workload,
    last: Workload,
    entry: str,
    about: str,
    s: Shape,
    inputs: Sequence[Parameter],
    first: Stage,
    named: Mapping[str, DimLike],
    splits: int,
    rows: int,
    tile: tuple[int, int, int],
    source: tuple[str, str],
    scratch: DimLike,
) -> TritonKernel:
    """Of the first launch, whose constants are `named` (with partial sums at the start of the scratch memory), and the
    two that follow.

    last: the workload of the gates, whose epilogue is that of `w`.
    inputs: pointers besides those of scratch memory and of the epilogue.
    tile: pixels, channels and warps of the last launch.
    source: pointer to the map and its dtype.
    scratch: bytes that the first launch needs besides the sums.
    """
    bm, bn, warps = tile
    packed = [Parameter(name, "*fp32", ("packed", i)) for i, name in enumerate(("w1", "b1", "w2", "b2"))]
    pointers = [*inputs, *packed, Parameter("scratch", "*fp32", ("shared", 0)), *epilogue_parameters(w.epilogue)]
    blocks, tiles, units = -(-s.channels // bn), ceil_div(s.pixels, bm), -(-s.hidden // rows)
    hidden_at = s.n * (splits * s.channels)
    common: dict[str, DimLike] = {
        "PIXELS": s.pixels, "CHANNELS": s.channels, "HIDDEN": s.hidden, "SPLITS": splits, "HIDDEN_AT": hidden_at,
    }  # fmt: skip
    of_hidden = {"ROWS": rows, "UNITS": units, "STEP": _step(s), "CHUNK": _chunk(s, splits)}
    of_gates = {
        "BM": bm, "BN": bn, "BLOCKS": blocks, "TILES": tiles, "X_STRIDE": s.stride, "TERMS": min(power(s.hidden), 64),
    }  # fmt: skip
    strides = [o.row_stride for o in w.outputs]
    pointer, dtype = source
    applied = _APPLIED.format(source=pointer, value=widened("value", dtype))
    applied += "\n".join(epilogue_statements(w.epilogue, channels=s.channels, row_strides=strides)) + "\n"
    programs = programs_of(last)
    calls = "".join(program_function(name, p) for name, p in programs.items())
    of_programs = epilogue_helpers(w.epilogue, first.body + calls) + calls
    signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
    aligned = frozenset(p.name for p in pointers)

    def text(name: str, sizes: Mapping[str, DimLike], stage: Stage) -> TritonSource:
        made = (
            f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{of_programs}'
            f"\n\n@triton.jit\ndef {name}({', '.join(name for name, _ in signature)}):\n"
            + indent(f"{constants_text(sizes)}\n\n{stage.body}", "    ")
        )
        return TritonSource(made, name, signature, aligned, stage.warps, stage.stages)

    stages = (first, Stage(_HIDDEN, s.n * units, 8), Stage(applied, s.n * tiles * blocks, warps))
    names = (f"{entry}_sums", f"{entry}_hidden", entry)
    constants = ({**common, **named}, {**common, **of_hidden}, {**common, **of_gates})
    sources = tuple(text(*each) for each in zip(names, constants, stages, strict=True))
    grids = tuple(stage.grid for stage in stages)
    return TritonKernel(
        "\n\n".join(t.text for t in sources),
        names,
        tuple(p.ref for p in pointers),
        w.symbols,
        shared_workspace=4 * (hidden_at + s.n * s.hidden) + scratch,
        in_place=False,
        triton=sources[0],
        then=sources[1:],
        grid=grids[0],
        later=grids[1:],
    )


class GatesApplied:
    """A map times its own squeeze-excite gates.

    Parameters: split: blocks that share an image's pixels; units: hidden units of a block; bm, bn, warps: pixels,
    channels and warps of a block that applies gates.
    """

    name = "cuda.gates_applied"
    ops = frozenset({"SqueezeExcite"})
    packing = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "SqueezeExcite")) is not None:
            return reason
        return gates_decline(w) if w.attr("apply", 0) else "applies the gates it makes"

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = accepted(w)
        size = _size(w)
        found: dict[Params, None] = {}
        for share in (32, 64, 128, 512):
            split = -(-_pixels(s) // share)
            if split > 1 and (split > _PARTS or 4 * split * s.channels > _READ):
                continue
            for units in (1, 2, 4):
                if units <= power(s.hidden):
                    for bm, bn, warps in _tiles(s, size)[:3]:
                        values = (split, units, bm, bn, warps)
                        found[tuple(zip(("split", "units", "bm", "bn", "warps"), values, strict=True))] = None
        return sorted(found, key=lambda p: (self.predict(w, p), p))

    def predict(self, w: Workload, params: Params) -> float:
        s, q = accepted(w), dict(params)
        images = 1 if isinstance(s.n, Dim) else s.n
        size, share = _size(w), -(-_pixels(s) // q["split"])
        sums = -(-share // DEPTH) * 0.5e-6 * max(1.0, images * q["split"] * -(-s.channels // WIDTH) / (8 * 132))
        sums = max(sums, images * _pixels(s) * s.channels * size / 2.5e12)
        last = _applying(s, size, q["bm"], q["bn"], q["warps"])
        return 1.5e-6 + sums + _hidden_seconds(s, q["split"], q["units"]) + last

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, q = accepted(w), dict(params)
        x = w.inputs[0]
        assert x is not None
        columns = -(-s.channels // WIDTH)
        sizes: dict[str, DimLike] = {
            "X_STRIDE": s.stride, "COLUMNS": columns, "SHARE": ceil_div(s.pixels, q["split"]), "DEPTH": DEPTH,
            "WIDTH": WIDTH,
        }  # fmt: skip
        dtype = x.type.dtype
        first = Stage(SUMS.format(value=widened("value", dtype)), s.n * (q["split"] * columns))
        inputs = [Parameter("x", POINTER_TYPES[dtype], ("input", 0))]
        about = "Squeeze-excite: means, hidden units, and the map times its gates."
        tile = (q["bm"], q["bn"], q["warps"])
        return _kernel(w, w, entry, about, s, inputs, first, sizes, q["split"], q["units"], tile, ("x", dtype), 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return packed_weights(w, constants)


def _size(w: Workload) -> int:
    """Bytes of an element of the map."""
    assert w.inputs[0] is not None
    return itemsize(w.inputs[0].type.dtype)


class DepthwiseGated:
    """A depthwise convolution whose result is multiplied by its squeeze-excite gates.

    Parameters: those of the depthwise convolution; units: hidden units of a block; pixels, channels, threads: pixels,
    channels and warps of a block that applies gates.
    """

    name = "cuda.depthwise_gated"
    ops = frozenset({"Chain"})
    packing = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "Chain", "chains")) is not None:
            return reason
        if len(w.links) != 2 or w.links[1].op != "SqueezeExcite" or not w.links[1].attr("apply", 0):
            return "computes a convolution and the gates of its result, applied"
        first, second = w.links
        if first.op not in _DEPTHWISE.ops:
            return f"sums what a convolution gives, not {first.op}"
        if (reason := _DEPTHWISE.accepts(first) or gates_decline(second)) is not None:
            return reason
        if len(first.outputs) != 1 or any(o.kind not in ("channel", "scalar") for o in first.epilogue.operands[1:]):
            return "what follows the convolution reads more than a value a channel"
        s = accepted(second)
        if isinstance(s.pixels, Dim):
            return "the number of pixels must be known at build"
        if first.outputs[0].row_stride is not None:
            return "what lies between is a part of another tensor"
        return None if self.candidates(w) else "the map has too many pixels for its partial sums"

    def candidates(self, w: Workload) -> Sequence[Params]:
        first, second = w.links
        s = accepted(second)
        tiles = _tiles(s, _size(second))[:2]
        found = []
        for p in _DEPTHWISE.candidates(first):
            splits = self._splits(first, Blocking.of(p))
            if splits > _PARTS or (splits > 4 and 4 * splits * s.channels > _READ):
                continue
            if -(-splits // _chunk(s, splits)) > 16:
                continue
            for units in (1, 2, 4) if s.hidden > 8 else (1,):
                for bm, bn, warps in tiles:
                    found.append((*p, ("units", units), ("pixels", bm), ("channels", bn), ("threads", warps)))
        return sorted(found, key=lambda p: (self.predict(w, p), p))

    @staticmethod
    def _splits(first: Workload, b: Blocking) -> int:
        """Blocks that share an image's pixels."""
        _, height, width, _ = first.outputs[0].type.shape
        assert isinstance(height, int) and isinstance(width, int)
        return -(-(-(-height // b.rows) * -(-width // b.cols)) // b.bm)

    def predict(self, w: Workload, params: Params) -> float:
        first, second = w.links
        s, q = accepted(second), dict(params)
        splits = self._splits(first, Blocking.of(params[:5]))
        own = _DEPTHWISE.predict(first, params[:5])
        last = _applying(s, _size(second), q["pixels"], q["channels"], q["threads"])
        return own + 0.2e-6 + _hidden_seconds(s, splits, q["units"]) + last

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        link, second = w.links
        s, q, b = accepted(second), dict(params), Blocking.of(params[:5])
        g = _DEPTHWISE.window(link)
        if isinstance(g, str):
            raise ValueError(f"workload was not accepted: {g}")
        own, body = _DEPTHWISE.parts(link, b)
        (_, operands), _ = chained(w)
        dtype, splits = link.outputs[0].type.dtype, self._splits(link, b)
        e = link.epilogue
        lines = [re.sub(r"\bq(\d+)\b", r"a_q\1", x) for x in epilogue_statements(e, channels=s.channels)]
        # the sums lie at the start of the scratch memory, the map behind them
        behind = ceil_div(4 * s.n * (splits * s.channels + s.hidden), 64) * 64
        between = f"between + {dim_text(behind // itemsize(dtype))}"
        lines = [re.sub(r"\bo0\b", between, x) for x in lines]
        lines.append(f"total += tl.where(live, {widened(f'v{e.results[0]}', dtype)}, 0.0)")
        text = window_text(link, g, b, body, lines, _IMAGE_HEAD) + _KEPT
        sizes = window_sizes(g, b)
        inputs = [
            *own,
            *(
                Parameter(f"a_q{k}", POINTER_TYPES[o.dtype], ("input", at))
                for k, (o, at) in enumerate(zip(e.operands[1:], operands, strict=True), 1)
            ),
            Parameter("between", POINTER_TYPES[dtype], ("shared", 0)),
        ]
        stage = Stage(text, s.n * splits * sizes["COLUMNS"], b.warps)
        about = f"{g.kernel[0]}x{g.kernel[1]} depthwise convolution, squeeze-excite, and the map times its gates."
        tile = (q["pixels"], q["channels"], q["threads"])
        map_bytes = ceil_div(s.n * (s.pixels * (s.channels * itemsize(dtype))), 64) * 64
        return _kernel(
            w, second, entry, about, s, inputs, stage, sizes, splits, q["units"], tile, (between, dtype), 64 + map_bytes
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        _, (own, _) = chained(w)
        return packed_weights(w.links[1], {i: constants[at] for i, at in enumerate(own, 1) if at in constants})
