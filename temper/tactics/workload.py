"""From a region to its workload: names and weight values drop out, what a kernel is specialised to stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from temper.ir.graph import Value
from temper.passes.partition import Region
from temper.tactics.base import Slot, Workload
from temper.tactics.epilogue import Attr


def workload(region: Region, isa: str, threads: int, strides: Mapping[int, int] | None = None) -> Workload:
    """The workload of `region`. strides: row stride in elements of every value (by id) that is a view into a wider
    buffer."""
    strides = strides or {}

    def slot(v: Value | None) -> Slot | None:
        return None if v is None else Slot(v.type, strides.get(v.id))

    epilogue = region.epilogue
    epilogue = replace(
        epilogue,
        operands=tuple(
            replace(o, row_stride=strides.get(v.id)) for o, v in zip(epilogue.operands, region.operands, strict=True)
        ),
    )
    attrs: tuple[tuple[str, Attr], ...] = ()
    if region.anchor is not None:
        attrs = tuple((k, v) for k, v in sorted(region.anchor.attrs.items()))  # type: ignore[misc]
    outputs = [slot(v) for v in region.outputs]
    return Workload(
        region.op,
        attrs,
        tuple(slot(v) for v in region.anchor_inputs),
        tuple(v is not None and v.const is not None for v in region.anchor_inputs),
        tuple(s for s in outputs if s is not None),
        epilogue,
        isa,
        threads,
    )
