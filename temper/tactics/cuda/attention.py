"""Flash attention on a CUDA GPU: one kernel meets blocks of queries with blocks of keys and stores no scores.

Heads are read and written through strides, so that splitting and merging them costs nothing. Softmax is computed
online: each row's largest score and sum of weights are carried along, and its result is rescaled when they change (Dao
et al., FlashAttention, 2022). Scores and sums are float32. Weights, which are at most 1, are rounded to the type of the
values where that is a half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Slot, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, HALVES, widened
from temper.tactics.cuda.source import LAST_FIRST, kernel_of, stores
from temper.tactics.geometry import typical_count
from temper.tactics.heads import ByHeads, integer_attr, operands_by_heads

#: Sizes that predictions count with where a size is known at run time only.
_TYPICAL_KEYS, _TYPICAL_BATCH = 128, 8
_PROCESSORS = 132
LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Heads(ByHeads):
    """An operand in Triton. room: width as a power of two."""

    room: int

    def row_text(self, b: str, h: str, s: str) -> str:
        """Element of the first column of row `s` of head `h`."""
        size, row = dim_text(self.s), dim_text(self.row)
        if self.letter == "h":
            return f"(({b} * {self.heads} + {h}) * ({size}) + {s}) * ({row})"
        return f"({b} * ({size}) + {s}) * ({row}) + {h} * {self.d}"

    def mask(self, rows: str, column: str) -> str:
        """The mask of a tile of its elements, empty where all of them are there. rows: condition on rows, if any."""
        terms = [t for t in (rows, f"({column} < {self.d})" if self.room != self.d else "") if t]
        return f", mask={' & '.join(terms)}, other=0" if terms else ""


def operands_of(w: Workload) -> list[Heads] | str:
    """q, k, v and the output of any attention, or the reason there is no kernel."""
    if (reason := level_declines(w)) is not None:
        return reason
    found = operands_by_heads(w)
    if isinstance(found, str):
        return found
    if 0 in w.outputs[0].type.shape:
        return "nothing asks for its result"
    slots = (*w.inputs[:3], w.outputs[0])
    rooms = []
    for t, slot in zip(found, slots, strict=True):
        if t.d > 256:
            return f"heads of {t.d} columns do not fit in registers"
        least = 32 if slot is not None and slot.type.dtype in ("int8", "uint8") else 16
        rooms.append(max(least, 1 << (t.d - 1).bit_length()))
    # all rooms of a matrix product are alike
    wide = (max(rooms[:2]),) * 2 + (max(rooms[2:]),) * 2
    return [Heads(**vars(t), room=room) for t, room in zip(found, wide, strict=True)]


def mask_text(slot: Slot) -> str:
    """Elements of the attention mask for a tile [BM, BN] of scores, 0 where there is no score."""
    shape = (1,) * (4 - slot.type.rank) + tuple(slot.type.shape)
    step: DimLike = slot.row_stride or shape[3]
    terms = ["j[None, :]"]
    by_query = shape[2] != 1
    for index, size in zip(("i[:, None].to(tl.int64)", "head", "batch"), (shape[2], shape[1], shape[0]), strict=True):
        if size != 1:
            terms.append(f"{index} * ({dim_text(step)})")
            step = step * size
    live = "(i < QUERIES)[:, None] & (j < KEYS)[None, :]" if by_query else "(j < KEYS)[None, :]"
    return widened(f"tl.load(mask + {' + '.join(terms)}, mask={live}, other=0.0)", slot.type.dtype)


@dataclass(frozen=True)
class Tile:
    """bm queries meet bn keys at a time. early: values and mask are read before the first product."""

    bm: int
    bn: int
    warps: int
    stages: int
    early: int = 0

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @staticmethod
    def of(params: Params) -> Tile:
        return Tile(**dict(params))


def tiles(w: Workload, operands: Sequence[Heads], size: int) -> Iterator[Tile]:
    """Blockings that fit in registers and shared memory. size: bytes of an element of keys."""
    q, k, v, _ = operands
    queries = 1 << 30 if isinstance(q.s, Dim) else q.s
    keys = 1 << 30 if isinstance(k.s, Dim) else k.s
    for bm in (16, 32, 64, 128):
        if bm > 16 and bm >= 2 * queries:
            continue
        for bn in (32, 64, 128, 256):
            if (bn > 32 and bn >= 2 * keys) or (size == 4 and bm * bn > 4096):
                continue
            warps = {16: (2, 4), 32: (2, 4), 64: (4,), 128: (4, 8)}[bm]
            for n in warps:
                held = bm * (bn + v.room) / (32 * n)
                if held > (64 if size == 4 else 192):
                    continue
                for stages in (1, 2, 3):
                    steps = -(-min(keys, 1 << 12) // bn)
                    shared = bn * (k.room + v.room) * size * max(1, stages - 1) + bm * q.room * size
                    if stages > 1 and (steps == 1 or shared > 96_000):
                        continue
                    yield Tile(bm, bn, n, stages)


def predicted(w: Workload, operands: Sequence[Heads], t: Tile, size: int, rate: float, step: float) -> float:
    """Predicted seconds: the longest of arithmetic, reads from the L2 cache, and all bytes at the memory bandwidth.

    size: bytes of an element of keys.
    rate: multiplications of a processor per second in tiles of 64 rows, which whole groups of warps multiply; of
        smaller ones less.
    step: seconds a processor takes for one weight. Measured on an H100.
    """
    q, k, v, _ = operands
    b = _TYPICAL_BATCH if isinstance(q.b, Dim) else q.b
    s, keys = (_TYPICAL_KEYS if isinstance(d, Dim) else d for d in (q.s, k.s))
    seen = min(1.0, 0.5 + 0.5 * t.bn / keys) if integer_attr(w, "causal") and s > 1 else 1.0
    each = -(-b * q.heads * -(-s // t.bm) // _PROCESSORS)  # blocks of a processor
    steps = -(-keys // t.bn) * seen
    tile = {16: 0.3, 32: 0.45}.get(t.bm, 1.0) * rate
    width = q.room + v.room
    computed = t.bm * t.bn * steps * max(width / tile, step) * (1 + 4 / t.bn)
    read = size * (t.bn * steps * width + t.bm * q.room) / 42e9
    # 6 warps keep a processor busy; a step waits for its keys, the less the earlier they were fetched
    busy = min(1.0, each * t.warps / 6)
    held = t.bm * (t.bn + v.room) / (32 * t.warps)  # numbers that a thread holds
    late = (1.0 if t.warps <= 4 else 1.12) * (1.25 if held > 160 else 1.0) * (0.95 if t.early else 1.0)
    if steps > 1:
        late *= {1: 1.25, 2: 1.0 if t.bn >= 128 else 1.05, 3: 1.08 if t.bn >= 128 else 1.0}[t.stages]
        late *= 1.5 if held > 128 else 1.0
    waits = 0.6e-6 + steps * ({1: 0.55e-6, 2: 0.45e-6, 3: 0.35e-6}[t.stages] if steps > 1 else 0.3e-6) + 2e-9 * t.bm
    slots = (*w.inputs[:3], w.outputs[0])
    moved = sum(itemsize(x.type.dtype) * typical_count(x.type.shape, _TYPICAL_KEYS) for x in slots if x is not None)
    parts = each * computed * late / busy, each * read * late, waits, moved / 2.5e12
    return 1.5e-6 + 0.8 * max(parts) + 0.2 * sum(parts)  # the largest hides most of the others


class Attention:
    """Attention of floats. Parameters as Tile has them."""

    name = "cuda.attention"
    ops = frozenset({"Attention"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Attention":
            return f"computes Attention, not {w.op}"
        if other := [s.type.dtype for s in w.inputs if s is not None and s.type.dtype not in FLOATS]:
            return f"attends in {', '.join(FLOATS)}, not {other[0]}"
        t = operands_of(w)
        return t if isinstance(t, str) else epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        t = _accepted(w)
        found = [x.params for x in tiles(w, t, _size(w))]
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        size = _size(w)
        rate = {2: 1.6e12, 4: 1.0e12 if w.tf32 else 0.15e12}[size]
        operands, t = _accepted(w), Tile.of(params)
        return predicted(w, operands, t, size, rate, 8.3e-11) * (0.8 if kept(operands, t) else 1.0)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        q, k, v, out = operands = _accepted(w)
        t = Tile.of(params)
        mask = w.inputs[3] if len(w.inputs) > 3 else None
        kinds = [s.type.dtype for s in w.inputs[:3] if s is not None]
        precision = ', input_precision="tf32"' if w.tf32 else ', input_precision="ieee"'
        # a product of two types is one of float32
        alike = kinds[0] == kinds[1]
        queries, keys = ("{}" if alike else widened("{}", d) for d in kinds[:2])
        halves = alike and kinds[0] in HALVES
        causal = integer_attr(w, "causal")
        narrow = f".to({HALVES[kinds[2]]})" if kinds[2] in HALVES else ""
        factor = f"{float(str(w.attr('scale'))) * LOG2E!r}"
        # without a mask, scores are scaled as they are weighed: where the scale is positive, the largest stays so
        late = mask is None and not causal and float(str(w.attr("scale"))) > 0

        weighed = "scores - base[:, None]"
        if late:
            lowered = "tl.zeros_like(scores) - base[:, None]"
            weighed = f"tl.fma(scores, tl.full(scores.shape, {factor}, tl.float32), {lowered})"

        def shift_text() -> str:
            """Text of what the mask adds to the scores of keys j."""
            if mask is None:
                return ""
            return f"""\
