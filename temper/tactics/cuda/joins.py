"""Concat and Split on a CUDA GPU, where the memory plan could not make them views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from temper.ir.dims import DimLike
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.indexed import Body, Tiled, as_bits, dense, input_pointer, loaded, output_index
from temper.tactics.cuda.instructions import POINTER_TYPES
from temper.tactics.cuda.kernel import TritonKernel, dim_text
from temper.tactics.cuda.tiles import tile_kernel


def _axis(w: Workload, rank: int) -> int:
    return int(str(w.attr("axis"))) % rank


class Concat(Tiled):
    """Every output tile reads the inputs that reach into it."""

    name = "cuda.concat"
    ops = frozenset({"Concat"})

    def declines(self, w: Workload) -> str | None:
        if any(s is None or s.type.dtype != w.epilogue.operands[0].dtype for s in w.inputs):
            return "its inputs are of one type"
        return None

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        index = output_index(w)
        axis = _axis(w, len(index.names))
        lines, pointers = list(index.statements), []
        before: DimLike = 0
        for k, slot in enumerate(w.inputs):
            assert slot is not None
            size, strides = slot.type.shape[axis], dense(w, k)
            others = {a: s for a, s in enumerate(strides) if a != axis}
            i = index.names[axis]
            after = before + size
            lines += [
                f"part = live & ({i} >= {dim_text(before)}) & ({i} < {dim_text(after)})",
                f"offset = {index.offset(others)} + ({i} - ({dim_text(before)})) * ({dim_text(strides[axis])})",
                f"piece = {loaded(w, f'x{k}', 'offset', 'part', k)}",
                "v0 = tl.where(part, piece, v0)" if k else "v0 = piece",
            ]
            pointers.append(input_pointer(w, k, f"x{k}"))
            before = after
        return Body(lines, pointers, f"{len(pointers)} tensors joined along axis {axis}.")


class Split(Tiled):
    """A launch for every piece."""

    name = "cuda.split"
    ops = frozenset({"Split"})

    def declines(self, w: Workload) -> str | None:
        return "it computes nothing after" if w.epilogue.instrs else None

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        raise NotImplementedError

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        w = as_bits(w)
        x = w.inputs[0]
        assert x is not None
        axis, strides = _axis(w, x.type.rank), dense(w, 0)
        kernels: list[TritonKernel] = []
        before: DimLike = 0
        for k, out in enumerate(w.outputs):
            own = replace(w, outputs=(out,))
            index = output_index(own)
            offset = f"{index.offset(dict(enumerate(strides)))} + ({dim_text(before)}) * ({dim_text(strides[axis])})"
            outputs = [
                Parameter("o0" if j == k else f"other{j}", POINTER_TYPES[s.type.dtype], ("output", j))
                for j, s in enumerate(w.outputs)
            ]
            body = "\n".join([*index.statements, f"v0 = {loaded(w, 'x', offset, 'live')}"])
            pointers = [input_pointer(w, 0, "x")]
            about = f"Piece {k} along axis {axis}."
            kernels.append(
                tile_kernel(own, f"{entry}_{k}", about, pointers, {}, body, outputs=outputs, symbols=w.symbols)
            )
            before = before + out.type.shape[axis]
        return replace(
            kernels[0],
            source="\n\n".join(k.source for k in kernels),
            entries=tuple(k.entries[0] for k in kernels),
            then=tuple(k.triton for k in kernels[1:]),
            later=tuple(k.grid for k in kernels[1:]),
            in_place=False,
        )
