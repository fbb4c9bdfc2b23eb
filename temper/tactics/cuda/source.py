"""Assembles Triton kernels: from the statements, constants and pointers of its stages to a `TritonKernel`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import DimLike
from temper.tactics.base import Workload
from temper.tactics.cuda.epilogue_triton import Parameter, epilogue_helpers, epilogue_parameters, epilogue_statements
from temper.tactics.cuda.kernel import TritonKernel, dim_text
from temper.tactics.cuda.tiles import constants_text

#: Number of a block where the last one begins: what the kernel before wrote last is still in the L2 cache. Products go
#: forwards, so what runs between them goes backwards.
LAST_FIRST = "(tl.num_programs(0) - 1 - tl.program_id(0))"


def stores(w: Workload, channels: DimLike | None = None) -> str:
    """Statements of the epilogue, which store v0 and what follows from it. channels: of a row, if it is not the
    output's last axis."""
    shape = w.outputs[0].type.shape
    width = channels if channels is not None else shape[-1] if shape else 1
    strides = [s.row_stride for s in w.outputs]
    return "\n".join(epilogue_statements(w.epilogue, channels=dim_text(width), row_strides=strides)) + "\n"


#: Pattern of loads of scalars: numbers that all elements share.
SCALARS = r"^v\w+ = tl\.load\(q\d+\)\n"


def extract_lines(pattern: str, text: str) -> tuple[str, str]:
    """The lines of a kernel's text that match `pattern`, and the text without them."""
    return "".join(re.findall(pattern, text, re.MULTILINE)), re.sub(pattern, "", text, flags=re.MULTILINE)


@dataclass(frozen=True)
class Stage:
    """A launch before the last one, of `grid` blocks."""

    body: str
    grid: DimLike
    warps: int = 4
    stages: int = 1


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
    before: Sequence[Stage] = (),
    scratch: DimLike = 0,
    in_place: bool | None = None,
    results: Sequence[Parameter] = (),
    registers: int = 0,
) -> TritonKernel:
    """A kernel whose `body` stores every result.

    inputs: pointers besides those of the epilogue.
    sizes: constants that `body` uses.
    helpers: functions it calls, each preceded by two blank lines.
    before: launches of their own, with the same pointers and constants.
    scratch: bytes that all blocks share.
    in_place: as Kernel has it; by default of kernels with one result.
    results: pointers after those of the epilogue.
    registers: as TritonSource has them.
    """
    pointers = [*inputs, *epilogue_parameters(w.epilogue), *results]
    signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
    aligned = frozenset(p.name for p in pointers)

    def source(name: str, last: Stage, own: str) -> TritonSource:
        text = (
            f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{own}'
            f"\n\n@triton.jit\ndef {name}({', '.join(name for name, _ in signature)}):\n"
            + indent(f"{constants_text(sizes)}\n\n{last.body}", "    ")
        )
        return TritonSource(text, name, signature, aligned, last.warps, last.stages, registers=registers)

    main = source(entry, Stage(body, grid, warps, stages), helpers + epilogue_helpers(w.epilogue))
    sources = (*(source(f"{entry}_{i}", stage, helpers) for i, stage in enumerate(before)), main)
    grids = (*(stage.grid for stage in before), grid)
    return TritonKernel(
        "\n\n".join(s.text for s in sources),
        tuple(s.entry for s in sources),
        tuple(p.ref for p in pointers),
        w.symbols,
        shared_workspace=scratch,
        in_place=len(w.epilogue.results) == 1 if in_place is None else in_place,
        triton=sources[0],
        then=sources[1:],
        grid=grids[0],
        later=grids[1:],
    )
