"""The op table's row type: everything Temper knows about an op, as data and plain functions.

Entries stand in temper/ir/ops/, one module per family; `ops.TABLE` joins them. An op's semantics are ONNX's newest,
with operands that describe shapes or axes turned into attributes by the frontend (see ir/ops/__init__.py for the list).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Union

import numpy as np

from temper.ir.dims import Dim, DimLike
from temper.ir.types import TensorType

if TYPE_CHECKING:
    from temper.ir.graph import Graph

AttrValue = Union[int, float, str, Dim, tuple["AttrValue", ...], np.ndarray, "Graph"]
Attrs = Mapping[str, AttrValue]
InferFn = Callable[[Sequence[TensorType | None], Attrs], list[TensorType]]
ReferenceFn = Callable[[Sequence[np.ndarray | None], Attrs], list[np.ndarray]]
CostFn = Callable[[Sequence[TensorType | None], Sequence[TensorType], Attrs], DimLike]


class Kind(Enum):
    """How an op may take part in a region."""

    ELEMENTWISE = "elementwise"  # each output element depends on one element of each (broadcast) input
    MOVEMENT = "movement"  # output elements are copies of input elements (transpose, slice, concat, resize-nearest ...)
    REDUCTION = "reduction"  # reduces axes (sum, max, softmax, normalisations, pooling)
    CONTRACTION = "contraction"  # multiplies and accumulates (conv, matmul): the usual anchors
    OPAQUE = "opaque"  # anything else


@dataclass(frozen=True)
class AttrSpec:
    """An attribute: its Python type and default; `required` when it has none."""

    type: type | tuple[type, ...]
    default: AttrValue | None = None
    required: bool = False


@dataclass(frozen=True)
class Tolerance:
    """Error bound of one op in units of the output dtype's epsilon: |got - want| <= eps * (relative*|want| + reduction
    term).

    relative: ulps of the result itself. reduction: True where the error grows with the reduction length (bound
    eps * sqrt-free worst case `length` is loose; verification uses gamma = reduction_growth(length), see
    tune/verify.py).
    """

    relative: float = 4.0
    reduction: bool = False


@dataclass(frozen=True)
class OpDef:
    """One op.

    inputs: (least, most) number of inputs; most None for any.
    infer: output types from input types and attributes, raising ShapeError with a reason on contradictions.
    reference: numpy arrays to numpy arrays, the op's meaning; no in-place edits of inputs.
    cost: arithmetic operations as an int or Dim.
    deterministic: False for random ops (never folded or merged).
    """

    name: str
    kind: Kind
    inputs: tuple[int, int | None]
    infer: InferFn
    reference: ReferenceFn
    cost: CostFn
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict)
    outputs: int = 1
    tolerance: Tolerance = Tolerance()
    deterministic: bool = True

    def complete(self, attrs: Attrs) -> dict[str, AttrValue]:
        """Attributes with defaults filled in; ValueError names an unknown, missing or ill-typed one."""
        unknown = set(attrs) - set(self.attrs)
        if unknown:
            raise ValueError(f"{self.name} has no attribute {sorted(unknown)}; it has {sorted(self.attrs)}")
        out: dict[str, AttrValue] = {}
        for name, spec in self.attrs.items():
            if name in attrs:
                value = attrs[name]
                if not isinstance(value, spec.type):
                    raise ValueError(f"{self.name}.{name} must be {spec.type}, not {value!r}")
                out[name] = value
            elif spec.required:
                raise ValueError(f"{self.name} needs the attribute {name}")
            elif spec.default is not None:
                out[name] = spec.default
        return out
