"""Cumulative ops (CumSum, CumProd) of any number type along any axis on a CUDA GPU.

Running totals are float64, or integers that wrap.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.tactics.base import Workload
from temper.tactics.cuda.direct import Direct, Stage, pointer
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.instructions import TRITON_TYPES

_DTYPES = frozenset({"float32", "float64"} | {f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)})

#: Elements of a tile, and the most neighbouring lines of one.
_TILE, _LINES = 1024, 64

_BODY = """
block = tl.program_id(0)
lane = block % BLOCKS * BI + tl.arange(0, BI)
base = (block // BLOCKS).to(tl.int64) * LENGTH * INNER + lane
total = tl.full((1, BI), START, ACC)
for start in range(0, LENGTH, BL):
    step = start + tl.arange(0, BL)
    live = (step < LENGTH)[:, None] & (lane < INNER)[None, :]
    source = step - EXCLUSIVE
    taken = live & (source >= 0)[:, None]
    at = LENGTH - 1 - source if REVERSE else source
    value = tl.load(x + base[None, :] + at[:, None].to(tl.int64) * INNER, mask=taken, other=0).to(ACC)
    run = SCAN(tl.where(taken, value, START), 0)
    run = run + total if START == 0 else run * total
    to = LENGTH - 1 - step if REVERSE else step
    tl.store(y + base[None, :] + to[:, None].to(tl.int64) * INNER, run.to(KIND), mask=live)
    total = tl.sum(tl.where((tl.arange(0, BL) == BL - 1)[:, None], run, 0), 0)[None, :]
"""


class Running(Direct):
    """A block of neighbouring lines, a piece of the axis at a time."""

    name = "cuda.running"
    ops = frozenset({"CumSum", "CumProd"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in _DTYPES else f"{dtype} has no Triton form"

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        x = w.outputs[0].type
        axis = int(str(w.attr("axis"))) % x.rank
        inner = product(x.shape[axis + 1 :])
        lines = _LINES if isinstance(inner, Dim) else min(_LINES, 1 << max(0, inner - 1).bit_length())
        sizes: dict[str, DimLike] = {
            "LENGTH": x.shape[axis],
            "INNER": inner,
            "BI": lines,
            "BL": _TILE // lines,
            "BLOCKS": ceil_div(inner, lines),
            "EXCLUSIVE": int(str(w.attr("exclusive", 0))),
            "REVERSE": int(str(w.attr("reverse", 0))),
            "START": int(w.op == "CumProd"),
        }
        text = _BODY.replace("SCAN", "tl.cumprod" if w.op == "CumProd" else "tl.cumsum")
        text = text.replace("ACC", "tl.float64" if x.dtype.startswith("float") else "tl.int64")
        text = text.replace("KIND", TRITON_TYPES[x.dtype])
        grid = product(x.shape[:axis]) * sizes["BLOCKS"]
        if 0 in x.shape:
            text, grid = "pass", 0
        return [pointer(w, "input", 0, "x"), pointer(w, "output", 0, "y")], [Stage(text, grid, sizes)], 0
