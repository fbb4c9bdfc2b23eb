"""Two back-to-back convolutions of codes as one kernel on a CUDA GPU: any, then the 1x1 that reads its result.

A block computes all channels of the first convolution for its pixels, keeps their codes, and multiplies these by the
second's weights, a part of its channels at a time. The tensor between them is neither written nor read; at large sizes
the second product, which is bound by memory, runs beside other blocks' first product, which is bound by arithmetic.
Codes, sums and roundings are those of the two separate kernels, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import indent

import numpy as np

from temper.compile.triton import TritonSource
from temper.tactics.base import Params, Workload, chained
from temper.tactics.conv_geometry import TYPICAL_PIXELS, ConvShape, conv_shape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import ConvImplicitGemm
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.product_text import (
    Blocking,
    blocks,
    module_text,
    product_body,
    product_text,
    row_length,
    sizes_of,
)
from temper.tactics.cuda.source import SCALARS, extract_lines
from temper.tactics.geometry import static

_PRODUCT = ConvImplicitGemm()

#: Channels between the products: a tile's of the first, and terms of a step of the second.
_MIDDLE = (32, 64, 128)

_SECOND = """\
for start in tl.range(0, OC2, BN2, num_stages=STAGES2):
    channel = start + tl.arange(0, BN2)
    channel_ok = channel < OC2
    live = row_ok[:, None] & channel_ok[None, :]
    second = tl.load(w2 + channel[None, :] * W2_STRIDE + middle[:, None], mask=channel_ok[None, :], other=0)
    v0 = tl.dot({codes}, second, out_dtype=tl.int32) + tl.load(bias2 + channel, mask=channel_ok, other=0)[None, :]
