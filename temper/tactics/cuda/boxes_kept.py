"""Non-maximum suppression on a CUDA GPU: one block per image and class, then the surviving boxes of all are packed.

The first launch keeps a rank of every box in scratch: its place in the order of scores, or DEAD if it is below the
threshold or overlaps a box kept before. Each turn keeps the best box that is alive, and the next turn marks those that
overlap it. Overlap is intersection over union, with each operation rounded as in the reference, so that both decide
alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.ir.dims import DimLike
from temper.tactics.base import Workload
from temper.tactics.cuda.direct import Direct, Stage, pointer, scratch
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.plain import boxes_decline

#: Boxes looked at at once, and most of them of which a block keeps the ranks.
_PIECE = 2048

_FUNCTIONS = """

@triton.jit
def corners(boxes, at, mask, CENTER: tl.constexpr):
    a = tl.load(boxes + 4 * at, mask=mask, other=0.0)
    b = tl.load(boxes + 4 * at + 1, mask=mask, other=0.0)
    c = tl.load(boxes + 4 * at + 2, mask=mask, other=0.0)
    d = tl.load(boxes + 4 * at + 3, mask=mask, other=0.0)
    if CENTER:
        y1 = b - d * 0.5
        x1 = a - c * 0.5
        y2 = b + d * 0.5
        x2 = a + c * 0.5
    else:
        y1 = a
        x1 = b
        y2 = c
        x2 = d
    # as C compares: of NaN the second
    top = tl.where(y1 < y2, y1, y2)
    left = tl.where(x1 < x2, x1, x2)
    bottom = tl.where(y1 < y2, y2, y1)
    right = tl.where(x1 < x2, x2, x1)
    return top, left, bottom, right, (bottom - top) * (right - left)
"""

_PICK = """
pair = tl.program_id(0)
own = rank + pair.to(tl.int64) * BOXES
lines = scores + pair.to(tl.int64) * BOXES
places = boxes + (pair // CLASSES).to(tl.int64) * BOXES * 4
DEAD: tl.constexpr = -2147483648
best = tl.full((), -9223372036854775807, tl.int64)
for start in range(0, BOXES, PIECE):
    i = start + tl.arange(0, PIECE)
    live = i < BOXES
    s = tl.load(lines + i, mask=live, other=0.0) + 0.0
    b = s.to(tl.int32, bitcast=True)
    order = tl.where(s != s, DEAD + 1, b ^ ((b >> 31) & 2147483647))
    order = tl.where(live & (PASSES), order, DEAD)
    tl.store(own + i, order, mask=live)
    key = (order.to(tl.int64) << 32) | (4294967295 - i.to(tl.int64))
    best = tl.maximum(best, tl.max(key))
count = 0
alive = (best >> 32) > DEAD
while alive & (count < KEEP):
    tl.debug_barrier()
    chosen = (4294967295 - (best & 4294967295)).to(tl.int32)
    tl.store(found + pair * (1 + KEEP) + 1 + count, chosen)
    count += 1
    one = chosen + tl.zeros((1,), tl.int32)
    top, left, bottom, right, area = corners(places, one, one >= 0, CENTER)
    best = tl.full((), -9223372036854775807, tl.int64)
    for start in range(0, BOXES, PIECE):
        i = start + tl.arange(0, PIECE)
        live = i < BOXES
        order = tl.load(own + i, mask=live, other=DEAD)
        t, l, b, r, a = corners(places, i, live & (order > DEAD), CENTER)
        high = tl.where(bottom < b, bottom, b) - tl.where(top > t, top, t)
        wide = tl.where(right < r, right, r) - tl.where(left > l, left, l)
        shared = tl.where(high > 0, high, 0.0) * tl.where(wide > 0, wide, 0.0)
        union = area + a - shared
        kept = (area > 0) & (union > 0) & (shared > 0)
        ratio = tl.where(kept, tl.div_rn(shared, tl.where(kept, union, 1.0)), 0.0)
        order = tl.where((ratio <= IOU) & (i != chosen), order, DEAD)
        tl.store(own + i, order, mask=live)
        key = (order.to(tl.int64) << 32) | (4294967295 - i.to(tl.int64))
        best = tl.maximum(best, tl.max(key))
    alive = (best >> 32) > DEAD
tl.store(found + pair * (1 + KEEP), count)
"""

_PACK = """
total = tl.full((), 0, tl.int64)
for pair in range(0, PAIRS):
    count = tl.load(found + pair * (1 + KEEP))
    for start in range(0, KEEP, PIECE):
        k = start + tl.arange(0, PIECE)
        live = k < count
        box = tl.load(found + pair * (1 + KEEP) + 1 + k, mask=live, other=0).to(tl.int64)
        to = rows + 3 * (total + k)
        tl.store(to, pair // CLASSES + 0 * box, mask=live)
        tl.store(to + 1, pair % CLASSES + 0 * box, mask=live)
        tl.store(to + 2, box, mask=live)
    total += count
for start in range(0, 3 * PAIRS * KEEP, PIECE):
    i = start + tl.arange(0, PIECE)
    tl.store(rows + i, tl.zeros((PIECE,), tl.int64), mask=(i >= 3 * total) & (i < 3 * PAIRS * KEEP))
tl.store(number, total)
"""


class BoxesKept(Direct):
    """As many turns as boxes survive, each a look at all that are alive."""

    name = "cuda.boxes_kept"
    ops = frozenset({"BoxesKept"})
    seconds = 2e-8

    def declines(self, w: Workload) -> str | None:
        return boxes_decline(w)

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        scores = w.inputs[1]
        assert scores is not None
        images, classes, boxes = (int(str(d)) for d in scores.type.shape)
        pairs = images * classes
        keep = int(str(w.outputs[0].type.shape[0])) // max(1, pairs)
        low = dict(w.attrs).get("score_threshold")
        sizes: dict[str, DimLike] = {
            "PAIRS": pairs,
            "CLASSES": max(1, classes),
            "BOXES": boxes,
            "KEEP": keep,
            "PIECE": min(_PIECE, max(32, 1 << max(0, boxes - 1).bit_length())),
            "CENTER": int(str(w.attr("center_point_box"))),
        }
        pick = _PICK.replace("IOU", _float(w.attr("iou_threshold")))
        pick = pick.replace("PASSES", "i >= 0" if low is None else f"s > {_float(low)}")
        if not pairs * boxes:
            pick = "tl.store(found + tl.program_id(0) * (1 + KEEP), 0)"
        pointers = [
            pointer(w, "input", 0, "boxes"),
            pointer(w, "input", 1, "scores"),
            pointer(w, "output", 0, "rows"),
            pointer(w, "output", 1, "number"),
            scratch("found", "*i32"),
        ]
        pick = f"rank = found + {pairs * (1 + keep)}\n{pick}"
        stages = [Stage(pick, pairs, sizes, 8, _FUNCTIONS), Stage(_PACK, 1, sizes)]
        return pointers, stages, 4 * pairs * (1 + keep + boxes)


def _float(value: object) -> str:
    """The float32 nearest to a number."""
    return repr(float(np.float32(float(str(value)))))
