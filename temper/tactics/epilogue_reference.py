"""The epilogue program evaluated by the ops' numpy references: what every device's rendering is checked against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.reference import run
from temper.tactics.epilogue import Epilogue


def epilogue_reference(
    epilogue: Epilogue, arrays: Sequence[np.ndarray | None], nudge: tuple[int, float] | None = None
) -> list[np.ndarray]:
    """The results of `epilogue` on operand arrays that broadcast; each step is rounded to its dtype.

    nudge: (value number, change) applied to one value, to see how its error carries through: relative of a float, in
    units of an integer, which stays within its type.
    """
    values: list[np.ndarray] = []
    for i, a in enumerate(arrays):
        if a is None:
            raise ValueError(f"operand {i} has no array")
        values.append(a)
    for instr in epilogue.instrs:
        if nudge is not None and nudge[0] == len(values) - 1:
            values[-1] = _nudged(values[-1], nudge[1])
        if instr.op == "Constant":
            values.append(np.asarray(instr.attr("value"), instr.dtype))
            continue
        args: list[np.ndarray | None] = [values[a] for a in instr.args]
        attrs = dict(instr.attrs)
        if instr.op == "Cast":
            attrs["to"] = instr.dtype
        if instr.op == "Pow" and len(args) == 1:
            args.append(np.asarray(attrs.pop("exponent"), instr.dtype))
        if instr.op in ("Max", "Min") and len(args) > 2:
            for a in args[1:]:
                args[0] = run(instr.op, [args[0], a], attrs, [instr.dtype] * 2, [instr.dtype])[0]
            values.append(np.asarray(args[0]))
            continue
        dtypes = [*map(epilogue.dtype_of, instr.args), *[instr.dtype] * (len(args) - len(instr.args))]
        values.append(run(instr.op, args, attrs, dtypes, [instr.dtype])[0])
    shape = np.broadcast_shapes(*(a.shape for a in values)) if values else ()
    return [np.ascontiguousarray(np.broadcast_to(values[r], shape)) for r in epilogue.results]


def _nudged(y: np.ndarray, change: float) -> np.ndarray:
    if y.dtype.kind in "iu":
        info = np.iinfo(y.dtype)
        return np.clip(y.astype(np.int64) + int(change), info.min, info.max).astype(y.dtype)
    return (y * (1 + change)).astype(y.dtype) if y.dtype.kind == "f" else y
