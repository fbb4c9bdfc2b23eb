"""Space-to-depth of the image that a first convolution reads ("folding"): geometry and kernel text.

One folded pixel holds all pixels that a step of the convolution's window passes. The launch reads the image either as
it is (channels-last), or as planes of channels, together with the program fused behind their transposition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from temper.ir.dims import DimLike
from temper.tactics.base import Workload
from temper.tactics.conv_geometry import ConvShape
from temper.tactics.cuda.epilogue_triton import epilogue_declines, epilogue_statements
from temper.tactics.cuda.instructions import TRITON_TYPES

#: Bytes of a packed pixel are a multiple of this.
_PIXEL = 16


@dataclass(frozen=True)
class Folded:
    """The image as the second launch reads it: [n, height, width, depth], and windows of `rows` x `columns` pixels.
    depth and, for codes, columns are powers of two.

    skip: leading rows and columns of the first pixel that are outside the window; lead: rows and columns of padding.
    """

    height: DimLike
    width: DimLike
    depth: int
    rows: int
    columns: int
    skip: tuple[int, int]
    lead: tuple[int, int]

    @staticmethod
    def of(s: ConvShape, size: int, exact: bool) -> Folded:
        """exact: what the weights of added columns multiply may not be a number."""
        (sy, sx), (kh, kw) = s.strides, s.kernel
        skip = (-s.pads[0] % sy, -s.pads[1] % sx)
        rows, columns = (kh - 1 + skip[0]) // sy + 1, (kw - 1 + skip[1]) // sx + 1
        columns = columns if exact else 1 << (columns - 1).bit_length()
        depth = max(_PIXEL // size, 1 << (sy * sx * s.icg - 1).bit_length())
        lead = (s.pads[0] + skip[0], s.pads[1] + skip[1])
        return Folded(s.oh + rows - 1, s.ow + columns - 1, depth, rows, columns, skip, lead)

    @property
    def run(self) -> int:
        """Elements of a row of the window."""
        return self.columns * self.depth

    @property
    def terms(self) -> int:
        return self.rows * self.run


_FOLD = """\
spot = tl.program_id(0) * SPOTS + tl.arange(0, SPOTS)
known = spot < N * HEIGHT * WIDTH
image = spot // (HEIGHT * WIDTH)
place = tl.arange(0, DEPTH)
sub = place // IC
y = (spot // WIDTH % HEIGHT * STRIDE_Y - LEAD_Y)[:, None] + (sub // STRIDE_X)[None, :]
x0 = (spot % WIDTH * STRIDE_X - LEAD_X)[:, None] + (sub % STRIDE_X)[None, :]
inside = (y >= 0) & (y < IH) & (x0 >= 0) & (x0 < IW)
live = known[:, None] & (sub < STRIDE_Y * STRIDE_X)[None, :]
at = ((image.to(tl.int64) * IH)[:, None] + y) * IW + x0
value = tl.load(x + at * X_STRIDE + (place % IC)[None, :], mask=inside & live, other={outside})
{negative}tl.store(folded + spot.to(tl.int64)[:, None] * DEPTH + place[None, :], {value}, mask=known[:, None])
"""

_TURNED = """\
spot = (tl.program_id(0) * SPOTS + tl.arange(0, SPOTS)).to(tl.int64)
known = spot < N * HEIGHT * WIDTH
y0 = spot // WIDTH % HEIGHT * STRIDE_Y - LEAD_Y
x0 = spot % WIDTH * STRIDE_X - LEAD_X
at = spot // (HEIGHT * WIDTH) * (IC * IH * IW) + y0 * IW + x0
"""

_TAKEN = """\
inside = known & (y0 + {dy} >= 0) & (y0 + {dy} < IH) & (x0 + {dx} >= 0) & (x0 + {dx} < IW)
v0 = tl.load(x + (at + ({c} * IH + {dy}) * IW + {dx}), mask=inside, other=0.0)
"""

_WRITTEN = """\
whole = tl.reshape({name}, (SPOTS, DEPTH))
tl.store(folded + spot[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :], whole, mask=known[:, None])
"""


def fold_text(data: str, zero: int) -> str:
    """Statements that fold an image whose channels lie together. zero: what stands for pixels outside, a code."""
    value = "(value ^ 128).to(tl.int8, bitcast=True)" if data == "uint8" else "value"
    negative = ""
    if zero < 0:  # Triton 3.6 extends its sign over the other bytes of a vector
        negative, zero = f"value = tl.where(inside & live, value, {zero})\n", 0
    return _FOLD.format(outside=zero, value=value, negative=negative)


def transposition_declines(w: Workload) -> str | None:
    """Why a transposition cannot be a part of the fold; None if it can."""
    x, e = w.inputs[0], w.epilogue
    if w.op != "Transpose" or tuple(w.attr("perm")) != (0, 2, 3, 1):  # type: ignore[arg-type]
        return "folds planes of channels"
    if x is None or x.type.dtype != "float32" or x.row_stride is not None:
        return "folds dense planes of float32"
    if len(e.results) != 1 or any(o.kind != "scalar" for o in e.operands[1:]):
        return "what follows the transposition reads more than numbers, or is read as it is"
    return epilogue_declines(e, "float32")


def transposed_fold_text(transposition: Workload, s: ConvShape, f: Folded, zero: int) -> str:
    """Statements that fold an image of planes behind the program of their transposition; its operands are t_q1 .. .
    zero: as in `fold_text`.

    Neighbouring threads read neighbouring pixels of a plane, and each writes whole pixels: parts are joined in
    registers.
    """
    made = transposition.outputs[0].type.dtype
    held = "int8" if made == "uint8" else made
    lines = [x for x in epilogue_statements(transposition.epilogue, channels=s.icg) if not x.startswith("tl.store(")]
    loads = [x for x in lines if " = tl.load(" in x]
    program = "".join(f"{x}\n" for x in lines if x not in loads)
    result, blank = f"v{transposition.epilogue.results[0]}", str(zero)
    if made == "uint8":
        result, blank = f"({result} ^ 128).to(tl.int8, bitcast=True)", str(zero - 128)
    text = _TURNED + "".join(re.sub(r"\bq(?=\d)", "t_q", x) + "\n" for x in loads)
    names = [f"part{i}" for i in range(f.depth)]
    for i, name in enumerate(names):
        sub, c = divmod(i, s.icg)
        if sub < s.strides[0] * s.strides[1]:
            text += _TAKEN.format(c=c, dy=sub // s.strides[1], dx=sub % s.strides[1]) + program
            text += f"{name} = tl.where(inside, {result}, {blank}).to({TRITON_TYPES[held]})\n"
        else:
            text += f"{name} = tl.zeros((SPOTS,), {TRITON_TYPES[held]})\n"
    while len(names) > 1:
        half = len(names) // 2
        for i in range(half):
            text += f"{names[i]} = tl.join({names[i]}, {names[i + half]})\n"
        names = names[:half]
    return text + _WRITTEN.format(name=names[0])
