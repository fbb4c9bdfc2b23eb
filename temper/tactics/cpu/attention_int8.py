"""Attention of codes in one kernel (templates/attention_int8.c): both products are integer, and so are the weights.

Work is shared out over (batch, head, query block). Words of products are four bytes where the CPU multiplies unsigned
by signed ones (VNNI) and two int16 elsewhere, as in int8.py; all code levels give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, ceil_div
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.attention import Heads, arguments, operands_of, query_blocks
from temper.tactics.cpu.render import STORED, anchor_declines, template_text, workload_epilogue_c
from temper.tactics.cpu.source import defines
from temper.tactics.heads import integer_attr

_TYPICAL = 128
_INPUTS = {"uint8": "uint8_t", "int8": "int8_t"}


def _operands(w: Workload) -> list[Heads] | str:
    if w.op != "AttentionInt8":
        return f"computes AttentionInt8, not {w.op}"
    return operands_of(w)


def _accepted(w: Workload) -> list[Heads]:
    t = _operands(w)
    if isinstance(t, str):
        raise ValueError(f"workload was not accepted: {t}")
    return t


def _bytes(w: Workload) -> bool:
    return "avx512_vnni" in ISAS[w.isa].needs


class AttentionInt8:
    """Parameter. qb: queries of a block."""

    name = "cpu.attention_int8"
    ops = frozenset({"AttentionInt8"})

    def accepts(self, w: Workload) -> str | None:
        t = _operands(w)
        return t if isinstance(t, str) else anchor_declines(w.epilogue, stored=STORED)

    def candidates(self, w: Workload) -> Sequence[Params]:
        q = _accepted(w)[0]
        params: list[Params] = [(("qb", qb),) for qb in query_blocks(q)]
        return sorted(params, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        q, k, v, _ = _accepted(w)
        isa, qb, per = ISAS[w.isa], dict(params)["qb"], 4 if _bytes(w) else 2
        b, s, t = (_TYPICAL if isinstance(d, Dim) else d for d in (1 if isinstance(q.b, Dim) else q.b, q.s, k.s))
        products = s * t * (q.d + v.d) / per / isa.lanes / 1.4 * (1.1 if qb * t * 4 > 40_000 else 1.0)
        weights = s * t / isa.lanes * 9
        packed = t * (q.d + v.d) / isa.lanes * 2 + -(-s // qb) * 200
        return 5e-7 + b * q.heads * (products + weights + packed) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        q, k, v, out = _accepted(w)
        qb, lanes = dict(params)["qb"], ISAS[w.isa].lanes
        x, mask = w.inputs[0], w.inputs[3] if len(w.inputs) > 3 else None
        assert x is not None
        own = arguments(w, (q, k, v, out), entry, qb)
        per, zero = 4 if _bytes(w) else 2, integer_attr(w, "zero_point")
        flip = x.type.dtype == "int8"
        text = defines({
            **own.macros, "BYTES": int(per == 4), "in_t": _INPUTS[x.type.dtype], "FLIP": int(flip),
            "ZERO_POINT": f"({zero})", "OFFSET": f"({zero + 128 * flip if per == 4 else 0})",
            "MASK_ROWS": int(mask is not None and mask.type.rank > 1 and mask.type.shape[-2] != 1),
        })  # fmt: skip
        width, words = ceil_div(k.s, 2 * lanes) * (2 * lanes), -(-q.d // per)
        size = qb * (width + 16) * 4 + width * (words + 1) * 4 + ceil_div(k.s, per) * (-(-v.d // lanes) * lanes * 4)
        size = size + qb * words * 4 + qb * (width + 64) * (4 // per)
        before = template_text("vec.h", "vmath.h", "lanes.h")
        after = template_text("attention.h", "attention_int8.c")
        source = before + text + workload_epilogue_c(w, own.epilogue) + after
        return Kernel(source, (entry,), own.refs, w.symbols, size, in_place=False)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
