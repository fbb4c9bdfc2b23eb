"""Skeleton of kernels that compute tiles of rows by channels without a matrix product: head, sizes and launch.

A tile is BM rows (flat index over all axes but the last) by BN channels. Statements between the head and the epilogue
compute v0 from them; the names in scope are those that epilogue_triton.py states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.tactics.base import Workload
from temper.tactics.cuda.epilogue_triton import (
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.kernel import TritonKernel, dim_text

#: Elements of a tile, and the most channels of one.
_TILE = 2048
_CHANNELS = 256

_HEAD = """\
tile = tl.program_id(0)
row = (tile // COLUMNS * BM + tl.arange(0, BM)).to(tl.int64)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
row_ok = row < ROWS
channel_ok = channel < CHANNELS
live = row_ok[:, None] & channel_ok[None, :]
image = row // IMG_ROWS
"""


def tile_sizes(shape: Sequence[DimLike]) -> tuple[int, int]:
    """(BM, BN) for a tensor of this shape, powers of two."""
    last = shape[-1] if shape else 1
    channels = _CHANNELS if isinstance(last, Dim) else max(1, last)
    bn = min(_CHANNELS if len(shape) > 1 else _TILE, 1 << (channels - 1).bit_length())
    return max(1, _TILE // bn), bn


def constants_text(sizes: Mapping[str, DimLike]) -> str:
    """Assignments of the sizes, compile-time constants where they are known."""
    return "\n".join(
        f"{name}{'' if isinstance(d, Dim) else ': tl.constexpr'} = {dim_text(d)}" for name, d in sizes.items()
    )


def offset_text(shape: Sequence[DimLike], strides: Sequence[DimLike]) -> str:
    """Element offset of a tile's elements [BM, BN] in a tensor of these strides along the axes of `shape`."""
    terms = []
    below: DimLike = 1
    for size, stride in zip(reversed(shape[:-1]), reversed(strides[:-1]), strict=True):
        if stride != 0 and size != 1:
            index = "row" if below == 1 else f"row // ({dim_text(below)})"
            terms.append(f"({index} % ({dim_text(size)}))[:, None] * ({dim_text(stride)})")
        below = below * size
    if shape and strides[-1] != 0:
        terms.append(f"channel[None, :] * ({dim_text(strides[-1])})")
    return " + ".join(terms) or "0"


def tile_kernel(
    w: Workload,
    entry: str,
    about: str,
    inputs: Sequence[Parameter],
    sizes: Mapping[str, DimLike],
    body: str,
    *,
    helpers: str = "",
    tile: tuple[int, int] | None = None,
    in_place: bool = True,
    outputs: Sequence[Parameter] | None = None,
    symbols: tuple[str, ...] | None = None,
) -> TritonKernel:
    """A kernel over tiles of the output.

    inputs: pointers besides those of the epilogue.
    sizes: constants that `body` uses.
    helpers: functions of its own that it calls.
    tile: (BM, BN).
    outputs: pointers instead of the epilogue's.
    symbols: those of a workload that this is a part of.
    """
    out = w.outputs[0].type.shape
    rows = product(out[:-1]) if out else 1
    channels: DimLike = out[-1] if out else 1
    bm, bn = tile or tile_sizes(out)
    columns = ceil_div(channels, bn)
    own = {
        "ROWS": rows, "CHANNELS": channels, "IMG_ROWS": product(out[1:-1]) if len(out) > 1 else 1,
        "BM": bm, "BN": bn, "COLUMNS": columns,
    }  # fmt: skip
    symbols = w.symbols if symbols is None else symbols
    pointers = [*inputs, *(epilogue_parameters(w.epilogue) if outputs is None else outputs)]
    signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in symbols))
    strides = [s.row_stride for s in w.outputs]
    lines = epilogue_statements(w.epilogue, channels=dim_text(channels), row_strides=strides)
    statements = f"{constants_text({**own, **sizes})}\n\n{_HEAD}\n{body}\n" + "\n".join(lines) + "\n"
    if 0 in out:
        statements = "pass\n"  # it is never launched, and sizes of 0 divide nothing
    text = (
        f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{helpers}{epilogue_helpers(w.epilogue, body)}'
        f"\n\n@triton.jit\ndef {entry}({', '.join(name for name, _ in signature)}):\n" + indent(statements, "    ")
    )
    hints = frozenset(p.name for p in pointers)
    return TritonKernel(
        text,
        (entry,),
        tuple(p.ref for p in pointers),
        symbols,
        in_place=in_place,
        triton=TritonSource(text, entry, signature, hints, 4, 1),
        grid=ceil_div(rows, bm) * columns,
    )
