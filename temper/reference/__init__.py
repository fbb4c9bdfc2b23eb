"""The meaning of every op, in numpy: `REFERENCES[op](arrays, attrs)` gives the op's outputs.

Imports numpy only, because host segments of a plan run these functions. Operands are arrays (None where an optional one
is absent) and are never changed; attributes are numbers, strings and tuples, every symbolic dimension replaced by its
value. Types numpy lacks travel as formats.py has them: call `run`, which decodes them for the ops that compute,
wherever a dtype may be one of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from temper.dtypes import CODED
from temper.reference import (
    attention,
    blocks,
    contraction,
    control,
    data_sizes,
    elementwise,
    ensembles,
    histogram,
    images,
    movement,
    random,
    recurrent,
    reduction,
    sequences,
    strings,
    transforms,
    vision,
)
from temper.reference.formats import decode, encode
from temper.reference.numeric import Arrays, Attrs, ReferenceFn, bfloat16_to_float32, float32_to_bfloat16
from temper.reference.sequences import SEQUENCE_OPS

REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        name: fn
        for family in (
            elementwise,
            movement,
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
            ensembles,
            images,
            random,
            strings,
            histogram,
        )
        for name, fn in family.REFERENCES.items()
    }
)

#: the ops that read the codes of 8- and 4-bit floats as numbers; others move them
_DECODING = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "Pad"})


def run(
    op: str, arrays: Arrays, attrs: Attrs, input_dtypes: Sequence[str | None], output_dtypes: Sequence[str]
) -> list[np.ndarray]:
    """`REFERENCES[op]` on operands of the given IR dtypes: bfloat16 is computed in float32 and rounded to even."""
    if op in SEQUENCE_OPS or "sequence" in input_dtypes:
        return list(arrays) if op == "Identity" else REFERENCES[op](arrays, attrs)  # type: ignore[arg-type]
    wide = [
        bfloat16_to_float32(a)
        if a is not None and d == "bfloat16" and op != "BitCast"
        else decode(a, d)
        if a is not None and d in CODED and op in _DECODING
        else a
        for a, d in zip(arrays, input_dtypes, strict=True)
    ]
    out = REFERENCES[op](wide, attrs)
    return [
        float32_to_bfloat16(y)
        if d == "bfloat16" and y.dtype == np.float32
        else encode(y, d)
        if d in CODED and y.dtype == np.float32
        else y
        for y, d in zip(out, output_dtypes, strict=True)
    ]
