"""Stores of product results on sm_90 straight from the accumulator registers, without a detour through shared memory.

Hopper's WGMMA leaves each thread pairs of neighbouring columns, eight columns apart. So the product's columns are
assigned to channels in an order that puts what a thread holds of a row side by side, 16 bytes at a time, and the
epilogue takes the tile's rows in the order in which warps hold them, eight neighbours each: the layout of 16-byte
accesses. On other chips the texts are just as correct, but slower.
"""

from __future__ import annotations

import re

import numpy as np

from temper.ir.types import itemsize
from temper.tactics.base import Workload

#: The level whose products are laid out so.
ISA = "sm_90"

#: Bytes of a row that four threads hold.
_BYTES = 64


def part(w: Workload) -> int:
    """Channels of a part of a tile: 64 bytes of what the epilogue reads and writes at every element; 0 if that is of
    several sizes."""
    e = w.epilogue
    types = [o.dtype for o in e.operands[1:] if o.kind == "full"] + [s.type.dtype for s in w.outputs]
    sizes = {itemsize(t) for t in types}
    return _BYTES // sizes.pop() if len(sizes) == 1 else 0


def fits(w: Workload, bm: int, bn: int, warps: int) -> bool:
    """Whether tiles of bm by bn are made of whole parts, every warp's rows its own."""
    return w.isa == ISA and part(w) in (32, 64) and bn % part(w) == 0 and bm % (16 * warps) == 0 and warps >= 4


#: The rows of the epilogue. WARPS: of a block.
ROWS = """\
order = tl.arange(0, BM)
order = order // (16 * WARPS) * (16 * WARPS) + order // 8 % WARPS * 16 + order // (8 * WARPS) % 2 * 8 + order % 8
row = (block * BM + order).to(tl.int64)
row_ok = row < ROWS
"""


#: Values of `Blocking.direct`: who puts weights in the order of `columns`.
BY_PACKING, BY_COPY = 1, 2

#: A descriptor of plainly packed weights [OC, IC] by which the copy engine brings a tile's channels in the order of
#: `columns`, and the text of such a read: PART channels lie as four times PART // 8 pairs, and are copied as PART // 8
#: times four pairs.
WEIGHTS = (
    "b_map = tl.make_tensor_descriptor(\n"
    "    w, shape=[OC // PART, PART // 8, 4, 2, IC],\n"
    "    strides=[PART * W_STRIDE, 2 * W_STRIDE, PART // 4 * W_STRIDE, W_STRIDE, 1],\n"
    "    block_shape=[BN // PART, PART // 8, 4, 2, BK],\n"
    ")",
    "tl.reshape(b_map.load([column * (BN // PART), 0, 0, 0, step * BK]), (BN, BK))",
)


def columns(size: str, part: int) -> str:
    """Text of the tile's channels, `size` of them, in the order of the product's columns."""
    c = f"tl.arange(0, {size})"
    return f"({c} // {part} * {part} + {c} // 2 % 4 * {part // 4} + {c} // 8 % {part // 8} * 2 + {c} % 2)"


def ordered_columns(count: int, part: int) -> np.ndarray:
    """The channel of each of `count` columns, a multiple of `part`."""
    c = np.arange(count)
    return c // part * part + c // 2 % 4 * (part // 4) + c // 8 % (part // 8) * 2 + c % 2


def ordered(sums: str, bn: int, part: int) -> tuple[str, list[str]]:
    """Statements that bring `sums` [BM, bn] into the order of `ROWS` and channels; names of its parts [BM, part]."""
    parts = bn // part
    head = f"{sums} = tl.reshape({sums}, (BM // (16 * WARPS), WARPS, 2, 8, {parts}, {part // 8}, 4, 2))\n"
    head += f"{sums} = tl.permute({sums}, (0, 2, 1, 3, 6, 5, 7, 4))\n"
    if parts == 1:
        return head + f"{sums} = tl.reshape({sums}, (BM, {part}))\n", [sums]
    lines, names = [], [(sums, 0)]
    while parts > 1:
        parts //= 2
        made = []
        for name, index in names:
            shape = f"(BM, {part}, {parts}, 2)" if parts > 1 else f"(BM, {part}, 2)"
            bit = bn // part // (2 * parts)
            even, odd = f"{sums}_{index}_{parts}", f"{sums}_{index + bit}_{parts}"
            lines.append(f"{even}, {odd} = tl.split(tl.reshape({name}, {shape}))\n")
            made += [(even, index), (odd, index + bit)]
        names = made
    return head + "".join(lines), [name for name, _ in sorted(names, key=lambda n: n[1])]


def of_part(text: str, index: int) -> str:
    """Statements of an epilogue with the names of one part's values and channels."""
    return re.sub(r"\b(v\d+|channel|channel_ok|live)\b", rf"\1_{index}", text)


def channels_of(index: int, bn: int, part: int) -> str:
    """Statements that name a part's channels of a tile of bn."""
    return (
        f"channel_{index} = column * {bn} + {index * part} + tl.arange(0, {part})\n"
        f"channel_ok_{index} = channel_{index} < OC\n"
        f"live_{index} = row_ok[:, None] & channel_ok_{index}[None, :]\n"
    )


def epilogue(text: str, sums: str, bn: int, part: int) -> tuple[str, str]:
    """Statements that name rows and channels of all parts, and those of the epilogue `text`, which begins by naming
    `sums` v0, part by part."""
    order, names = ordered(sums, bn, part)
    texts = [of_part(text.replace(f"v0 = {sums}", f"v0 = {name}", 1), i) for i, name in enumerate(names)]
    return ROWS + "".join(channels_of(i, bn, part) for i in range(len(names))), order + "".join(texts)
