"""What a case is, and the values its operands are made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.ir.opdef import AttrValue
from temper.ir.ops import TABLE
from temper.ir.types import TensorType

Rng = np.random.Generator
Arrays = list[np.ndarray | None]


@dataclass(frozen=True)
class Case:
    """One op on concrete operands. `constants` lists operands that a model would hold as weights.

    dtypes: of the operands whose arrays do not say it (types numpy lacks).
    """

    name: str
    op: str
    attrs: Mapping[str, AttrValue]
    make: Callable[[Rng], Arrays]
    constants: tuple[int, ...] = ()
    dtypes: Mapping[int, str] = field(default_factory=dict)

    @property
    def full_attrs(self) -> dict[str, AttrValue]:
        """Attributes with the op table's defaults."""
        return TABLE[self.op].complete(self.attrs)

    def arrays(self) -> Arrays:
        """The operands; always the same ones."""
        return self.make(np.random.default_rng(zlib.crc32(self.name.encode())))

    def types(self) -> list[TensorType | None]:
        """IR types of the operands."""
        return [None if a is None else self.type_of(i, a) for i, a in enumerate(self.arrays())]

    def type_of(self, i: int, a: np.ndarray) -> TensorType:
        """IR type of operand i."""
        return TensorType(self.dtypes[i], a.shape) if i in self.dtypes else type_of(a)


def type_of(a: np.ndarray) -> TensorType:
    return TensorType("string" if a.dtype == object else str(a.dtype), a.shape)


def floats(rng: Rng, shape: Sequence[int], dtype: str = "float32", low: float = -3.0, high: float = 3.0) -> np.ndarray:
    """Uniform values that are whole multiples of 1/64, so that half precision holds them."""
    return np.asarray(np.round(rng.uniform(low, high, tuple(shape)) * 64) / 64).astype(dtype)


def weights(rng: Rng, shape: Sequence[int], fan: int, dtype: str = "float32") -> np.ndarray:
    """Normal values scaled so that a sum over `fan` products stays near 1."""
    return (rng.standard_normal(tuple(shape)) / np.sqrt(max(fan, 1))).astype(dtype)


def numbers(rng: Rng, shape: Sequence[int], dtype: str, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Random integers of the whole range, or of [low, high]; floats as `floats`; bools."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return floats(rng, shape, dtype)
    if kind.kind == "b":
        return np.asarray(rng.integers(0, 2, tuple(shape))).astype(bool)
    info = np.iinfo(kind)
    least, most = info.min if low is None else low, info.max if high is None else high
    return np.asarray(rng.integers(least, most, tuple(shape), kind.type, True))


def special(dtype: str = "float32") -> np.ndarray:
    """Signed zeros, infinities, NaN, the least denormal and normal, the largest, ties, and a sweep in between."""
    info = np.finfo(dtype)
    odd = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        info.smallest_subnormal,
        -info.smallest_subnormal,
        info.tiny,
        info.max,
        info.min,
    ]
    even = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1.0, -1.0, 3.0, -3.0, 20.0, -20.0, 90.0, -90.0, -110.0]
    return np.array([*odd, *even, *np.linspace(-11, 11, 23)], dtype)


def fixed(*arrays: np.ndarray | None) -> Callable[[Rng], Arrays]:
    return lambda rng: [None if a is None else a.copy() for a in arrays]
