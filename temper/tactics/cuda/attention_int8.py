"""Attention of 8-bit codes on a CUDA GPU in one kernel, bit for bit equal to its reference.

Softmax weights are codes relative to a row's largest score, so that score has to be known first: where all keys fit in
one block the scores are kept, otherwise they are computed twice. Up to 514 keys, a sum of weights times values is an
integer below 2^24: half-precision products with float32 sums are exact then, and unlike bytes need no transposition of
the values. With more keys, each block is summed in that way and the blocks are added as integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import indent

import numpy as np

from temper.ir.dims import Dim
from temper.reference.attention import LOG2E, P1, P2, P3
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.attention import (
    CAUSAL,
    Heads,
    Tile,
    attention_kernel,
    head_text,
    kept,
    mask_text,
    operands_of,
    parts,
    predicted,
    ragged,
    tiles,
)
from temper.tactics.cuda.epilogue_triton import epilogue_declines
from temper.tactics.cuda.rounding import HALVES_OF_CODES, HALVES_OF_WORDS
from temper.tactics.heads import integer_attr

#: Most keys for which |sum of codes times values| <= 255 * 128 * keys is a whole number of float32, and of int32.
_EXACT_FLOATS = (1 << 24) // (255 * 128)
_EXACT_WORDS = ((1 << 31) - 1) // (255 * 128)

#: Before sm_90 conversions cost as much as eight additions. 1.5 * 2^23 added to a number below 2^22 leaves it, rounded
#: half to even, in the low bits: those of an integer added to the bits of 1.5 * 2^23 are its conversion.
#: weight_codes: 255 e^x for x <= 0 as a code, in the bits of a float32 whose lower half are those of 1024 + code as
#: float16 (a product with a power of two is exact, so that it may be contracted).
#: half: bytes as float16.
_WEIGHED = 12582912.0 + 0x6400
_WEIGHED_BITS = int(np.float32(_WEIGHED).view(np.int32))
_HELPERS = f"""


