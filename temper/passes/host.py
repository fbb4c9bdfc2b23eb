"""Which regions must run on the host because of sizes found in data, and why."""

from __future__ import annotations

from collections.abc import Iterable

from temper.ir.dims import Dim, data_symbols
from temper.passes.region import Region

#: What a size found in data is taken to be while kernels are timed: detections, tokens and the like come in tens.
TUNED_FOR = 64


def data_reason(region: Region) -> str | None:
    """Why a region cannot be generated code: it finds sizes in data, or its attributes hold such a size.

    Regions whose operands merely have such sizes can: their kernels get them as arguments.
    """
    if any(v.type.dtype == "sequence" for v in (*region.inputs, *region.outputs)):
        return "sequences whose length depends on data are kept by the host"
    for node in region.nodes:
        if node.op == "ByData":
            return f"the shape of the results of {node.attrs['of']} depends on data"
        if node.op in ("If", "Loop"):
            return (
                f"{'which branch runs' if node.op == 'If' else 'how often it runs'} depends on data; it runs programs"
            )
        if node.op in ("NonZero", "Compress", "Unique", "NonMaxSuppression", "RangeOf"):
            return "the number of results depends on data"
        if node.binds:
            return "it finds sizes in data"
        for name, value in node.attrs.items():
            for d in value if isinstance(value, tuple) else (value,):
                if isinstance(d, Dim) and data_symbols(d):
                    return f"its attribute {name} depends on data ({d})"
    return None


def data_sizes(regions: Iterable[Region]) -> dict[str, int]:
    """Every symbol that depends on data in the regions' tensors, at the size they are tuned for."""
    return {
        s: TUNED_FOR
        for r in regions
        for v in (*r.inputs, *r.outputs, *(o for n in r.nodes for o in n.outputs))
        for s in v.type.data_symbols
    }
