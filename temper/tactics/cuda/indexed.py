"""Base class of GPU tactics that find each output element by index (gather, pad ...): one kernel over output tiles.

Where nothing is fused behind, elements move as integers of their width, so that types that Triton (or the chip) lacks
move too; otherwise they are loaded with their own type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from temper.ir.dims import DimLike, product
from temper.ir.types import TensorType, itemsize
from temper.reference.formats import number
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter, epilogue_declines
from temper.tactics.cuda.instructions import BIT_TYPES, POINTER_TYPES, literal
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import widened
from temper.tactics.cuda.tiles import tile_kernel
from temper.tactics.epilogue import Epilogue
from temper.tactics.geometry import strides_of, typical_count

#: Integers that stand for any element of so many bytes.
_BITS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


@dataclass(frozen=True)
class Body:
    """Statements that compute v0 of a tile, with the pointers and sizes they use."""

    statements: Sequence[str]
    inputs: Sequence[Parameter]
    about: str
    sizes: Mapping[str, DimLike] = field(default_factory=dict)


class Tiled:
    """Base of tactics with one kernel over tiles of the output; any epilogue may follow. Subclasses say what they
    decline, and give the statements that compute v0."""

    name = ""
    ops: frozenset[str] = frozenset()
    #: Bytes a second it reaches, about.
    rate = 1e12
    #: The results are input 0's elements, unchanged: they may move as bits.
    moves = True

    def declines(self, w: Workload) -> str | None:
        """The reason why this workload has no kernel here, apart from code level and epilogue."""
        raise NotImplementedError

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        """The statements of an accepted workload. number: text of a number as an element of the results."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, self.ops)) is not None:
            return reason
        dtype = w.epilogue.operands[0].dtype
        if self.moves and is_plain(w):
            if itemsize(dtype) not in _BITS or dtype in ("string", "sequence"):
                return f"elements of type {dtype} are not moved here"
        elif dtype not in POINTER_TYPES:
            return f"elements of type {dtype} have no Triton form"
        elif (reason := epilogue_declines(w.epilogue, dtype)) is not None:
            return reason
        return self.declines(w)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        out = w.outputs[0].type
        return 2e-6 + typical_count(out.shape) * itemsize(out.dtype) / self.rate

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        dtype, bits = w.epilogue.operands[0].dtype, self.moves and is_plain(w)

        def number(x: float) -> str:
            return str(bits_of(x, dtype)) if bits else number_text(x, dtype)

        w = as_bits(w) if bits else w
        b = self.body(w, number)
        text = "\n".join(b.statements)
        return tile_kernel(w, entry, b.about, b.inputs, b.sizes, text, in_place=len(w.epilogue.results) == 1)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def is_plain(w: Workload) -> bool:
    """Whether nothing is fused: neither an epilogue nor conversions of the inputs."""
    return not w.epilogue.instrs and len(w.epilogue.operands) == 1 and not w.widened


def as_bits(w: Workload) -> Workload:
    """The movement `w` with integers instead of its element type, where inputs have it."""
    old = w.epilogue.operands[0].dtype
    new = _BITS[itemsize(old)]

    def kind(t: TensorType) -> TensorType:
        return TensorType(new, t.shape) if t.dtype == old else t

    return replace(
        w,
        inputs=tuple(
            None if s is None else s if _is_index(w, i) else replace(s, type=kind(s.type))
            for i, s in enumerate(w.inputs)
        ),
        outputs=tuple(replace(s, type=kind(s.type)) for s in w.outputs),
        epilogue=Epilogue.identity(new, len(w.epilogue.operands[0].mask)),
    )


def _is_index(w: Workload, i: int) -> bool:
    return i == 1 and w.op.startswith(("Gather", "Scatter", "Reverse"))


def bits_of(value: float, dtype: str) -> int:
    """The bit pattern of a number of `dtype`, as a signed integer."""
    return int.from_bytes(np.asarray(number(value, dtype)).tobytes(), "little", signed=True)


def number_text(value: float, dtype: str) -> str:
    """A number as a value of a program's `dtype`."""
    return str(bits_of(value, dtype) & 255) if dtype in BIT_TYPES else literal(value, dtype)


def input_pointer(w: Workload, i: int, name: str) -> Parameter:
    """The pointer to input `i`."""
    slot = w.inputs[i]
    assert slot is not None
    return Parameter(name, POINTER_TYPES[slot.type.dtype], ("input", i))


def loaded(w: Workload, name: str, offset: str, mask: str, i: int = 0) -> str:
    """Text that loads an element of input `i`, in the type of the epilogue's operand 0."""
    slot = w.inputs[i]
    assert slot is not None
    text = f"tl.load({name} + ({offset}), mask={mask})"
    if i in w.widened:
        return widened(text, slot.type.dtype)
    return f"({text} != 0)" if slot.type.dtype == "bool" else text


def dense(w: Workload, i: int) -> list[DimLike]:
    """Element strides of input `i`."""
    slot = w.inputs[i]
    assert slot is not None
    return strides_of(slot.type.shape, (True,) * slot.type.rank, slot.row_stride)


@dataclass(frozen=True)
class Index:
    """Where a tile's elements are along every axis of its tensor: names of their indices, [BM, 1] or [1, BN] each."""

    names: tuple[str, ...]
    statements: tuple[str, ...]

    def mask(self, axes: Sequence[int]) -> str:
        """The mask of what depends on the indices along these axes only."""
        last = len(self.names) - 1
        if last in axes and any(a != last for a in axes):
            return "live"
        return "channel_ok[None, :]" if last in axes else "row_ok[:, None]"

    def offset(self, strides: Mapping[int, DimLike]) -> str:
        """Sum of index times stride over some axes."""
        terms = [f"{self.names[a]} * ({dim_text(s)})" for a, s in strides.items() if s != 0]
        return " + ".join(terms) or "0"


def output_index(w: Workload) -> Index:
    """Indices i0, i1 .. of a tile's elements in output 0, as int32 unless a tensor has too many elements for it."""
    shape = w.outputs[0].type.shape
    slots = [s for s in (*w.inputs, *w.outputs) if s is not None]
    sizes = [product(s.type.shape[:-1]) * (s.row_stride or s.type.shape[-1]) for s in slots if s.type.shape]
    narrow = all(isinstance(n, int) and n < 1 << 31 for n in sizes)
    lines = []
    below: DimLike = 1
    for a in reversed(range(len(shape) - 1)):
        whole = "place" if below == 1 else f"place // ({dim_text(below)})"
        index = whole if a == 0 else f"({whole}) % ({dim_text(shape[a])})"
        lines.append(f"i{a} = ({index})[:, None]")
        below = below * shape[a]
    if len(shape) > 1:
        lines.append(f"place = row{'.to(tl.int32)' if narrow else ''}")
    if shape:
        lines.insert(0, f"i{len(shape) - 1} = channel[None, :]")
    return Index(tuple(f"i{a}" for a in range(len(shape))), tuple(reversed(lines)))
