"""The joined table: which row imports an ONNX op at a given opset."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from temper.frontends.onnx import (
    table_contraction,
    table_elementwise,
    table_microsoft,
    table_microsoft_quantized,
    table_ml,
    table_movement,
    table_normalization,
    table_quantization,
    table_recurrent,
    table_reduction,
    table_resize,
    table_strings,
    table_training,
    table_transforms,
    table_trees,
    table_values,
    table_vision,
)
from temper.frontends.onnx.context import Row


def _join() -> Mapping[tuple[str, str], tuple[Row, ...]]:
    rows: dict[tuple[str, str], list[Row]] = {}
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
        table_strings,
        table_ml,
        table_trees,
        table_training,
        table_microsoft,
        table_microsoft_quantized,
    ):
        for row in family.ROWS:
            rows.setdefault((row.domain, row.op), []).append(row)
    return MappingProxyType({key: tuple(sorted(found, key=lambda r: -r.since)) for key, found in rows.items()})


TABLE = _join()


def find_row(domain: str, op: str, opset: int) -> Row | None:
    """The newest row of an op of that domain that is not newer than `opset`."""
    return next((r for r in TABLE.get((domain, op), ()) if r.since <= opset), None)
