"""From a region to its workload: drops names and weight values, keeps whatever a kernel is specialised to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from temper.ir.dims import Dim, DimLike, data_symbols, substitute
from temper.ir.graph import Graph, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE
from temper.ir.types import TensorType, itemsize
from temper.passes.chains import Chain
from temper.passes.region import Region
from temper.tactics.base import Slot, Workload
from temper.tactics.epilogue import Attr


def workload(
    region: Region, isa: str, threads: int, strides: Mapping[int, int] | None = None, tf32: bool = False
) -> Workload:
    """The workload of `region`. strides: row stride in elements of every value (by id) that is a view into a wider
    buffer. tf32: products of float32 may be rounded so."""
    strides = strides or {}

    def slot(v: Value | None) -> Slot | None:
        return None if v is None else Slot(v.type, strides.get(v.id))

    epilogue = region.epilogue
    epilogue = replace(
        epilogue,
        operands=tuple(
            replace(o, row_stride=strides.get(v.id)) for o, v in zip(epilogue.operands, region.operands, strict=True)
        ),
    )
    attrs: tuple[tuple[str, Attr], ...] = ()
    links = tuple(workload(r, isa, threads, strides) for r in region.links) if isinstance(region, Chain) else ()
    if region.anchor is not None and not links:
        attrs = tuple((k, v) for k, v in sorted(region.anchor.attrs.items()) if not isinstance(v, Graph))  # type: ignore[misc]
    outputs = [slot(v) for v in region.outputs]
    return Workload(
        region.op,
        attrs,
        tuple(slot(v) for v in region.anchor_inputs),
        tuple(v is not None and v.const is not None for v in region.anchor_inputs),
        tuple(s for s in outputs if s is not None),
        epilogue,
        isa,
        threads,
        region.widened,
        tf32 and not links and _multiplies(region),
        links,
    )


def _multiplies(region: Region) -> bool:
    """It is a product of float32 operands."""
    if region.anchor is None or TABLE[region.op].kind is not Kind.CONTRACTION:
        return False
    return all(v is not None and v.type.dtype == "float32" for v in region.anchor_inputs[:2])


def canonical(w: Workload) -> tuple[Workload, dict[str, DimLike]]:
    """`w` over variables d0, d1 .. in order of appearance, and what each stands for in the symbols of `w`.

    A size such as (H - 1) // 2 + 1 becomes one variable: kernels then divide nothing that is known before the run, and
    layers that differ only in how their sizes come about are one workload. Relations that are polynomials stay (rows
    of N * T and of N by T agree); sizes that depend on data keep their names.
    """
    atoms: dict[str, DimLike] = {}
    meaning: dict[str, DimLike] = {}

    def variable() -> Dim:
        return Dim.symbol(f"d{len(meaning)}")

    dims = [d for d in _dims(w) if isinstance(d, Dim) and not data_symbols(d)]
    for d in dims:  # a whole size first: all of `c + atom`
        varying = [m for m in d.terms if m]
        if len(varying) == 1 and d.terms[varying[0]] == 1 and len(varying[0]) == 1 and varying[0][0][1] == 1:
            ((text, _),) = varying[0]
            if text not in atoms:
                new = variable()
                atoms[text], meaning[str(new)] = new - d.terms.get((), 0), d
    for d in dims:
        for text, atom in d.atoms.items():
            if text not in atoms:
                new = variable()
                atoms[text], meaning[str(new)] = new, Dim({((text, 1),): 1}, {text: atom})
    return _mapped(w, lambda d: substitute(d, atoms)), meaning


def bound(w: Workload, env: Mapping[str, int]) -> Workload:
    """`w` with the variables in `env` as constants: the static workload a dynamic one is at these sizes."""
    return _mapped(w, lambda d: substitute(d, env))


class Launched(Protocol):
    """What is asked of a kernel, or of what is remembered of one."""

    @property
    def in_place(self) -> bool: ...

    @property
    def grid(self) -> DimLike: ...


def donated_operand(w: Workload, k: Launched) -> int | None:
    """The epilogue operand that donates its buffer to output 0, if the plan has no further use for it and the GPU
    kernel allows that: the first dense one with an element for each of the output's, of the same size. None if there
    is no such operand."""
    out = w.outputs[0]
    if not k.in_place or not k.grid or out.row_stride is not None:
        return None
    for i, o in enumerate(w.epilogue.operands[1:], 1):
        if o.kind == "full" and o.row_stride is None and itemsize(o.dtype) == itemsize(out.type.dtype):
            return i
    return None


def _dims(w: Workload) -> Iterator[object]:
    for slot in (*w.inputs, *w.outputs):
        yield from slot.type.shape if slot is not None else ()
    for _, value in w.attrs:
        yield from value if isinstance(value, tuple) else (value,)


def _mapped(w: Workload, change: Callable[[DimLike], DimLike]) -> Workload:
    def slot(s: Slot | None) -> Slot | None:
        return None if s is None else replace(s, type=TensorType(s.type.dtype, tuple(map(change, s.type.shape))))

    def attr(v: object) -> object:
        return change(v) if isinstance(v, Dim) else tuple(map(attr, v)) if isinstance(v, tuple) else v

    return replace(
        w,
        attrs=tuple((k, attr(v)) for k, v in w.attrs),  # type: ignore[misc]
        inputs=tuple(map(slot, w.inputs)),
        outputs=tuple(s for s in map(slot, w.outputs) if s is not None),
        links=tuple(_mapped(link, change) for link in w.links),
    )
