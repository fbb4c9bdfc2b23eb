"""Transposed convolution on a CUDA GPU, in the cases that passes/lower.py does not turn into plain convolution.

These are depthwise ones, those dilated with a stride, and those whose weights are not constants. Every output element
gathers its own products: slow, except for depthwise ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from temper.ir.dims import DimLike
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.conv_geometry import TransposedShape, transposed_shape
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, HALVES, widened
from temper.tactics.cuda.tiles import tile_kernel
from temper.tactics.geometry import typical_count

_BODY = """\
group = channel // OCG
own = channel - group * OCG
acc = tl.zeros((BM, BN), tl.float32)
for tap in range(KD * KH * KW):
    # the input element that this tap carries here, if its distance is a multiple of the stride
    z = row // (OH * OW) % OD + PAD_Z - tap // (KH * KW) * DIL_Z
    y = row // OW % OH + PAD_Y - tap // KW % KH * DIL_Y
    x = row % OW + PAD_X - tap % KW * DIL_X
    met = row_ok & (z >= 0) & (y >= 0) & (x >= 0) & (z % STRIDE_Z == 0) & (y % STRIDE_Y == 0) & (x % STRIDE_X == 0)
    z = z // STRIDE_Z
    y = y // STRIDE_Y
    x = x // STRIDE_X
    met = met & (z < ID) & (y < IH) & (x < IW)
    pixel = ((image * ID + z) * IH + y) * IW + x
    for i in range(ICG):
        taken = met[:, None] & channel_ok[None, :]
        a = tl.load(data + pixel[:, None] * X_STRIDE + (group * ICG + i)[None, :], mask=taken, other=0.0)
        k = ((tap * GROUPS + group) * ICG + i) * OCG + own
        b = tl.load(w + tl.broadcast_to(k[None, :], (BM, BN)), mask=taken, other=0.0)
        acc = tl.fma({a}, {b}, acc)
"""


class ConvTransposeDirect:
    """Every 2-D and 3-D transposed convolution of floats."""

    name = "cuda.conv_transpose"
    ops = frozenset({"ConvTranspose"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "ConvTranspose":
            return f"computes ConvTranspose, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        if any(s is not None and s.type.dtype not in FLOATS for s in w.inputs):
            return f"computes {', '.join(FLOATS)}"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        if reason := epilogue_declines(w.epilogue):
            return reason
        found = transposed_shape(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [(("bm", 256 // bn * 2), ("bn", bn)) for bn in (32, 64, 128)]

    def predict(self, w: Workload, params: Params) -> float:
        s = _shape(w)
        bn = dict(params)["bn"]
        wasted = -(-s.groups * s.ocg // bn) * bn / (s.groups * s.ocg)
        products = typical_count(w.outputs[0].type.shape) * prod(s.kernel) * (4 + 3.0 * s.icg)
        return 3e-6 + products * wasted / 5e12 + prod(s.kernel) * s.icg * 2e-8

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, q = _shape(w), dict(params)
        x, k, y = w.inputs[0], w.inputs[1], w.outputs[0]
        assert x is not None and k is not None
        lead: tuple[DimLike, ...] = (1,) if x.type.rank == 4 else ()
        dims = (*lead, *x.type.shape[1:-1], *lead, *y.type.shape[1:-1])
        sizes: dict[str, DimLike] = dict(zip(("ID", "IH", "IW", "OD", "OH", "OW"), dims, strict=True))
        for names, values in (
            (("KD", "KH", "KW"), s.kernel),
            (("STRIDE_Z", "STRIDE_Y", "STRIDE_X"), s.strides),
            (("DIL_Z", "DIL_Y", "DIL_X"), s.dilations),
            (("PAD_Z", "PAD_Y", "PAD_X"), s.pads),
        ):
            sizes |= dict(zip(names, values, strict=True))
        sizes |= {"ICG": s.icg, "OCG": s.ocg, "GROUPS": s.groups, "X_STRIDE": x.row_stride or s.icg * s.groups}
        inputs = [
            Parameter("data", POINTER_TYPES[x.type.dtype], ("input", 0)),
            Parameter("w", POINTER_TYPES[k.type.dtype], ("input", 1)),
        ]
        body = _BODY.format(a=widened("a", x.type.dtype), b=widened("b", k.type.dtype))
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if bias is not None:
            inputs.append(Parameter("bias", POINTER_TYPES[bias.type.dtype], ("input", 2)))
            body += "acc += tl.load(bias + channel[None, :], mask=channel_ok[None, :], other=0.0)\n"
        made = w.epilogue.operands[0].dtype
        body += f"v0 = acc{f'.to({HALVES[made]})' if made in HALVES else ''}\n"
        about = f"Transposed convolution of {prod(s.kernel)} taps, {s.icg} channels a group."
        return tile_kernel(w, entry, about, inputs, sizes, body, tile=(q["bm"], q["bn"]), in_place=False)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _shape(w: Workload) -> TransposedShape:
    s = transposed_shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
