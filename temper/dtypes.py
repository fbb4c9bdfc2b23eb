"""How numpy arrays hold the element types that numpy lacks, for all who exchange arrays: references and runtime alike.

An element is one item of a plain numpy array, whatever its width: bfloat16 is its bits in uint16; the 8- and 4-bit
floats are their codes in uint8; int4 and int2 are their values in int8, uint4 and uint2 in uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

#: integers narrower than a byte: (bits, signed)
NARROW_INTS: Mapping[str, tuple[int, bool]] = MappingProxyType(
    {"int4": (4, True), "uint4": (4, False), "int2": (2, True), "uint2": (2, False)}
)
#: how the ml_dtypes package names the floats, arrays of which can be read as they are
ML_FLOATS: Mapping[str, str] = MappingProxyType(
    {
        "bfloat16": "bfloat16",
        "float8e4m3fn": "float8_e4m3fn",
        "float8e4m3fnuz": "float8_e4m3fnuz",
        "float8e5m2": "float8_e5m2",
        "float8e5m2fnuz": "float8_e5m2fnuz",
        "float8e8m0": "float8_e8m0fnu",
        "float4e2m1": "float4_e2m1fn",
    }
)
#: types in which a tensor of float32 may be stored
NARROW_FLOATS = frozenset({"float16", "bfloat16", "float8e4m3fn"})
#: types of which an array holds codes in uint8
CODED = frozenset(ML_FLOATS) - {"bfloat16"}
#: numpy's dtype for the elements of the types it lacks
STORAGE: Mapping[str, str] = MappingProxyType(
    {
        "bfloat16": "uint16",
        "string": "object",
        "sequence": "object",
        **dict.fromkeys(sorted(CODED), "uint8"),
        **{name: "int8" if signed else "uint8" for name, (_, signed) in NARROW_INTS.items()},
    }
)


def storage(dtype: str) -> np.dtype:
    """numpy's dtype for the elements of an IR dtype."""
    return np.dtype(STORAGE.get(dtype, dtype))
