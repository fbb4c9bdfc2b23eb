"""A network's first layers as one chain on a CUDA GPU: NCHW to NHWC, first convolution, max pooling if it follows.

The transposition happens while the image is folded for the convolution (stem_fold.py), so that the transposed image is
neither written nor read. Where max pooling follows, the convolution's result is not either (stem_pool.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import ceil_div, product
from temper.tactics.base import Params, Workload, chained
from temper.tactics.conv_geometry import TYPICAL_PIXELS
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
    program_declines,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import FLOATS
from temper.tactics.cuda.product_text import Blocking, module_text, product_text
from temper.tactics.cuda.stem import ConvFewChannels, Stem
from temper.tactics.cuda.stem_fold import transposition_declines
from temper.tactics.cuda.stem_pool import Pooled, Program, Strip, pooled_body
from temper.tactics.epilogue import Epilogue
from temper.tactics.geometry import static

_FIRST = ConvFewChannels()

#: Folded pixels that a block writes where it reads planes.
_SPOTS = 128

#: Values of a folded pixel that a text may write out, one by one.
_WRITTEN_OUT = 64

#: Bytes of a tile's weights and of the rows it multiplies at a time, at most.
_SHARED = 80 << 10


def _links(w: Workload) -> tuple[Workload | None, Workload, Workload | None] | str:
    """The transposition, the convolution and the maximum, or why these are not what a chain is made of."""
    transposition = w.links[0] if w.links[0].op == "Transpose" else None
    pool = w.links[-1] if w.links[-1].op == "MaxPool" else None
    between = w.links[transposition is not None : len(w.links) - (pool is not None)]
    if len(between) != 1 or between[0].op not in _FIRST.ops:
        return "computes one convolution behind a transposition, or before a maximum, or both"
    return transposition, between[0], pool


class ConvFewChannelsChain:
    """Parameters: of the convolution's tiles, or of the strips that a maximum is taken of."""

    name = "cuda.conv_few_channels_chain"
    ops = frozenset({"Chain"})
    packing: tuple[str, ...] = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "Chain", "chains")) is not None:
            return reason
        if isinstance(found := _links(w), str):
            return found
        transposition, conv, pool = found
        if (reason := _FIRST.accepts(conv)) is not None:
            return reason
        if transposition is not None:
            if (reason := transposition_declines(transposition)) is not None:
                return reason
            if (depth := Stem.of(conv).f.depth) > _WRITTEN_OUT:
                return f"the text of a folded pixel of {depth} values would take minutes to compile"
        if any(s.row_stride is not None for link in w.links[:-1] for s in link.outputs):
            return "what lies between is a part of another tensor"
        if pool is None:
            return None
        p = Pooled.of(conv, pool)
        if isinstance(p, str):
            return p
        x, (made,) = Stem.of(conv), w.outputs
        if x.f.run & (x.f.run - 1) or x.f.run * x.size < 32:
            return f"a window's row is {x.f.run} terms, no power of two"
        for e, where in ((conv.epilogue, "convolution"), (pool.epilogue, "maximum")):
            if len(e.results) != 1 or any(o.kind not in ("channel", "scalar") for o in e.operands[1:]):
                return f"what follows the {where} reads more than a value a channel, or is read as it is"
        if made.type.dtype not in ("int8", *FLOATS) or pool.epilogue.operands[0].dtype not in ("int8", "float32"):
            return f"takes the maximum of signed codes and floats, not {made.type.dtype}"
        if not self.candidates(w):
            return "a block's weights and rows do not fit its memory"
        return program_declines(pool.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        transposition, conv, pool = _accepted(w)
        if pool is None:
            return _FIRST.candidates(conv)[:4]
        p, x = _pooled(conv, pool), Stem.of(conv)
        bn = min(64, max(16, 1 << (x.s.ocg - 1).bit_length()))
        found = [s for s in Strip.choices(p, bn, w.isa) if s.shared(x.f.rows, x.f.run * x.size) <= _SHARED]
        return sorted((s.params for s in found), key=lambda q: self.predict(w, q))

    def predict(self, w: Workload, params: Params) -> float:
        """The fold's bytes, then the products of all strips, with what is multiplied twice, or the result's bytes."""
        transposition, conv, pool = _accepted(w)
        if pool is None:
            return _FIRST.predict(conv, params)
        p, x, b = _pooled(conv, pool), Stem.of(conv), Strip.of(params)
        pixels = static(x.s.n * x.f.height * x.f.width) or TYPICAL_PIXELS
        fold = pixels * (x.f.depth * x.size + 4 * x.s.icg * x.s.strides[0] * x.s.strides[1]) / 2.6e12 + 2e-6
        images = static(x.s.n) or 1
        blocks = -(-images * (p.pw + p.extra) // (b.bm - p.halo)) * -(-p.ph // b.down) * -(-x.s.ocg // b.bn)
        return fold + b.seconds(blocks, p, x.f.rows, x.f.run * x.size)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        transposition, conv, pool = _accepted(w)
        x = Stem.of(conv, _SPOTS if transposition else 0)
        given = w.input_dtype(0)
        of_links = dict(zip(map(id, w.links), chained(w), strict=True))
        pointers = x.pointers(given)
        for link, prefix in ((transposition, "t"), (conv if pool else None, "a")):
            if link is not None:
                operands = zip(link.epilogue.operands[1:], of_links[id(link)][1], strict=True)
                pointers += [
                    Parameter(f"{prefix}_q{k}", POINTER_TYPES[o.dtype], ("input", at))
                    for k, (o, at) in enumerate(operands, 1)
                ]
        pointers += epilogue_parameters(w.epilogue)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names, aligned = [name for name, _ in signature], frozenset(p.name for p in pointers)
        first = x.fold(f"{entry}_fold", names, transposition)
        if pool is None:
            b = Blocking.of(params)
            text, near = x.products(w, b, entry, names), bool(b.near)
            second = TritonSource(text, entry, signature, aligned, b.warps, b.stages, near=near, late=x.codes)
            later = ceil_div(x.s.pixels, b.bm) * -(-x.s.ocg // b.bn)
        else:
            p, strip = _pooled(conv, pool), Strip.of(params)
            text = _pooled_module(w, conv, pool, x, p, strip, entry, names)
            second = TritonSource(text, entry, signature, aligned, strip.warps, 1, chained=True)
            columns = product((x.s.n, p.pw + p.extra))
            later = ceil_div(columns, strip.bm - p.halo) * (-(-p.ph // strip.down) * -(-x.s.ocg // strip.bn))
        return TritonKernel(
            first + "\n\n" + second.text,
            (f"{entry}_fold", entry),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=x.pixels * (x.f.depth * x.size),
            in_place=False,
            triton=TritonSource(first, f"{entry}_fold", signature, aligned, 4, 1),
            grid=ceil_div(x.pixels, x.spots),
            then=(second,),
            later=(later,),
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """What the convolution's own kernel packs."""
        _, conv, _ = _accepted(w)
        own, _ = next(c for link, c in zip(w.links, chained(w), strict=True) if link is conv)
        return _FIRST.prepack(conv, (), {i: constants[at] for i, at in enumerate(own, 1) if at in constants})


def _pooled_module(
    w: Workload, conv: Workload, pool: Workload, x: Stem, p: Pooled, b: Strip, entry: str, names: Sequence[str]
) -> str:
    """The module of the kernel that multiplies and takes the maximum."""
    part = register_tiles.part(w)
    ordered = w.isa == register_tiles.ISA and part in (32, 64) and b.bn % part == 0
    made, taken = w.outputs[0], pool.epilogue.operands[0].dtype
    lines = ["v0 = v0 + c_bias"] if "bias" in names else []
    loads = ["c_bias = tl.load(bias + tl.minimum(channel, OC - 1))[None, :]"] if "bias" in names else []
    for e, prefix, pointer in ((conv.epilogue, "a", "a_q"), (pool.epilogue, "b", "q")):
        lines.append("a_v0 = v0" if prefix == "a" else _between(conv, taken))
        for line in _statements(e, x.s.ocg, prefix, pointer):
            (loads if " = tl.load(" in line else lines).append(line)
    program = Program(tuple(loads), tuple(lines), f"b_v{pool.epilogue.results[0]}")
    sizes = x.sizes() | {
        "BM": b.bm, "BN": b.bn, "COLUMNS": -(-x.s.ocg // b.bn), "DOWN": b.down, "STRIPS": -(-p.ph // b.down),
        "HALO": p.halo, "EXTRA": p.extra, "SPAN": p.pw + p.extra, "KERNEL": p.kernel, "LEFT": p.left, "TOP": p.top,
        "PH": p.ph, "PW": p.pw, "OUT_STRIDE": made.row_stride or x.s.ocg,
    }  # fmt: skip
    wide = "tl.int32" if made.type.dtype == "int8" else "tl.float32"
    body = pooled_body(p, b, x.f.rows, x.sums, program, part if ordered else 0, wide)
    helpers = product_text(x.held, False).rstrip() + "\n" + epilogue_helpers(pool.epilogue, body)
    about = f"{x.f.rows}x{x.f.columns} windows of {x.f.depth} channels, and the maximum of {p.kernel}x{p.kernel}."
    return module_text(about, entry, names, sizes, body, helpers)


def _between(conv: Workload, taken: str) -> str:
    """What the maximum's program begins with."""
    made = f"a_v{conv.epilogue.results[0]}"
    return f"b_v0 = {made}.to(tl.float32)" if taken == "float32" else f"b_v0 = {made}"


def _statements(e: Epilogue, channels: int, prefix: str, pointer: str) -> list[str]:
    """A program's statements without its stores; its loads are c_.., of channels."""
    lines = [x for x in epilogue_statements(e, channels=channels) if not x.startswith("tl.store(")]
    loaded = {x.split(" = ")[0] for x in lines if " = tl.load(" in x}

    def named(m: re.Match[str]) -> str:
        if m[0][0] == "q":
            return pointer + m[0][1:]
        return f"c_{prefix}{m[0]}" if m[0] in loaded else f"{prefix}_{m[0]}"

    return [re.sub(r"\b[qv]\d+\b", named, x) for x in lines]


def _pooled(conv: Workload, pool: Workload) -> Pooled:
    p = Pooled.of(conv, pool)
    assert not isinstance(p, str), p
    return p


def _accepted(w: Workload) -> tuple[Workload | None, Workload, Workload | None]:
    found = _links(w)
    if isinstance(found, str):
        raise ValueError(f"workload was not accepted: {found}")
    return found
