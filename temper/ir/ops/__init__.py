"""The op table: `TABLE` maps an op's name to its `OpDef`; `make` adds a node with its types inferred.

IR ops have ONNX's names and newest semantics, except that whatever describes shapes is an attribute (ints or `Dim`s):
Reshape(shape) · Expand(shape) · Tile(repeats) · Slice(starts, ends, axes, steps) · Pad(mode, pads, value) ·
Split(axis, sizes) · Squeeze(axes) · Unsqueeze(axes) · Reduce*(axes, keepdims) · Resize(sizes | scales, mode, ...) ·
Clip(min, max) · Transpose(perm) · CumSum(axis) · OneHot(depth) · TopK(k) · Trilu(k) · Range(start, limit, delta, to) ·
ConstantOfShape(shape, value, to) · NonMaxSuppression(thresholds). Outputs whose size depends on the data have it as the
attribute `count`; data_sizes.py has the ops that read sizes from data. Silu, Gelu and HardSwish are ops; Gemm is
MatMul + Add, Sum and Mean of many are chains of two; MaxPoolIndices is MaxPool with its second output. Spatial ops
carry channels_last (0 or 1); with 1 the data is [N, spatial.., C] and convolution weights are [spatial.., C/group, OC].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from temper.errors import ShapeError
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Attrs, OpDef
from temper.ir.ops import (
    attention,
    blocks,
    contraction,
    control,
    data_sizes,
    elementwise,
    ensembles,
    flow,
    images,
    movement,
    random,
    recurrent,
    reduction,
    resampling,
    sequences,
    strings,
    transforms,
    vision,
)

TABLE: Mapping[str, OpDef] = MappingProxyType(
    {
        d.name: d
        for family in (
            elementwise,
            movement,
            resampling,
            reduction,
            contraction,
            blocks,
            attention,
            recurrent,
            control,
            data_sizes,
            sequences,
            transforms,
            vision,
            flow,
            ensembles,
            images,
            random,
            strings,
        )
        for d in family.OPS
    }
)


def make(
    graph: Graph,
    op: str,
    inputs: Sequence[Value | None],
    attrs: Attrs | None = None,
    *,
    name: str = "",
    origin: tuple[str, ...] = (),
    output_names: Sequence[str] = (),
) -> Node:
    """Adds a node, filling in default attributes and inferring its output types. ShapeError names the node."""
    definition = TABLE[op]
    label = name or op
    try:
        full = definition.complete(attrs or {})
        least, most = definition.inputs
        if len(inputs) < least or (most is not None and len(inputs) > most):
            span = str(least) if most == least else f"{least} to {most}" if most else f"{least} or more"
            raise ShapeError(f"{op} takes {span} inputs, not {len(inputs)}")
        types = definition.infer([None if v is None else v.type for v in inputs], full)
    except (ValueError, ShapeError) as e:
        raise ShapeError(f"node '{label}' ({op}): {e}") from e
    return graph.add_node(op, inputs, types, full, name=name, origin=origin, output_names=output_names)
