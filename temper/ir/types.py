"""Tensor types: element type and shape. Data is dense, row-major, in the order the shape states.

There is no layout field: a channels-last tensor simply has its channels in the last axis, and spatial ops carry
`channels_last=1` (see passes/layout.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from temper.ir.dims import Dim, DimLike, evaluate, product, symbols_of

#: The element types of the IR: ONNX's names, which are numpy's where numpy has them. "string" appears on host values
#: only.
DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
    "complex64",
    "complex128",
    "string",
)

_ITEMSIZE = {"bfloat16": 2, "string": 8}


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return _ITEMSIZE.get(dtype) or np.dtype(dtype).itemsize


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value; a dimension is an int or a `Dim`."""

    dtype: str
    shape: tuple[DimLike, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> bool:
        """True if every dimension is an int."""
        return not any(isinstance(d, Dim) for d in self.shape)

    @property
    def count(self) -> DimLike:
        """Number of elements."""
        return product(self.shape)

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset().union(*(symbols_of(d) for d in self.shape))

    def bind(self, env: Mapping[str, int]) -> TensorType:
        """The same type with every symbol replaced by its value."""
        return TensorType(self.dtype, tuple(evaluate(d, env) for d in self.shape))

    def nbytes(self, env: Mapping[str, int]) -> int:
        """Size in bytes under `env`."""
        return evaluate(self.count, env) * itemsize(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"