@triton.jit
def small_to_float(x):
    return (x + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0


@triton.jit
def weight_codes(x):
    t = tl.maximum(x * {float(LOG2E)!r}, -16.0) + 12582912.0
    f = tl.maximum(x * {float(LOG2E)!r}, -16.0) - (t - 12582912.0)
    p = 255.0 + f * ({float(P1)!r} + f * ({float(P2)!r} + f * {float(P3)!r}))
    power = ((t.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
    return tl.fma(p, power, tl.full(p.shape, {float(_WEIGHED)!r}, tl.float32)).to(tl.int32, bitcast=True)


@triton.jit
def weight_halves(bits):
    return tl.inline_asm_elementwise(
        "{HALVES_OF_WORDS}", "=r,r,r", [bits], dtype=tl.float16, is_pure=True, pack=2,
    )


@triton.jit
def half(x):
    return tl.inline_asm_elementwise(
        "{HALVES_OF_CODES}", "=r,=r,r", [x], dtype=tl.float16, is_pure=True, pack=4,
    )
"""


class AttentionInt8:
    """Attention of int8 or uint8 queries, int8 keys and values. Parameters as Tile has them."""

    name = "cuda.attention_int8"
    ops = frozenset({"AttentionInt8"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "AttentionInt8":
            return f"computes AttentionInt8, not {w.op}"
        t = operands_of(w)
        if isinstance(t, str):
            return t
        if (mask := w.inputs[3] if len(w.inputs) > 3 else None) is not None and mask.type.dtype != "float32":
            return f"the mask must be float32, not {mask.type.dtype}"
        return epilogue_declines(w.epilogue, "float32")

    def candidates(self, w: Workload) -> Sequence[Params]:
        operands = _accepted(w)
        found = list(tiles(w, operands, 1))
        # what is read early waits in registers
        room = [x for x in found if kept(operands, x) and x.bm * (x.bn + operands[2].room) <= 128 * 32 * x.warps]
        found += [replace(x, early=1) for x in room]
        return sorted((x.params for x in found), key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        t, operands = Tile.of(params), _accepted(w)
        twice = 1.0 if kept(operands, t) else 1.5
        return predicted(w, operands, t, 1, 1.6e12 / twice, 1.4e-10 * twice)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        _, k, v, _ = operands = _accepted(w)
        t = Tile.of(params)
        assert w.inputs[0] is not None
        unsigned = w.inputs[0].type.dtype == "uint8"
        zero = integer_attr(w, "zero_point") - 128 * unsigned
        mask = w.inputs[3] if len(w.inputs) > 3 else None
        keys = 1 << 40 if isinstance(k.s, Dim) else k.s
        kind = "float32" if keys <= _EXACT_FLOATS else "int32" if keys <= _EXACT_WORDS else "int64"
        whole = "" if kind == "float32" else f".to(tl.{kind})"
        counted, wide = ("int64", whole) if kind == "int64" else ("int32", "")

        def values_text(tail: bool) -> str:
            there = v.mask("(j < KEYS)[:, None]" if tail else "", "e[None, :]")
            return f"tl.load(v + v_at + j[:, None] * V_ROW + e[None, :]{there})"

        def step(values: str, width: int) -> str:
            """What `scores` of `width` keys weigh."""
            text = f"""\
codes = weight_codes(scores - base[:, None])
total += (tl.sum(codes, axis=1) - {_wrapped(width * _WEIGHED_BITS)}){wide}
values = half({values})
"""
            if whole:
                return text + f"v0 += tl.dot(weight_halves(codes), values){whole}\n"
            return text + "v0 = tl.dot(weight_halves(codes), values, v0)\n"

        last = "tl.minimum(KEYS, tile % BLOCKS * BM + BM + KEYS - QUERIES)" if integer_attr(w, "causal") else "KEYS"
        loop = f"for first in range(0, {last}, BN):\n"
        body = head_text(operands, t, "({} ^ 128).to(tl.int8, bitcast=True)" if unsigned else "{}")
        start = f"total = tl.zeros((BM,), tl.{counted})\nv0 = tl.zeros((BM, {v.room}), tl.{kind})\n"
        body += 'unit = tl.load(scale)\ntop = tl.full((BM,), float("-inf"), tl.float32)\n'
        highest = "top = tl.maximum(top, tl.max(scores, axis=1))\n"
        if kept(operands, t):
            # all scores are kept, of blocks that together hold hardly more than the keys
            held = [(f"j = {at} + tl.arange(0, {n})\n", at + n > keys, n) for at, n in parts(0, keys, 3)]
            read = []
            for i, (place, tail, _) in enumerate(held):
                values, shift = values_text(tail), "" if mask is None else mask_text(mask)
                if t.early:
                    body += f"{place}values_{i} = {values}\n"
                    body += f"shift_{i} = {shift}\n" if shift else ""
                    values, shift = f"values_{i}", f"shift_{i}" if shift else ""
                read.append((values, shift))
            for i, ((place, tail, _), (_, shift)) in enumerate(zip(held, read, strict=True)):
                body += f"{place}{_scores(w, k, tail, zero, shift)}scores_{i} = scores\n{highest}"
            body += _BASE + start
            for i, ((place, _, width), (values, _)) in enumerate(zip(held, read, strict=True)):
                body += f"{place}scores = scores_{i}\n{step(values, width)}"
        else:
            tail = ragged(k, t)
            shift = "" if mask is None else mask_text(mask)
            scores = "j = first + tl.arange(0, BN)\n" + _scores(w, k, tail, zero, shift)
            body += f"{loop}{indent(scores + highest, '    ')}{_BASE}"
            body += f"{start}{loop}{indent(scores + step(values_text(tail), t.bn), '    ')}"
        body += "over = tl.div_rn(tl.full((BM,), 1.0, tl.float32), total.to(tl.float32))\n"
        if integer_attr(w, "safe"):
            body += "over = tl.where(total == 0, 0.0, over)\n"
        body += "v0 = v0.to(tl.float32) * over[:, None]\n"
        # a few numbers more in a thread would leave room for fewer blocks on a processor
        tight = w.isa == "sm_90" and kept(operands, t) and t.bm * (t.bn + v.room) >= 160 * 32 * t.warps
        return attention_kernel(w, entry, operands, t, body, _HELPERS, registers=128 if tight else 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


_BASE = 'base = tl.where(top == float("-inf"), 0.0, top)\n'


def _wrapped(x: int) -> int:
    """The number in 32 bits, as sums that overflow leave it."""
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def _scores(w: Workload, k: Heads, tail: bool, zero: int, shift: str) -> str:
    """Statements that compute the scores of the keys j.

    tail: some of them are not there.
    zero: of the queries, as signed bytes.
    shift: expression of what is added to the scores.
    """
    there = k.mask("(j < KEYS)[None, :]" if tail else "", "d[:, None]")
    text = f"""\
keys = tl.load(k + k_at + j[None, :] * K_ROW + d[:, None]{there})
sums = tl.dot(queries, keys, out_dtype=tl.int32)
"""
    if zero:
        text += f"sums -= tl.sum(keys.to(tl.int32), axis=0)[None, :] * ({zero})\n"
    small = k.d * 128 * (255 if zero else 128) < 1 << 22 and w.isa in ("sm_80", "sm_89")
    exact = "small_to_float(sums)" if small else "sums.to(tl.float32)"
    text += f"scores = {exact} * unit\n"
    text += f"scores += {shift}\n" if shift else ""
    seen = [c for c in ("(j < KEYS)[None, :]" if tail else "", CAUSAL if integer_attr(w, "causal") else "") if c]
    if seen:
        text += f'scores = tl.where({" & ".join(seen)}, scores, float("-inf"))\n'
    return text


def _accepted(w: Workload) -> list[Heads]:
    t = operands_of(w)
    if isinstance(t, str):
        raise ValueError(f"workload was not accepted: {t}")
    return t
