"""Max and average pooling of channels-last planes on a CUDA GPU, of floats or codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, TRITON_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, HALVES
from temper.tactics.cuda.windows import Blocking, Body, Window, blockings, seconds, window_kernel, window_of

#: Below every value, by element type.
_LEAST: Mapping[str, str] = {**dict.fromkeys(FLOATS, 'float("-inf")'), "int8": "-128", "uint8": "0"}


class Pool:
    """MaxPool and AveragePool with any window, stride, dilation and padding."""

    name = "cuda.pool"
    ops = frozenset({"MaxPool", "AveragePool"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes MaxPool and AveragePool, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        g = window_of(w)
        if isinstance(g, str):
            return g
        x = w.inputs[0]
        assert x is not None
        taken = _LEAST if w.op == "MaxPool" else FLOATS
        if x.type.dtype not in taken:
            return f"computes {', '.join(taken)}, not {x.type.dtype}"
        accumulator = w.epilogue.operands[0].dtype
        return epilogue_declines(w.epilogue, accumulator if accumulator == "float32" else x.type.dtype)

    def candidates(self, w: Workload) -> Sequence[Params]:
        g = _accepted(w)
        assert w.inputs[0] is not None
        found = blockings(g, itemsize(w.inputs[0].type.dtype), 4)
        return [b.params for b in sorted(found, key=lambda b: (self.predict(w, b.params), b.params))]

    def predict(self, w: Workload, params: Params) -> float:
        assert w.inputs[0] is not None
        stored = sum(itemsize(s.type.dtype) for s in w.outputs)
        return seconds(_accepted(w), Blocking.of(params), itemsize(w.inputs[0].type.dtype), stored, 1.0)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        g, b, x = _accepted(w), Blocking.of(params), w.inputs[0]
        assert x is not None
        inputs = [Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0))]
        about = f"{w.op} of {g.kernel[0]}x{g.kernel[1]}: groups of {b.rows}x{b.cols} pixels."
        body = _maximum(w) if w.op == "MaxPool" else _mean(w, g)
        return window_kernel(w, entry, about, g, b, inputs, body)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _maximum(w: Workload) -> Body:
    """Bytes are compared as int32, and what is not taken is set apart from the load: of bytes Triton 3.6 packs an
    `other` that is negative wrongly, and widens unsigned ones as if they were signed."""
    x = w.inputs[0]
    assert x is not None
    dtype, made = x.type.dtype, w.epilogue.operands[0].dtype
    kind = "tl.float32" if dtype in FLOATS else "tl.int32"
    nan = ", propagate_nan=tl.PropagateNan.ALL" if dtype in FLOATS else ""
    wide = f"value.to({kind}){' & 255' if dtype == 'uint8' else ''}"
    return Body(
        start=lambda a: f"{a} = tl.full((BM, BN), {_LEAST[dtype]}, {kind})\n",
        step=lambda a, tap: f"{a} = tl.maximum({a}, value{nan})\n",
        finish=lambda a, r, c: f"v0 = {a}.to({TRITON_TYPES[made]})\n",
        value=f"value = tl.where(taken, {wide}, {_LEAST[dtype]})\n",
    )


def _mean(w: Workload, g: Window) -> Body:
    """The sum over the number of taps inside the image, or inside the padded one."""
    padded = bool(w.attr("count_include_pad", 0))
    made = w.epilogue.operands[0].dtype
    half = f".to({HALVES[made]})" if made in HALVES else ""

    def along(first: str, axis: int) -> str:
        """How many taps of a pixel whose window begins at `first` count along an axis."""
        size, low, high = (("IH", "PAD_TOP", "PAD_BOTTOM"), ("IW", "PAD_LEFT", "PAD_RIGHT"))[axis]
        bounds = (f"-{low}", f"{size} + {high}") if padded else ("0", size)
        places = [f"({first}) + {k * g.dilations[axis]}" for k in range(g.kernel[axis])]
        return " + ".join(f"(({p} >= {bounds[0]}) & ({p} < {bounds[1]})).to(tl.int32)" for p in places)

    def finish(a: str, r: int, c: int) -> str:
        down, right = along(f"y0 + {r} * STRIDE_Y", 0), along(f"x0 + {c} * STRIDE_X", 1)
        return (
            f"count = ({down}) * ({right})\n"
            f"v0 = tl.div_rn({a}, count.to(tl.float32)[:, None]){half}\n"
        )

    return Body(
        start=lambda a: f"{a} = tl.zeros((BM, BN), tl.float32)\n",
        step=lambda a, tap: f"{a} += value\n",
        finish=finish,
        value="value = value.to(tl.float32)\n",
    )


def _accepted(w: Workload) -> Window:
    g = window_of(w)
    if isinstance(g, str):
        raise ValueError(f"workload was not accepted: {g}")
    return g
