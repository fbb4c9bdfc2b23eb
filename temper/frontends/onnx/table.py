"""The joined table: which row imports an ONNX op at a given opset."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from temper.frontends.onnx import (
    table_contraction,
    table_elementwise,
    table_movement,
    table_normalization,
    table_quantization,
    table_recurrent,
    table_reduction,
    table_resize,
    table_transforms,
    table_values,
    table_vision,
)
from temper.frontends.onnx.context import Row


def _join() -> Mapping[str, tuple[Row, ...]]:
    rows: dict[str, list[Row]] = {}
    for family in (
        table_values,
        table_elementwise,
        table_movement,
        table_reduction,
        table_resize,
        table_normalization,
        table_quantization,
        table_contraction,
        table_recurrent,
        table_transforms,
        table_vision,
    ):
        for row in family.ROWS:
            rows.setdefault(row.op, []).append(row)
    return MappingProxyType({op: tuple(sorted(found, key=lambda r: -r.since)) for op, found in rows.items()})


TABLE = _join()


def find_row(domain: str, op: str, opset: int) -> Row | None:
    """The newest row of a default-domain op that is not newer than `opset`."""
    if domain:
        return None
    return next((r for r in TABLE.get(op, ()) if r.since <= opset), None)
