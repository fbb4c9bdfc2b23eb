"""Lines of outputs, by which reductions, ArgMax and ArgMin are computed on a CUDA GPU: geometry, blockings, time.

A line is neighbouring outputs along the output's last axis, or its rows where that axis has one element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.reference.reduction import highest, lowest
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.instructions import TRITON_TYPES
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.loads import FLOATS
from temper.tactics.geometry import Axis, collapse_axes, strides_of, typical_count

#: Of the chip that blockings are made for.
_PROCESSORS = 132

#: Codes that are converted at once (`rounding`): Triton compiles no tile of fewer.
CODES_AT_ONCE = 4

#: Reductions whose result is one of the elements.
EXTREMES = frozenset({"ReduceMax", "ReduceMin"})


def accumulator(op: str, dtype: str) -> str:
    """The type that elements of `dtype` are joined in, a name of TRITON_TYPES; empty if there is none."""
    if dtype in FLOATS:
        return "float32"
    if dtype == "float64":
        return dtype
    if dtype in ("int64", "uint32") or (dtype == "uint64" and op not in EXTREMES):
        return "int64"
    small = dtype in ("int8", "uint8", "int16", "uint16", "int32") or (dtype == "bool" and op in EXTREMES)
    return "int32" if small else ""


def loaded(text: str, dtype: str, kind: str) -> str:
    """The loaded expression in the type `kind`: Triton may extend the sign of unsigned numbers."""
    bits = {"uint8": " & 255", "uint16": " & 65535", "uint32": " & 0xFFFFFFFF"}.get(dtype, "")
    if dtype == kind:
        return text
    text = f"({text}).to({TRITON_TYPES[kind]})"
    return f"(({text} & 255) != 0).to(tl.int32)" if dtype == "bool" else f"({text}{bits})" if bits else text


@dataclass(frozen=True)
class Lines:
    """Which elements of the input each output is computed from.

    outputs: the output's axes, each with its size and its stride in the input.
    reduced: the axes along which an output's elements lie.
    """

    outputs: tuple[Axis, ...]
    reduced: tuple[Axis, ...]

    @property
    def count(self) -> DimLike:
        return product(tuple(a.size for a in self.reduced))

    @property
    def channels(self) -> DimLike:
        return self.outputs[-1].size if self.outputs else 1

    @property
    def by_rows(self) -> bool:
        """Neighbours on a line are rows, for lack of channels."""
        return self.channels == 1

    @property
    def rows(self) -> DimLike:
        return product(tuple(a.size for a in self.outputs[:-1]))

    def blocks(self, line: int) -> DimLike:
        return ceil_div(self.rows, line) if self.by_rows else self.rows * ceil_div(self.channels, line)

    def element(self) -> str:
        """Offset of element `k` of an output."""
        return _offset(self.reduced, "k") or "k * 0"

    def head(self) -> str:
        """Statements that place a block of outputs: names as epilogue_triton.py states them, and `base` [LINE]."""
        if self.by_rows:
            text = (
                "row = (tile * LINE + tl.arange(0, LINE)).to(tl.int64)\nchannel = tl.arange(0, 1)\n"
                "row_ok = row < ROWS\nchannel_ok = channel < 1\nline_ok = row_ok\nat_row = row\nat_channel = 0\n"
            )
        else:
            text = (
                "at_row = (tile // COLUMNS).to(tl.int64)\nrow = at_row + tl.arange(0, 1)\n"
                "channel = tile % COLUMNS * LINE + tl.arange(0, LINE)\nrow_ok = row < ROWS\n"
                "channel_ok = channel < CHANNELS\nline_ok = channel_ok\nat_channel = channel.to(tl.int64)\n"
            )
        terms = [t for t in (_offset(self.outputs[:-1], "at_row"), _offset(self.outputs[-1:], "at_channel")) if t]
        return (
            f"{text}live = row_ok[:, None] & channel_ok[None, :]\nimage = row // IMG_ROWS\n"
            f"base = {' + '.join(terms) or '0'} + tl.zeros((LINE,), tl.int64)\n"
        )

    @property
    def spread(self) -> str:
        """Brackets that shape a line as the epilogue's tile."""
        return "[:, None]" if self.by_rows else "[None, :]"


def _offset(axes: Sequence[Axis], index: str) -> str:
    """Element offset of an index that counts over `axes`, the last fastest."""
    terms = []
    below: DimLike = 1
    for n, a in enumerate(reversed(axes)):
        if a.size != 1 and a.stride != 0:
            at = index if below == 1 else f"({index} // ({dim_text(below)}))"
            at = at if n == len(axes) - 1 else f"({at} % ({dim_text(a.size)}))"
            terms.append(f"{at} * ({dim_text(a.stride)})")
        below = below * a.size
    return " + ".join(terms)


