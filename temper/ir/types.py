"""Tensor types: element type and shape. Data is dense, row-major, in the order the shape states.

There is no layout field: a channels-last tensor simply has its channels in the last axis, and spatial ops carry
`channels_last=1` (see passes/layout.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from temper.dtypes import storage
from temper.ir.dims import Dim, DimLike, data_symbols, evaluate, product

#: The element types of the IR: ONNX's names, which are numpy's where numpy has them; reference/formats.py says how
#: arrays hold the others, one element an item. "string" appears on host values only, and so does "sequence": a tuple of
#: arrays, as one value of shape [].
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
    "sequence",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "float8e8m0",
    "float4e2m1",
    "int4",
    "uint4",
    "int2",
    "uint2",
)


def itemsize(dtype: str) -> int:
    """Bytes of one element as buffers hold it: a whole one at least."""
    return storage(dtype).itemsize


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
        return frozenset(s for d in self.shape if isinstance(d, Dim) for s in d.symbols)

    @property
    def data_symbols(self) -> frozenset[str]:
        """The symbols that a step binds while the model runs."""
        return data_symbols(*self.shape)

    def bind(self, env: Mapping[str, int]) -> TensorType:
        """The same type with every symbol replaced by its value."""
        return TensorType(self.dtype, tuple(evaluate(d, env) for d in self.shape))

    def nbytes(self, env: Mapping[str, int]) -> int:
        """Size in bytes under `env`."""
        return evaluate(self.count, env) * itemsize(self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"
