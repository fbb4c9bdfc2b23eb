"""Attention in one kernel (templates/attention.c): a block of queries and a block of keys at a time; float32.

Heads are read and written through strides, so that splitting and merging them costs nothing. Work is shared out over
(batch, head, query block). Bound by its multiply-adds, plus about 8 cycles for each vector of exponentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, ceil_div
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.cpu.instructions import literal
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.heads import ByHeads, integer_attr, operands_by_heads

_TYPICAL_KEYS = 128
_BLOCKS = (16, 32, 64)

#: Keys of a block: 32 rows of 256 scores are 32 KiB.
_KEY_BLOCKS = (256, 512)


class Heads(ByHeads):
    """An operand in C."""

    def at(self, symbols: tuple[str, ...]) -> str:
        """C expression of the place of row (b, h, s), in elements."""
        s, row = c_dim(self.s, symbols), c_dim(self.row, symbols)
        if self.letter == "h":
            return f"((((int64_t)(b) * {self.heads} + (h)) * {s} + (s)) * {row})"
        return f"(((int64_t)(b) * {s} + (s)) * {row} + (h) * {self.d})"


def _operands(w: Workload) -> list[Heads] | str:
    """q, k, v and the output, or the reason there is no kernel."""
    if w.op != "Attention":
        return f"computes Attention, not {w.op}"
    if any(s is not None and s.type.dtype != "float32" for s in w.inputs):
        return "computes in float32 only"
    return operands_of(w)


def operands_of(w: Workload) -> list[Heads] | str:
    """q, k, v and the output of any attention, or the reason there is no kernel."""
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    found = operands_by_heads(w)
    return found if isinstance(found, str) else [Heads(**vars(t)) for t in found]


def _accepted(w: Workload) -> list[Heads]:
    t = _operands(w)
    if isinstance(t, str):
        raise ValueError(f"workload was not accepted: {t}")
    return t


def mask_at(slot: Slot, symbols: tuple[str, ...]) -> str:
    """C expression of the place of the mask's row (b, h, s), in elements."""
    shape = (1,) * (4 - slot.type.rank) + tuple(slot.type.shape)
    terms, step = ["0"], slot.row_stride or shape[3]
    for name, size in zip("shb", (shape[2], shape[1], shape[0]), strict=True):
        if size != 1:
            terms.append(f"(int64_t)({name}) * {c_dim(step, symbols)}")
            step = step * size
    return "(" + " + ".join(terms) + ")"


def query_blocks(q: Heads) -> Sequence[int]:
    """Queries of a block worth trying: none much longer than there are."""
    return [n for n in _BLOCKS if isinstance(q.s, Dim) or n < q.s + 16] or [_BLOCKS[0]]


@dataclass(frozen=True)
class Arguments:
    """A kernel's pointer arguments, and the macros of shapes, places and attributes that its template reads.

    epilogue: position of the first pointer of the epilogue.
    """

    refs: tuple[ArgRef, ...]
    epilogue: int
    macros: Mapping[str, int | str]


