"""Results of a product on sm_90 stored from the registers they are in, without a way through shared memory.

Hopper's products leave a thread pairs of neighbouring channels, eight channels apart: of 64 channels sixteen, which
would make 16 bytes of codes if they lay together. So the tile's columns are given channels, and its rows pixels, in
such an order that a thread holds sixteen channels of one pixel, and a warp those of eight pixels that follow each
other: the layout of 16-byte accesses. Elsewhere the texts are as right, and slower.
"""

from __future__ import annotations

import re

#: The level whose products are laid out so.
ISA = "sm_90"

#: Channels of a part: what four threads hold of a pixel, 16 bytes of codes each.
PART = 64


def fits(bm: int, bn: int, warps: int) -> bool:
    """Whether tiles of bm by bn are made of whole parts, every warp's rows its own."""
    return bn % PART == 0 and bn <= 4 * PART and bm % (16 * warps) == 0


#: Pixels and channels of the product's rows and columns. WARPS: of a block.
ROWS = """\
order = tl.arange(0, BM)
order = order // (16 * WARPS) * (16 * WARPS) + order // 8 % 2 * (8 * WARPS) + order // 16 % WARPS * 8 + order % 8
m = tl.minimum(block * BM + order, ROWS - 1)
"""


def columns(size: str) -> str:
    """Text of the tile's channels, `size` of them, in the order of the product's columns."""
    c = f"tl.arange(0, {size})"
    return f"({c} // 64 * 64 + {c} // 2 % 4 * 16 + {c} // 8 % 8 * 2 + {c} % 2)"


def ordered(sums: str, bn: int) -> tuple[str, list[str]]:
    """Statements that bring `sums` [BM, bn] into the order of pixels and channels, and names of the parts [BM, 64]."""
    parts = bn // PART
    head = f"{sums} = tl.reshape({sums}, (BM // (16 * WARPS), WARPS, 2, 8, {parts}, 8, 4, 2))\n"
    head += f"{sums} = tl.permute({sums}, (0, 2, 1, 3, 6, 5, 7, 4))\n"
    if parts == 1:
        return head + f"{sums} = tl.reshape({sums}, (BM, 64))\n", [sums]
    if parts == 2:
        return head + f"{sums}0, {sums}1 = tl.split(tl.reshape({sums}, (BM, 64, 2)))\n", [f"{sums}0", f"{sums}1"]
    head += f"even, odd = tl.split(tl.reshape({sums}, (BM, 64, 2, 2)))\n"
    head += f"{sums}0, {sums}2 = tl.split(even)\n{sums}1, {sums}3 = tl.split(odd)\n"
    return head, [f"{sums}{i}" for i in range(4)]


def of_part(text: str, part: int) -> str:
    """Statements of an epilogue with the names of one part's values and channels."""
    return re.sub(r"\b(v\d+|channel|channel_ok|live)\b", rf"\1_{part}", text)


def channels_of(part: int, bn: int) -> str:
    """Statements that name a part's channels of a tile of bn."""
    return (
        f"channel_{part} = column * {bn} + {part * PART} + tl.arange(0, {PART})\n"
        f"channel_ok_{part} = channel_{part} < OC\n"
        f"live_{part} = row_ok[:, None] & channel_ok_{part}[None, :]\n"
    )
