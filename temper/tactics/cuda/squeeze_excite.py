"""Squeeze-excite on a CUDA GPU: sums over each channel in many blocks, then both matrix-vector products.

The products' weights are hundreds of kilobytes at most, but one processor reads only some 60 bytes a nanosecond. So
either every block computes all hidden units again before its share of the gates (one launch less), or hidden units and
gates are launches of their own. What a block needs is requested at once, since at batch 1 the time is latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import ArgRef, Params, Workload
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_declines,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
    program_declines,
    program_function,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import FLOATS, HALVES, widened
from temper.tactics.cuda.tiles import constants_text
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand

TYPICAL_PIXELS = 196
#: Pixels that a block sums, and the channels of which it does.
_SHARES, WIDTH = (32, 64, 128, 512), 64
#: The most elements of a tile that all are loaded at once, and the most channels of a step.
_TILE, _STEP = 16384, 2048
#: Pixels that a block loads at once.
DEPTH = 32
_SMS = 132


@dataclass(frozen=True)
class Shape:
    n: DimLike
    pixels: DimLike
    channels: int
    hidden: int
    features: int
    stride: DimLike


def shape_of(w: Workload) -> Shape | str:
    x, w1, w2 = w.inputs[0], w.inputs[1], w.inputs[3]
    if not w.attr("channels_last", 0):
        return "needs channels-last tensors"
    if x is None or w1 is None or w2 is None:
        return "needs data and both weight matrices"
    if x.type.dtype not in FLOATS or any(s is not None and s.type.dtype not in FLOATS for s in w.inputs[1:]):
        return f"computes with {', '.join(FLOATS)}"
    if any(s is not None and s.row_stride is not None for s in w.inputs[1:]):
        return "its weights are a view"
    channels, hidden, features = x.type.shape[-1], w1.type.shape[1], w2.type.shape[1]
    if not (isinstance(channels, int) and isinstance(hidden, int) and isinstance(features, int)):
        return "channel counts must be known at build"
    if min(channels, hidden, features) < 1:
        return "there are no channels"
    pixels = product(x.type.shape[1:-1])
    if pixels == 0 or x.type.shape[0] == 0:
        return "the map is empty"
    return Shape(x.type.shape[0], pixels, channels, hidden, features, x.row_stride or channels)


def power(n: int) -> int:
    """The least power of two that is not below."""
    return 1 << (n - 1).bit_length()


def _step(s: Shape) -> int:
    """Channels of a step."""
    return min(_STEP, max(16, power(s.channels)))


def programs_of(w: Workload) -> dict[str, Epilogue]:
    """activation and gate as one-instruction programs."""
    attrs: tuple[tuple[str, Attr], ...] = ()
    if w.attr("gate") == "HardSigmoid":
        attrs = (("alpha", w.attr("gate_alpha")), ("beta", w.attr("gate_beta")))
    activation, gate = Instr(str(w.attr("activation")), (0,), "float32"), str(w.attr("gate"))
    of = (Operand("float32", (True,)),)
    return {
        "activation": Epilogue(of, (activation,), (1,)),
        "gate": Epilogue(of, (Instr(gate, (0,), "float32", attrs),), (1,)),
    }


SUMS = """\
tile = tl.program_id(0)
channel = tile % COLUMNS * WIDTH + tl.arange(0, WIDTH)
part = tile // COLUMNS % SPLITS
image = (tile // (COLUMNS * SPLITS)).to(tl.int64)
total = tl.zeros((DEPTH, WIDTH), tl.float32)
for start in range(part * SHARE, tl.minimum(part * SHARE + SHARE, PIXELS), DEPTH):
    k = start + tl.arange(0, DEPTH)
    live = (k < tl.minimum(part * SHARE + SHARE, PIXELS))[:, None] & (channel < CHANNELS)[None, :]
    value = tl.load(x + (image * PIXELS + k)[:, None] * X_STRIDE + channel[None, :], mask=live, other=0.0)
    total += {value}
at = (image * SPLITS + part) * CHANNELS + channel
tl.store(scratch + at, tl.sum(total, axis=0), mask=channel < CHANNELS)
"""

_HIDDEN = """\
acc = tl.zeros((ROWS, STEP), tl.float32)
for start in range(0, CHANNELS, STEP):
    c = start + tl.arange(0, STEP)
    part = tl.arange(0, PARTS)
    kept = (part < SPLITS)[:, None] & (c < CHANNELS)[None, :]
    sums = tl.load(scratch + (image * SPLITS + part)[:, None] * CHANNELS + c[None, :], mask=kept, other=0.0)
    taken = (unit < HIDDEN)[:, None] & (c < CHANNELS)[None, :]
    weights = tl.load(w1 + unit[:, None] * CHANNELS + c[None, :], mask=taken, other=0.0)
    acc += weights * (tl.sum(sums, axis=0) / PIXELS)[None, :]
units = tl.sum(acc, axis=1) + tl.load(b1 + unit, mask=unit < HIDDEN, other=0.0)
tl.store(scratch + HIDDEN_AT + {place} * HIDDEN + unit, activation(units), mask=unit < HIDDEN)
"""

_GATES = """\
row_ok = row < IMAGES
channel_ok = channel < FEATURES
live = row_ok[:, None] & channel_ok[None, :]
acc = tl.zeros((TERMS, BN), tl.float32)
for start in range(0, HIDDEN, TERMS):
    unit = start + tl.arange(0, TERMS)
    hidden = tl.load(scratch + HIDDEN_AT + {place} * HIDDEN + unit, mask=unit < HIDDEN, other=0.0)
    taken = (unit < HIDDEN)[:, None] & (channel < FEATURES)[None, :]
    acc += tl.load(w2 + unit[:, None] * FEATURES + channel[None, :], mask=taken, other=0.0) * hidden[:, None]
v0 = tl.sum(acc, axis=0)[None, :] + tl.load(b2 + channel, mask=channel < FEATURES, other=0.0)[None, :]
v0 = gate(v0){half}
"""


def gates_decline(w: Workload) -> str | None:
    """Why no kernel here makes these gates; None if one does."""
    s = shape_of(w)
    if isinstance(s, str):
        return s
    if any(slot is not None and not c for slot, c in zip(w.inputs[1:], w.constant[1:], strict=True)):
        return "weights and biases must be constant to be packed"
    for name, program in programs_of(w).items():
        if (reason := program_declines(program)) is not None:
            return f"{name}: {reason}"
    return epilogue_declines(w.epilogue)


def packed_weights(w: Workload, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
    """w1 as [hidden, channels], b1, w2 as [hidden, features], b2; float32."""
    s = accepted(w)
    b1 = constants.get(2, np.zeros(s.hidden, np.float32)).astype(np.float32)
    b2 = constants.get(4, np.zeros(s.features, np.float32)).astype(np.float32)
    return (
        np.ascontiguousarray(constants[1].astype(np.float32).T),
        b1,
        constants[3].astype(np.float32),
        b2,
    )


class SqueezeExcite:
    """Parameters. split: blocks that share an image's pixels; apart: 1 where hidden units are a launch of their own;
    rows: hidden units at once; bn: gates of a block; warps: of the products."""

    name = "cuda.squeeze_excite"
    ops = frozenset({"SqueezeExcite"})
    packing = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "SqueezeExcite")) is not None:
            return reason
        if w.attr("apply", 0):
            return "makes gates and does not apply them"
        return gates_decline(w)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = accepted(w)
        pixels = TYPICAL_PIXELS if isinstance(s.pixels, Dim) else s.pixels
        step, most = _step(s), power(s.hidden)
        splits = {-(-pixels // share) for share in _SHARES}
        splits = {k for k in splits if power(k) * step <= 2 * _TILE} or {1}
        found: dict[Params, None] = {}
        for split in sorted(splits):
            for apart in (0, 1):
                for rows in (1, 2, 4, 8, 16, 32, 64):
                    if rows > most or rows * step > 2 * _TILE or (rows > 8 if apart else rows < most / 4):
                        continue
                    for bn in (32, 64, 128):
                        if bn == 32 or bn // 2 < s.features:
                            for warps in (4, 8, 16):
                                found[
                                    (("split", split), ("apart", apart), ("rows", rows), ("bn", bn), ("warps", warps))
                                ] = None
        if not found:
            found[(("split", 1), ("apart", 1), ("rows", 1), ("bn", 32), ("warps", 8))] = None
        return sorted(found, key=lambda p: (self.predict(w, p), p))

    def predict(self, w: Workload, params: Params) -> float:
        """A launch takes two microseconds; a step waits for its loads, then passes them at a processor's rate."""
        s, q = accepted(w), dict(params)
        assert w.inputs[0] is not None
        pixels = TYPICAL_PIXELS if isinstance(s.pixels, Dim) else s.pixels
        images = 1 if isinstance(s.n, Dim) else s.n
        size, step = itemsize(w.inputs[0].type.dtype), _step(s)
        blocks = images * q["split"] * -(-s.channels // WIDTH)
        share = -(-pixels // q["split"])
        sums = -(-share // DEPTH) * 0.5e-6 * max(1.0, blocks / (8 * _SMS))
        sums = max(sums, images * pixels * s.channels * size / 2.5e12)
        rate, wait = 60e9 * min(1.0, q["warps"] / 8), 0.7e-6
        tile = 4.0 * step * (q["rows"] + power(q["split"]))
        spilled = 1.0 + max(0.0, max(q["rows"], power(q["split"])) * step / (q["warps"] * 2048) - 1.0)
        hidden = -(-s.channels // step) * (wait + tile * spilled / rate)
        units, gates = -(-s.hidden // q["rows"]), images * -(-s.features // q["bn"])
        terms = min(power(s.hidden), _TILE // q["bn"])
        last = -(-s.hidden // terms) * (wait + 4.0 * terms * q["bn"] / rate)
        full = max(1.0, gates / (2 * _SMS))
        if q["apart"]:
            return 6e-6 + sums + hidden * max(1.0, images * units / (2 * _SMS)) + last * full
        return 4e-6 + sums + (hidden * units + last) * full

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, q = accepted(w), dict(params)
        x = w.inputs[0]
        assert x is not None
        columns, blocks = -(-s.channels // WIDTH), -(-s.features // q["bn"])
        hidden_at = s.n * (q["split"] * s.channels)
        sizes: dict[str, DimLike] = {
            "IMAGES": s.n, "PIXELS": s.pixels, "CHANNELS": s.channels, "HIDDEN": s.hidden, "FEATURES": s.features,
            "X_STRIDE": s.stride, "COLUMNS": columns, "SPLITS": q["split"], "SHARE": ceil_div(s.pixels, q["split"]),
            "HIDDEN_AT": hidden_at, "DEPTH": DEPTH, "WIDTH": WIDTH, "ROWS": q["rows"], "STEP": _step(s),
            "PARTS": power(q["split"]), "TERMS": min(power(s.hidden), _TILE // q["bn"]), "BN": q["bn"],
            "BLOCKS": blocks, "UNITS": -(-s.hidden // q["rows"]),
        }  # fmt: skip
        packed = [Parameter(name, "*fp32", ("packed", i)) for i, name in enumerate(("w1", "b1", "w2", "b2"))]
        pointers = [
            Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0)),
            *packed,
            Parameter("scratch", "*fp32", ("shared", 0)),
            *epilogue_parameters(w.epilogue),
        ]
        made = w.epilogue.operands[0].dtype
        half = f".to({HALVES[made]})" if made in HALVES else ""
        strides = [o.row_stride for o in w.outputs]
        store = "\n".join(epilogue_statements(w.epilogue, channels=s.features, row_strides=strides)) + "\n"
        # hidden units where every block computes its own: a place for each block
        place = "image" if q["apart"] else "tl.program_id(0)"
        hidden, gates = _HIDDEN.format(place=place), _GATES.format(place=place, half=half) + store
        head = "tile = tl.program_id(0)\n"
        of_gates = (
            "channel = tile % BLOCKS * BN + tl.arange(0, BN)\nimage = tile // BLOCKS + tl.zeros((1,), tl.int32)\n"
            "row = image\n"
        )
        bodies = {entry: SUMS.format(value=widened("value", x.type.dtype))}
        if q["apart"]:
            units = "unit = tile % UNITS * ROWS + tl.arange(0, ROWS)\nimage = tile // UNITS\n"
            bodies[f"{entry}_hidden"] = head + units + hidden
            bodies[f"{entry}_gates"] = head + of_gates + gates
            grids: tuple[DimLike, ...] = (s.n * sizes["UNITS"], s.n * blocks)
            places: DimLike = s.n
        else:
            loop = "for first in range(0, HIDDEN, ROWS):\n    unit = first + tl.arange(0, ROWS)\n"
            text = head + "image = tile // BLOCKS\n" + loop + indent(hidden, "    ")
            # all threads of the block have stored their hidden units
            bodies[f"{entry}_gates"] = text + "tl.debug_barrier()\n" + of_gates + gates
            grids = (s.n * blocks,)
            places = s.n * blocks
        sources = self._sources(w, bodies, pointers, sizes, q["warps"])
        return TritonKernel(
            "\n".join(source.text for source in sources),
            tuple(bodies),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=4 * (hidden_at + places * s.hidden),
            in_place=False,
            grid=s.n * (q["split"] * columns),
            later=grids,
            triton=sources[0],
            then=sources[1:],
        )

    @staticmethod
    def _sources(
        w: Workload, bodies: Mapping[str, str], pointers: Sequence[Parameter], sizes: Mapping[str, DimLike], warps: int
    ) -> tuple[TritonSource, ...]:
        """A source for every entry, all with the same parameters."""
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        views: set[ArgRef] = {("output", k) for k, o in enumerate(w.outputs) if o.row_stride is not None}
        views |= {("operand", i) for i, o in enumerate(w.epilogue.operands) if o.row_stride is not None}
        views |= {("input", 0)} if w.inputs[0] is not None and w.inputs[0].row_stride is not None else set()
        aligned = frozenset(p.name for p in pointers if p.ref not in views)
        programs = programs_of(w)
        e = w.epilogue
        every = Epilogue(e.operands, (*e.instrs, *(i for p in programs.values() for i in p.instrs)), e.results)
        helpers = epilogue_helpers(every) + "".join(program_function(name, p) for name, p in programs.items())
        about = "Squeeze-excite: means, hidden units and gates."
        found = []
        for i, (entry, body) in enumerate(bodies.items()):
            text = (
                f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{helpers if i else ""}'
                f"\n\n@triton.jit\ndef {entry}({', '.join(name for name, _ in signature)}):\n"
                + indent(f"{constants_text(sizes)}\n\n{body}", "    ")
            )
            found.append(TritonSource(text, entry, signature, aligned, warps if i else 4, 1))
        return tuple(found)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return packed_weights(w, constants)


def accepted(w: Workload) -> Shape:
    s = shape_of(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