shift = {mask_text(mask)}
# times log2(e) the lowest of finite numbers would be infinite, and its row would see nothing
shift = tl.where(shift > float("-inf"), tl.maximum(shift * {LOG2E!r}, -3.0e38), shift)
"""

        def scored(tail: bool) -> str:
            """The scores of the keys j; tail: some of them are not there."""
            raw = late or mask is not None
            text = f"scores = tl.dot(queries, keys{'' if halves else precision}){'' if raw else f' * {factor}'}\n"
            if mask is not None:
                scaled = f"tl.full(scores.shape, {factor}, tl.float32)"
                text += f"scores = tl.fma(scores, {scaled}, tl.broadcast_to(shift, scores.shape))\n"
            seen = [c for c in ("(j < KEYS)[None, :]" if tail else "", CAUSAL if causal else "") if c]
            if seen:
                text += f'scores = tl.where({" & ".join(seen)}, scores, float("-inf"))\n'
            return text

        def keys_text(tail: bool) -> str:
            there = k.mask("(j < KEYS)[None, :]" if tail else "", "d[:, None]")
            return f"keys = {keys.format(f'tl.load(k + k_at + j[None, :] * K_ROW + d[:, None]{there})')}\n"

        def values_text(tail: bool) -> str:
            there = v.mask("(j < KEYS)[:, None]" if tail else "", "e[None, :]")
            return f"values = tl.load(v + v_at + j[:, None] * V_ROW + e[None, :]{there})\n"

        largest = f"tl.max(scores, axis=1){f' * {factor}' if late else ''}"

        def step(tail: bool) -> str:
            """Statements of one block of keys: scores, online softmax, weighted values."""
            return f"""\
{keys_text(tail)}{shift_text()}{scored(tail)}\
highest = tl.maximum(top, {largest})
base = tl.where(highest == float("-inf"), 0.0, highest)
weights = tl.exp2({weighed})
faded = tl.exp2(top - base)
total = total * faded + tl.sum(weights, axis=1)
{values_text(tail)}\
v0 = tl.dot(weights{narrow}, values, v0 * faded[:, None]{'' if narrow else precision})
top = highest
"""

        def at_once(blocks: Sequence[tuple[int, int]], end: int) -> str:
            """Statements for all keys at once: scores are kept, nothing is rescaled, all is read at the start."""
            places = [(f"j = {at} + tl.arange(0, {width})\n", at + width > end) for at, width in blocks]
            text = ""
            for i, (place, tail) in enumerate(places):
                text += f"{place}{keys_text(tail)}keys_{i} = keys\n"
            for i, (place, tail) in enumerate(places):
                text += f"{place}{values_text(tail)}values_{i} = values\n"
            for i, (place, _) in enumerate(places):
                text += f"{place}{shift_text()}shift_{i} = shift\n" if mask is not None else ""
            for i, (place, tail) in enumerate(places):
                text += f"shift = shift_{i}\n" if mask is not None else ""
                text += f"{place}keys = keys_{i}\n{scored(tail)}scores_{i} = scores\ntop = tl.maximum(top, {largest})\n"
            text += 'base = tl.where(top == float("-inf"), 0.0, top)\n'
            for i in range(len(places)):
                text += f"scores = scores_{i}\nweights = tl.exp2({weighed})\ntotal += tl.sum(weights, axis=1)\n"
                text += f"v0 = tl.dot(weights{narrow}, values_{i}, v0{'' if narrow else precision})\n"
            return text

        body = head_text(operands, t, queries)
        body += 'top = tl.full((BM,), float("-inf"), tl.float32)\ntotal = tl.zeros((BM,), tl.float32)\n'
        body += f"v0 = tl.zeros((BM, {v.room}), tl.float32)\n"
        last = "tl.minimum(KEYS, tile % BLOCKS * BM + BM + KEYS - QUERIES)" if causal else "KEYS"
        if isinstance(k.s, int) and kept(operands, t):
            body += at_once(parts(0, k.s, 3), k.s)
        elif isinstance(k.s, int) and not causal:
            # the last block, if it is not whole, is as narrow as products can be
            whole = k.s // t.bn * t.bn
            blocks = f"j = first + tl.arange(0, BN)\n{step(False)}"
            body += f"for first in range(0, {whole}, BN):\n{indent(blocks, '    ')}"
            for first, width in parts(whole, k.s, 3):
                body += f"j = {first} + tl.arange(0, {width})\n{step(first + width > k.s)}"
        else:
            blocks = f"j = first + tl.arange(0, BN)\n{step(ragged(k, t))}"
            body += f"for first in range(0, {last}, BN):\n{indent(blocks, '    ')}"
        body += "v0 *= (1.0 / total)[:, None]\n"
        if integer_attr(w, "safe"):
            body += "v0 = tl.where(total[:, None] == 0.0, 0.0, v0)\n"
        if (half := w.epilogue.operands[0].dtype) != "float32":
            body += f"v0 = v0.to({FLOATS[half]})\n"
        # a few numbers more in a thread would leave room for one block of eight warps on a processor, not for two
        tight = w.isa == "sm_90" and kept(operands, t) and t.warps == 8 and t.bm * (t.bn + v.room) >= 160 * 32 * t.warps
        return attention_kernel(w, entry, operands, t, body, registers=128 if tight else 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


#: Which keys causality shows a query.
CAUSAL = "(j[None, :] <= i[:, None] + (KEYS - QUERIES))"


def parts(first: int, end: int, most: int) -> list[tuple[int, int]]:
    """Blocks of keys from `first` to `end`, as (start, width): of powers of two from 16 on, at most so many, where they
    hold an eighth less than one does."""
    if first == end:
        return []
    one = max(16, 1 << (end - first - 1).bit_length())
    found: list[tuple[int, int]] = []
    at = first
    while at < end:
        rest = end - at
        last = len(found) + 1 == most
        width = max(16, 1 << ((rest - 1).bit_length() if last else rest.bit_length() - 1))
        found.append((at, width))
        at += width
    return found if 8 * sum(w for _, w in found) <= 7 * one else [(first, one)]


def kept(operands: Sequence[Heads], t: Tile) -> bool:
    """Whether a block keeps the scores of all keys."""
    keys = operands[1].s
    return isinstance(keys, int) and keys <= t.bn


def ragged(k: Heads, t: Tile) -> bool:
    """Whether the last block of keys is not full."""
    return isinstance(k.s, Dim) or k.s % t.bn != 0


def head_text(operands: Sequence[Heads], t: Tile, queries: str) -> str:
    """Statements that find a block's place and load its queries. queries: format of what is loaded."""
    q, k, v, out = operands
    shared = q.heads // k.heads
    kv = "head" if shared == 1 else f"head // {shared}"
    ragged = isinstance(q.s, Dim) or q.s % t.bm != 0
    at = q.row_text("batch", "head", "i.to(tl.int64)")
    load = f"tl.load(q + ({at})[:, None] + d[None, :]{q.mask('row_ok[:, None]' if ragged else '', 'd[None, :]')})"
    return f"""\
tile = {LAST_FIRST}
batch = (tile // (BLOCKS * {q.heads})).to(tl.int64)
head = tile // BLOCKS % {q.heads}
i = tile % BLOCKS * BM + tl.arange(0, BM)
row_ok = i < QUERIES
d = tl.arange(0, {q.room})
e = tl.arange(0, {v.room})
queries = {queries.format(load)}
k_at = {k.row_text('batch', f'({kv})', '0')}
v_at = {v.row_text('batch', f'({kv})', '0')}
"""