"""

_SECOND_DIRECT = """\
for start in tl.range(0, OC2, BN2, num_stages=STAGES2):
    channel = start + tl.arange(0, BN2)
    channel_ok = channel < OC2
    live = row_ok[:, None] & channel_ok[None, :]
    n2 = start + {columns}
    second = tl.load(w2 + n2[None, :] * W2_STRIDE + middle[:, None], mask=(n2 < OC2)[None, :], other=0)
{early}    acc2 = tl.dot({codes}, second, out_dtype=tl.int32)
{order}    v0 = acc2 + tl.load(bias2 + channel, mask=channel_ok, other=0)[None, :]
"""

#: Steps that every device rounds alike. A code that is off by one between the products would be seen behind them.
EXACT = frozenset({"Cast", "Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "Clip", "Saturate", "Constant"})

#: bm, bk, warps and stages of the first product; results of a step of the second, and the depth of its loop; whether
#: results are stored from registers, and loads come through the processor's own cache.
_CHOICES = (
    (128, 64, 4, 3, 64, 3, 1, 0), (128, 64, 4, 3, 64, 3, 1, 1), (64, 128, 4, 2, 64, 3, 1, 1),
    (128, 128, 8, 2, 64, 3, 1, 1), (64, 64, 4, 4, 64, 3, 1, 0), (64, 64, 4, 3, 128, 3, 0, 0),
    (64, 64, 4, 4, 64, 3, 0, 0),
)  # fmt: skip


def _shapes(w: Workload) -> tuple[ConvShape, ConvShape] | str:
    """Geometry of both convolutions, or the reason why there is no kernel."""
    if len(w.links) != 2 or any(link.op != "ConvInt8" for link in w.links):
        return "computes two convolutions of codes"
    if len(w.outputs) != 1:
        return "what lies between is not stored"
    first, second = (conv_shape(link) for link in w.links)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    if second.kernel != (1, 1) or not second.flat or second.padded:
        return "the second convolution is not 1x1, one pixel for one"
    for link in w.links:
        if (reason := _PRODUCT.accepts(link)) is not None:
            return reason
    if first.ocg not in _MIDDLE:
        return f"computes {', '.join(map(str, _MIDDLE))} channels between, not {first.ocg}"
    between = w.links[1].inputs[0]
    assert between is not None
    e = w.links[0].epilogue
    if between.type.dtype != "int8" or len(e.results) != 1:
        return "what lies between are not signed codes"
    if any(o.kind not in ("channel", "scalar") for o in e.operands[1:]):
        return "what follows the first product reads more than a value a channel"
    if inexact := sorted({i.op for i in e.instrs} - EXACT):
        return f"codes behind {', '.join(inexact)} may be off by one, which the second product would spread"
    return first, second


class ConvPair:
    """A chain of two convolutions of codes, the second 1x1.

    Parameters: bm, bk, warps and stages of the first product; bn: channels of a step of the second; depth: how many of
    its steps are loaded ahead.
    """

    name = "cuda.conv_pair"
    ops = frozenset({"Chain"})
    packing = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "Chain", "chains")) is not None:
            return reason
        found = _shapes(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        first, second = _accepted(w)
        names = ("bm", "bk", "warps", "stages", "bn", "depth", "direct", "near")
        # a thread's share of either product's sums is at most 64 registers
        found = [c for c in _CHOICES if c[0] * max(first.ocg, c[4]) <= 64 * 32 * c[2]]
        found = [c for c in found if c[1] <= max(64, first.icg) and c[4] < 2 * second.ocg]
        found = [c for c in found if not c[6] or register_tiles.fits(w, c[0], c[4], c[2])]
        made = [tuple(zip(names, c, strict=True)) for c in found or _CHOICES[:1]]
        return sorted(made, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        """Waves of blocks, each as long as its products and what it moves; or all bytes at the memory's rate."""
        first, second = _accepted(w)
        q = dict(params)
        pixels = static(first.pixels) or TYPICAL_PIXELS
        tiles = -(-pixels // q["bm"])
        resident = max(1, min(16 // q["warps"], 3))
        products = 2.0 * q["bm"] * first.ocg * (first.k + second.ocg)
        steps = -(-first.k // q["bk"])
        one = products / (600e12 / 132) + q["bm"] * (first.k + 3 * second.ocg) / 250e9 + steps * 0.1e-6 / resident
        one += -(-second.ocg // q["bn"]) * 0.8e-6 / (resident * q["depth"])
        moved = pixels * (first.icg * first.strides[0] * first.strides[1] + 2 * second.ocg)
        waves = -(-tiles // (132 * resident))
        return 3e-6 + max(min(waves * resident, max(1.0, tiles / 132)) * one, moved / 2.3e12)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        first, second = _accepted(w)
        q, link = dict(params), w.links[0]
        b = Blocking(q["bm"], first.ocg, q["bk"], q["warps"], q["stages"], 1, 0, 1, 0, q["direct"])
        data = link.input_dtype(0)
        (_, own), _ = chained(w)
        borders = _PRODUCT.borders(link)
        packed = [("w", "*i8"), ("bias", "*i32"), *([("blank", POINTER_TYPES[data])] if borders else [])]
        packed += [("w2", "*i8"), ("bias2", "*i32")]
        pointers = [
            Parameter("x", POINTER_TYPES[data], ("input", 0)),
            *(Parameter(name, kind, ("packed", i)) for i, (name, kind) in enumerate(packed)),
            *(
                Parameter(f"a_q{k}", POINTER_TYPES[o.dtype], ("input", at))
                for k, (o, at) in enumerate(zip(link.epilogue.operands[1:], own, strict=True), 1)
            ),
            *epilogue_parameters(w.epilogue),
        ]
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        body = middle(link, first, b, borders)
        codes = f"a_v{link.epilogue.results[0]}"
        strides = [o.row_stride for o in w.outputs]
        lines = epilogue_statements(w.epilogue, channels=second.ocg, row_strides=strides)
        scalars, steps = extract_lines(SCALARS, "".join(f"{line}\n" for line in lines))
        body += scalars
        if b.direct:
            early, steps = extract_lines(r"^v\w+ = tl\.load\(q\d+ \+ row.*\n", steps)
            early = indent(early, "    ")
            order = indent(register_tiles.ordered("acc2", q["bn"], q["bn"])[0], "    ")
            columns = register_tiles.columns("BN2", q["bn"])
            body += register_tiles.ROWS
            body += _SECOND_DIRECT.format(codes=codes, columns=columns, order=order, early=early)
        else:
            body += _SECOND.format(codes=codes)
        body += indent(steps, "    ")
        if second.ocg % q["bn"] == 0:
            body = re.sub(r", mask=(channel_ok(\[None, :\])?|\(n2 < OC2\)\[None, :\])(, other=0)?", "", body)
            body = body.replace("live = row_ok[:, None] & channel_ok[None, :]", "live = row_ok[:, None]")
        sizes = sizes_of(first, b, 1) | {
            "OC2": second.ocg, "BN2": q["bn"], "STAGES2": q["depth"], "W2_STRIDE": row_length(second, 1),
        }  # fmt: skip
        about = f"{first.kernel[0]}x{first.kernel[1]} convolution, then 1x1: {first.icg}, {first.ocg}, {second.ocg}."
        helpers = product_text(data, False).rstrip() + "\n" + epilogue_helpers(w.epilogue, body)
        text = module_text(about, entry, [name for name, _ in signature], sizes, body, helpers)
        aligned = frozenset(p.name for p in pointers)
        return TritonKernel(
            text,
            (entry,),
            tuple(p.ref for p in pointers),
            w.symbols,
            in_place=False,
            grid=blocks(first, b),
            triton=TritonSource(
                text, entry, signature, aligned, q["warps"], q["stages"], near=bool(q["near"]), late=True
            ),
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """For each convolution what its own kernel packs."""
        return packed_links(w, constants)


def packed_links(w: Workload, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
    """What a chain's convolutions pack, each as its own kernel does, in the order of the links."""
    arrays: list[np.ndarray] = []
    for link, (own, _) in zip(w.links, chained(w), strict=True):
        of_link = {i: constants[at] for i, at in enumerate(own, 1) if at in constants}
        arrays += _PRODUCT.prepack(link, (), of_link)
    return tuple(arrays)


def middle(link: Workload, s: ConvShape, b: Blocking, borders: bool) -> str:
    """The statements that compute the first convolution's codes, with names apart from those of what follows, which has
    channels of its own: `middle` for its channels, a_ before its program's operands and values."""
    lines = [x for x in epilogue_statements(link.epilogue, channels=s.ocg) if not x.startswith("tl.store(")]
    body = product_body(s, b, True, blank=borders) + "acc += tl.load(bias + n)[None, :]\na_v0 = acc\n"
    body += re.sub(r"\b([qv]\d+)\b", r"a_\1", "\n".join(lines) + "\n")
    body = re.sub(r"\b(channel|live)\b", r"middle_\1", body).replace("middle_channel", "middle")
    return re.sub(r"\bchannel_ok\b", "middle_ok", body)


def _accepted(w: Workload) -> tuple[ConvShape, ConvShape]:
    found = _shapes(w)
    if isinstance(found, str):
        raise ValueError(f"workload was not accepted: {found}")
    return found
