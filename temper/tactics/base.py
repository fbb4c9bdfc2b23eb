"""The interface of tactics on every device: a workload in, candidate kernels out; nothing is compiled or timed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from temper.ir.derived import Derived
from temper.ir.dims import Dim, DimLike, from_data, symbols_of
from temper.ir.types import TensorType
from temper.tactics.epilogue import Attr, Epilogue


@dataclass(frozen=True)
class Slot:
    """A tensor as a kernel sees it. row_stride: elements between rows (last axis) of a view into a wider buffer, else
    None."""

    type: TensorType
    row_stride: int | None = None

    def __str__(self) -> str:
        return str(self.type) + (f"/{self.row_stride}" if self.row_stride else "")


@dataclass(frozen=True)
class Workload:
    """One region's computation without names and weight values: the key of the timing cache.

    op: the anchor's IR op, or "Pointwise".
    attrs: the anchor's attributes, sorted.
    inputs: the anchor's inputs (None where absent); constant[i] says input i is known at build and may be prepacked.
    outputs: one slot per epilogue result.
    isa: code level ("avx512", "avx2", "portable", or a GPU's "sm_90").
    threads: how many threads the engine will use; results never depend on it, times do.
    widened: the inputs, by number, that are stored in a narrower float type than the op computes in: it computes in
        float32, as the epilogue does, and the kernel converts what it loads.
    tf32: products may round their float32 operands to 10 bits of mantissa, as tensor cores take them.
    links: of a "Chain", the workloads that follow each other; see `chained` for what its inputs are.
    """

    op: str
    attrs: tuple[tuple[str, Attr], ...]
    inputs: tuple[Slot | None, ...]
    constant: tuple[bool, ...]
    outputs: tuple[Slot, ...]
    epilogue: Epilogue
    isa: str
    threads: int = 1
    widened: tuple[int, ...] = ()
    tf32: bool = False
    links: tuple[Workload, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workload) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def attr(self, name: str, default: Attr | None = None) -> Attr:
        value = dict(self.attrs).get(name, default)
        if value is None:
            raise KeyError(f"workload {self.op} has no attribute {name}")
        return value

    def input_dtype(self, i: int) -> str:
        """Element type of input `i`, which must be there."""
        slot = self.inputs[i]
        assert slot is not None
        return slot.type.dtype

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the run-time variables, sorted: a kernel receives their values in this order in `v`."""
        names: set[str] = set()
        for slot in (*self.inputs, *self.outputs):
            if slot is not None:
                names |= slot.type.symbols
        for _, value in self.attrs:
            for d in value if isinstance(value, tuple) else (value,):
                # an attribute that depends on data keeps its node on the host
                names |= {s for s in d.symbols if not from_data(s)} if isinstance(d, Dim) else set()
        return tuple(sorted(names))

    @cached_property
    def key(self) -> str:
        """Canonical text of everything above."""
        ins = ",".join(
            ("=" if c else "") + str(s) if s else "-" for s, c in zip(self.inputs, self.constant, strict=True)
        )
        outs = ",".join(str(s) for s in self.outputs)
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs)
        more = (f"|w{','.join(map(str, self.widened))}" if self.widened else "") + "|tf32" * self.tf32
        more += "".join(f"|[{link.key}]" for link in self.links)
        return f"{self.op}{{{attrs}}}({ins})->({outs})|{self.epilogue.key}|{self.isa}|t{self.threads}{more}"


def chained(w: Workload) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Of every link of a chain, which of the chain's inputs are the link's inputs from the second on, and which the
    operands of its program from the second on: none of the last link's, which are the chain's own operands."""
    found, at = [], 1
    for i, link in enumerate(w.links):
        inputs = tuple(range(at, at + len(link.inputs) - 1))
        at += len(inputs)
        count = len(link.epilogue.operands) - 1 if i + 1 < len(w.links) else 0
        found.append((inputs, tuple(range(at, at + count))))
        at += count
    return tuple(found)


#: What a kernel's pointer argument is: ("input", i) of the anchor, ("operand", i) of the epilogue (i >= 1, or any i for
#: Pointwise), ("packed", i) = i-th array of prepack(), ("output", i), or ("workspace", 0) = this thread's scratch.
ArgRef = tuple[str, int]

Params = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Kernel:
    """Source text and its calling convention.

    source: a full translation unit.
    entries: exported functions, launched in order with a barrier between them, all with the same arguments `void
        entry(void *const *p, const int64_t *v, int32_t part, int32_t parts)`.
    args: meaning of p[0], p[1], ...
    symbols: meaning of v[0], v[1], ...
    workspace: bytes of scratch per thread, ("workspace", 0).
    shared_workspace: bytes of scratch shared by all threads, ("shared", 0).
    in_place: True if an output element is written once, after every full epilogue operand at that element has been
        read, so that output 0 may share its buffer with such an operand; False for a kernel that keeps partial sums in
        the output.
    grid: blocks in x of a GPU kernel's first entry; later: of its other entries, which are launches of their own.
    """

    source: str
    entries: tuple[str, ...]
    args: tuple[ArgRef, ...]
    symbols: tuple[str, ...]
    workspace: DimLike = 0
    shared_workspace: DimLike = 0
    in_place: bool = True
    grid: DimLike = 0
    later: tuple[DimLike, ...] = ()

    @property
    def code(self) -> str:
        """All that machine code is made of, besides the compiler and the level."""
        return self.source

    def __post_init__(self) -> None:
        missing = (symbols_of(self.workspace) | symbols_of(self.shared_workspace)) - set(self.symbols)
        if missing:
            raise ValueError(f"workspace depends on {sorted(missing)}, which the kernel does not receive")


class Tactic(Protocol):
    """One way to compute a family of workloads. ops: the workload ops it is asked about at all.

    A tactic may also have `packing`, the names of the parameters that the layout of its packed weights depends on (all
    of them if it has none): profiles of one plan prefer to share weights. And `packs`: prepack in two parts, so that
    what several workloads pack alike is packed once (see `packed`).
    """

    name: str
    ops: frozenset[str]

    def accepts(self, w: Workload) -> str | None:
        """None if this tactic can compute `w`; otherwise the reason it declines."""

    def candidates(self, w: Workload) -> Sequence[Params]:
        """Every sensible parameter set, best predicted first; at least one for an accepted workload."""

    def predict(self, w: Workload, params: Params) -> float:
        """Predicted seconds: ranks candidates across tactics before any is compiled."""

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        """The kernel's source; exported names start with `entry`."""

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Constant inputs of the anchor rearranged for the kernel; arrays become ("packed", i)."""


def packed(
    tactic: Tactic, w: Workload, params: Params, constants: Mapping[int, np.ndarray], derived: Derived
) -> tuple[np.ndarray, ...]:
    """As `Tactic.prepack`; of a tactic with `packs`, kept in `derived`. That gives a function of a module, what it
    takes first, and the numbers of the constants that it takes then."""
    packs = getattr(tactic, "packs", None)
    if packs is None:
        return tactic.prepack(w, params, constants)
    function, about, numbers = packs(w, params)
    found: tuple[np.ndarray, ...] = derived(function, about, *(constants[i] for i in numbers))
    return found
