"""From the parts of a Triton kernel's text to the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import DimLike
from temper.tactics.base import Workload
from temper.tactics.cuda.epilogue_triton import Parameter, epilogue_helpers, epilogue_parameters, epilogue_statements
from temper.tactics.cuda.kernel import TritonKernel, dim_text
from temper.tactics.cuda.tiles import constants_text


def stores(w: Workload, channels: DimLike | None = None) -> str:
    """Statements of the epilogue, which store v0 and what follows from it. channels: of a row, if it is not the
    output's last axis."""
    shape = w.outputs[0].type.shape
    width = channels if channels is not None else shape[-1] if shape else 1
    strides = [s.row_stride for s in w.outputs]
    return "\n".join(epilogue_statements(w.epilogue, channels=dim_text(width), row_strides=strides)) + "\n"


def kernel_of(
    w: Workload,
    entry: str,
    about: str,
    inputs: Sequence[Parameter],
    sizes: Mapping[str, DimLike],
    body: str,
    *,
    grid: DimLike,
    helpers: str = "",
    warps: int = 4,
    stages: int = 1,
) -> TritonKernel:
    """A kernel of one entry whose `body` stores every result.

    inputs: pointers besides those of the epilogue. sizes: constants that `body` uses. helpers: functions it calls, each
    preceded by two blank lines.
    """
    pointers = [*inputs, *epilogue_parameters(w.epilogue)]
    signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
    text = (
        f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{helpers}{epilogue_helpers(w.epilogue)}'
        f"\n\n@triton.jit\ndef {entry}({', '.join(name for name, _ in signature)}):\n"
        + indent(f"{constants_text(sizes)}\n\n{body}", "    ")
    )
    return TritonKernel(
        text,
        (entry,),
        tuple(p.ref for p in pointers),
        w.symbols,
        in_place=len(w.epilogue.results) == 1,
        triton=TritonSource(text, entry, signature, frozenset(p.name for p in pointers), warps, stages),
        grid=grid,
    )