def attention_kernel(
    w: Workload, entry: str, operands: Sequence[Heads], t: Tile, body: str, helpers: str = "", registers: int = 0
) -> Kernel:
    """The kernel whose body computes v0 of a block of queries. registers: as TritonSource has them."""
    q, k, v, out = operands
    names = ("q", "k", "v", "mask", "scale")
    inputs = [
        Parameter(n, POINTER_TYPES[s.type.dtype], ("input", n_))
        for n_, (n, s) in enumerate(zip(names, w.inputs, strict=False))
        if s is not None
    ]
    sizes: dict[str, DimLike] = {
        "QUERIES": q.s, "KEYS": k.s, "BM": t.bm, "BN": t.bn, "BLOCKS": ceil_div(q.s, t.bm), "K_ROW": k.row,
        "V_ROW": v.row, "IMG_ROWS": product(w.outputs[0].type.shape[1:-1]),
    }  # fmt: skip
    place = f"(batch * {q.heads} + head) * QUERIES + i" if out.letter == "h" else "batch * QUERIES + i"
    column = "e" if out.letter == "h" else f"head * {out.d} + e"
    body += f"""\
row = {place}
image = row // IMG_ROWS
channel = {column}
channel_ok = e < {out.d}
live = row_ok[:, None] & channel_ok[None, :]
"""
    about = f"Attention of {q.heads} heads of {q.d} and {v.d} columns, {t.bm} queries by {t.bn} keys at a time."
    body += stores(w)
    grid = q.b * q.heads * ceil_div(q.s, t.bm)
    return kernel_of(
        w, entry, about, inputs, sizes, body, helpers=helpers, grid=grid, warps=t.warps, stages=t.stages,
        registers=registers,
    )  # fmt: skip


def _accepted(w: Workload) -> list[Heads]:
    t = operands_of(w)
    if isinstance(t, str):
        raise ValueError(f"workload was not accepted: {t}")
    return t


def _size(w: Workload) -> int:
    """Bytes of the widest of keys and values."""
    return max(itemsize(s.type.dtype) for s in w.inputs[:3] if s is not None)
