"""Deformable convolution over any number of spatial axes (templates/deform_conv.c)."""

from __future__ import annotations

from math import prod

from temper.ir.dims import Dim, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import integers, typical_count

#: positions taken together, as in the template
_LANES = 16


class DeformConv(Direct):
    """Float32: the moved and scaled samples of a few output positions, then their products with the weights."""

    name = "cpu.deform_conv"
    ops = frozenset({"DeformConv"})

    def declines(self, w: Workload) -> str | None:
        odd = sorted({s.type.dtype for s in w.inputs if s is not None} - {"float32"})
        if odd:
            return f"computes float32 only, not {odd[0]}"
        x, k = w.inputs[0], w.inputs[1]
        assert x is not None and k is not None
        if any(isinstance(d, Dim) for d in (x.type.shape[1], *k.type.shape)):
            return "channel counts and kernel size must be known at build"
        return None

    def predict(self, w: Workload, params: Params) -> float:
        k = w.inputs[1]
        assert k is not None
        return 1e-6 + typical_count((*w.outputs[0].type.shape, *k.type.shape[1:])) * 1e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, k, y = w.inputs[0], w.inputs[1], w.outputs[0].type
        assert x is not None and k is not None
        spatial, rank = x.type.shape[2:], x.type.rank - 2
        features, each, *kernel = (int(str(d)) for d in k.type.shape)
        channels, taps = int(str(x.type.shape[1])), prod(kernel)
        args: list[ArgRef] = [("input", i) for i in range(3)]
        values: dict[str, int | str] = {"ENTRY": entry, "P_BIAS": 0, "P_MASK": 0}
        for i, name in ((3, "P_BIAS"), (4, "P_MASK")):
            if len(w.inputs) > i and w.inputs[i] is not None:
                values[name] = len(args)
                args.append(("input", i))
        values |= {
            "P_OUT": len(args),
            "RANK": rank,
            "CORNERS": 2**rank,
            "TAPS": taps,
            "KERNEL": array_c(kernel),
            "STEPS": array_c(integers(w, "strides")),
            "SPREAD": array_c(integers(w, "dilations")),
            "PADS": array_c(integers(w, "pads")[:rank]),
            "SIZES": array_c([c_dim(d, w.symbols) for d in spatial]),
            "STRIDES": array_c([c_dim(product(spatial[a + 1 :]), w.symbols) for a in range(rank)]),
            "OUT": array_c([c_dim(d, w.symbols) for d in y.shape[2:]]),
            "PLANE": c_dim(product(spatial), w.symbols),
            "POSITIONS": c_dim(product(y.shape[2:]), w.symbols),
            "BATCH": c_dim(y.shape[0], w.symbols),
            "CHANNELS": channels,
            "FEATURES": features,
            "EACH": each,
            "GROUPS": str(w.attr("group", 1)),
            "SHIFTED": str(w.attr("offset_group", 1)),
        }
        args += [("output", 0), ("workspace", 0)]
        source = template_text("vec.h", "interpolate.h") + defines(values) + template_text("deform_conv.c")
        return Kernel(source, (entry,), tuple(args), w.symbols, _LANES * 8 * taps * (channels + 2 * 2**rank))
