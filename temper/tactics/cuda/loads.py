"""The float types that GPU kernels read and write; all of them are computed with in float32.

A tensor may be stored narrower than its op computes (`Workload.widened`): the kernel converts what it loads.
Tensor-core products multiply the stored values themselves if both operands have the same narrow type: each single
product is exact in float32, so that the result differs from a float32 product only in the order of its sum.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Float types that every kernel accepts, as Triton's scalar types.
FLOATS: Mapping[str, str] = {"float32": "tl.float32", "float16": "tl.float16", "bfloat16": "tl.bfloat16"}

#: Those that are stored narrower than float32.
HALVES: Mapping[str, str] = {name: kind for name, kind in FLOATS.items() if name != "float32"}

#: Float types that products accept besides, on levels whose tensor cores have them.
FLOATS8: Mapping[str, str] = {"float8e4m3fn": "tl.float8e4nv"}

#: Levels whose tensor cores multiply 8-bit floats; kernels for others cannot even read them.
FLOATS8_ISAS = frozenset({"sm_89", "sm_90", "sm_100"})


def widened(text: str, dtype: str) -> str:
    """The expression `text` of a float type, in float32."""
    return text if dtype == "float32" else f"{text}.to(tl.float32)"