def lines_of(w: Workload, axes: frozenset[int], keep: bool) -> Lines:
    """Where the elements of every output are, for a reduction of `axes`."""
    x = w.inputs[0]
    assert x is not None
    strides = strides_of(x.type.shape, (True,) * x.type.rank, x.row_stride)
    kept = [
        Axis(1, 0, False) if i in axes else Axis(d, s, False)
        for i, (d, s) in enumerate(zip(x.type.shape, strides, strict=True))
        if keep or i not in axes
    ]
    return Lines(tuple(kept), tuple(a for a in collapse_axes(w, axes) if a.reduced))


def handles_codes(w: Workload) -> bool:
    """Whether the epilogue makes 8-bit codes, or reads them."""
    kinds = {o.dtype for o in w.epilogue.operands} | {i.dtype for i in w.epilogue.instrs}
    return bool(w.epilogue.instrs) and bool(kinds & {"int8", "uint8"})


def line_sizes(w: Workload, lines: Lines, params: Params) -> dict[str, DimLike]:
    """The constants that the texts use."""
    shape, p = w.outputs[0].type.shape, dict(params)
    return {
        "ROWS": lines.rows, "CHANNELS": lines.channels, "COLUMNS": ceil_div(lines.channels, p["line"]),
        "IMG_ROWS": product(shape[1:-1]), "COUNT": lines.count, "LINE": p["line"], "DEPTH": p["depth"],
        "SPLITS": p["splits"],
    }  # fmt: skip


def line_blockings(lines: Lines, splittable: bool, least: int = 1) -> Iterator[Params]:
    """Outputs of a block, elements of a step, splits and warps."""
    inner = bool(lines.reduced) and lines.reduced[-1].stride == 1
    count = 1024 if isinstance(lines.count, Dim) else max(1, lines.count)
    width = lines.rows if lines.by_rows else lines.channels
    width = 256 if isinstance(width, Dim) else max(1, width)
    depths = (64, 256, 1024, 4096) if inner else (8, 32, 128)
    for line in [n for n in (1, 4, 16) if n >= least] if inner else (16, 64, 128, 256):
        if line >= 2 * width and line > (least if inner else 16):
            continue
        for depth in depths:
            if (depth >= 2 * count and depth > depths[0]) or not 64 <= line * depth <= 8192:
                continue
            blocks = lines.blocks(line)
            free = 1 if isinstance(blocks, Dim) else _PROCESSORS * 4 // max(1, blocks)
            for splits in (1, 8, 32, 128, 512):
                if splits > 1 and (not splittable or splits > 2 * free or count < 2 * splits * depth):
                    continue
                for warps in (4, 8) if line * depth >= 1024 else (1, 4):
                    if line * depth >= 32 * warps:
                        yield (("line", line), ("depth", depth), ("splits", splits), ("warps", warps))


def line_seconds(w: Workload, lines: Lines, params: Params) -> float:
    """Reading the input, by as many blocks as there are."""
    x, p = w.inputs[0], dict(params)
    assert x is not None
    nbytes = typical_count(x.type.shape) * itemsize(x.type.dtype)
    blocks = lines.blocks(p["line"]) * p["splits"]
    blocks = 64 if isinstance(blocks, Dim) else max(1, blocks)
    count = 1024 if isinstance(lines.count, Dim) else lines.count
    steps = -(-count // (p["depth"] * p["splits"]))
    inner = bool(lines.reduced) and lines.reduced[-1].stride == 1
    run = itemsize(x.type.dtype) * (p["depth"] if inner else p["line"])  # bytes read side by side
    share = min(1.0, blocks * p["warps"] / (_PROCESSORS * 16))
    waits = 0.5e-6 * steps * max(1.0, blocks * p["warps"] / (_PROCESSORS * 48))
    # lanes of one output that lie in several warps meet in shared memory
    meets = 1.0 if inner or steps > 8 else 1 + 0.1 * (p["warps"] - 1) * (1 + p["depth"] / 32)
    read = nbytes / (2.6e12 * share * min(1.0, run / 64)) * meets
    return (1.5e-6 if p["splits"] == 1 else 3.5e-6) + max(read, waits)


def start_text(start: str, dtype: str, acc: str) -> str:
    """The neutral element of a reduction, as text of the type `acc`."""
    if start in ("zero", "one"):
        return {"zero": "0", "one": "1"}[start] + (".0" if acc.startswith("float") else "")
    if acc.startswith("float"):
        return 'float("-inf")' if start == "lowest" else 'float("inf")'
    kind = np.dtype("bool" if dtype == "bool" else dtype)
    return str(int(lowest(kind) if start == "lowest" else highest(kind)))