def arguments(w: Workload, operands: Sequence[Heads], entry: str, qb: int) -> Arguments:
    """Of any attention. operands: as `operands_of` gives them."""
    q, k, v, out = operands
    symbols, mask = w.symbols, w.inputs[3] if len(w.inputs) > 3 else None
    refs: list[ArgRef] = [("input", 0), ("input", 1), ("input", 2), ("output", 0)]
    if mask is not None:
        refs.append(("input", 3))
    scale: dict[str, int | str]
    if len(w.inputs) > 4:
        scale = {"P_SCALE": len(refs)}
        refs.append(("input", 4))
    else:
        scale = {"SCALE": literal(w.attr("scale"))}
    first = len(refs)
    refs += [*epilogue_args(w.epilogue), ("workspace", 0)]
    channels = out.d * (out.heads if out.letter == "r" else 1)
    out_pix = Heads(out.b, out.heads, out.s, 0, out.letter, 1)
    return Arguments(tuple(refs), first, {
        "ENTRY": entry, "BATCH": c_dim(q.b, symbols), "SQ": c_dim(q.s, symbols), "SK": c_dim(k.s, symbols),
        "HEADS": q.heads, "KV_HEADS": k.heads, "D": q.d, "E": v.d, "QB": qb,
        "MR": 8 if ISAS[w.isa].registers > 16 else 4, "LDQ": c_dim(q.row, symbols), "LDK": c_dim(k.row, symbols),
        "LDV": c_dim(v.row, symbols), "OLD": w.outputs[0].row_stride or channels,
        "Q_AT(b, h, s)": q.at(symbols), "K_AT(b, h, s)": k.at(symbols), "V_AT(b, h, s)": v.at(symbols),
        "OUT_PIX(b, h, s)": out_pix.at(symbols), "OUT_C(h)": f"((h) * {out.d})" if out.letter == "r" else "0",
        "MASK": int(mask is not None), "MASK_AT(b, h, s)": "0" if mask is None else mask_at(mask, symbols),
        **scale, "CAUSAL": integer_attr(w, "causal"), "SAFE": integer_attr(w, "safe"),
        "P_OUT": 3, "P_MASK": 4, "P_WS": len(refs) - 1,
    })  # fmt: skip


class Attention:
    """Parameters. qb, kb: queries and keys of a block. packv: values of a head are copied into dense rows."""

    name = "cpu.attention"
    ops = frozenset({"Attention"})

    def accepts(self, w: Workload) -> str | None:
        t = _operands(w)
        return t if isinstance(t, str) else anchor_declines(w.epilogue, stored=STORED)

    def candidates(self, w: Workload) -> Sequence[Params]:
        q, k, _, _ = _accepted(w)
        width, keys = 2 * ISAS[w.isa].lanes, k.s
        if not isinstance(keys, Dim):
            whole = -(-keys // width) * width
            key_blocks = {min(whole, kb) for kb in (*_KEY_BLOCKS, 1024)}
        else:
            key_blocks = set(_KEY_BLOCKS)
        params: list[Params] = [
            (("qb", qb), ("packv", v), ("kb", kb))
            for qb in query_blocks(q)
            for v in (0, 1)
            for kb in sorted(key_blocks)
        ]
        return sorted(params, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        q, k, v, _ = _accepted(w)
        p, isa = dict(params), ISAS[w.isa]
        b, s, t = (_TYPICAL_KEYS if isinstance(d, Dim) else d for d in (1 if isinstance(q.b, Dim) else q.b, q.s, k.s))
        products = b * q.heads * s * t * (q.d + v.d) / isa.lanes / 1.6
        passes = -(-s // p["qb"])
        moved = b * q.heads * t * (q.d + v.d) / isa.lanes * (1 + 0.3 * passes * (1 - p["packv"]) + p["packv"])
        large = p["qb"] * min(t, p["kb"]) * 4 > 40_000
        again = b * q.heads * s * v.d / isa.lanes * 3 * (-(-t // p["kb"]) - 1)
        cycles = products * (1.05 if large else 1.0) + b * q.heads * s * t / isa.lanes * 12 + moved + again
        return 5e-7 + cycles / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        q, k, v, out = _accepted(w)
        p, lanes = dict(params), ISAS[w.isa].lanes
        own = arguments(w, (q, k, v, out), entry, p["qb"])
        late = len(w.inputs) < 4 or w.inputs[3] is None
        text = defines({
            **own.macros, "PACKV": p["packv"], "KB": p["kb"], "LDS": p["kb"] + 16,
            "LATE": int(late and float(str(w.attr("scale"))) > 0),
        })  # fmt: skip
        width, columns = 2 * lanes, -(-v.d // lanes) * lanes
        floats = ceil_div(k.s, width) * (width * q.d) + p["qb"] * (p["kb"] + 16 + columns)
        if p["packv"]:
            floats = k.s * columns + floats
        before, after = template_text("vec.h", "vmath.h", "lanes.h"), template_text("attention.h", "attention.c")
        source = before + text + workload_epilogue_c(w, own.epilogue) + after
        return Kernel(source, (entry,), own.refs, w.symbols, floats * 4, in_place=False)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
