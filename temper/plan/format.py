"""The plan: dataclasses of everything the runtime needs. How it is stored: file.py."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from temper.ir.dims import Dim, evaluate, parse_dim
from temper.plan.container import FORMAT_VERSION, Buffer

#: Version of the C interface in compile/host/host.h; a plan carries a host library of exactly one.
HOST_ABI = 1

#: A dimension or byte count in a plan: an int, or the text of a `Dim` in the plan's symbols.
DimText = int | str

REF_KINDS = ("arena", "const", "input", "output", "workspace", "shared", "null", "host")


def value_of(d: DimText, env: Mapping[str, int]) -> int:
    """Value of an int or a dimension's text under `env`; KeyError names an unbound symbol."""
    return d if isinstance(d, int) else evaluate(parse_dim(d), env)


@dataclass(frozen=True)
class Ref:
    """Where an argument lives, in bytes.

    kind, and what index and offset mean for it:

    - "arena": row of the buffer table.
    - "const": the index is unused, the offset is into the constants section.
    - "input", "output": number of the binding.
    - "workspace": scratch of the running thread. "shared": scratch of all threads. "null": a null pointer.
    - "host": row of `Plan.slots`: an array made during the run, since its size depends on data or its elements are
      strings.
    """

    kind: str
    index: int = 0
    offset: DimText = 0

    def __post_init__(self) -> None:
        if self.kind not in REF_KINDS:
            raise ValueError(f"unknown kind of reference {self.kind!r}; one of {', '.join(REF_KINDS)}")


@dataclass(frozen=True)
class TypedRef:
    """A dense array at a `Ref`."""

    ref: Ref
    dtype: str
    shape: tuple[DimText, ...]


@dataclass(frozen=True)
class Launch:
    """A kernel call: `entries` run in order with a barrier between them, all with the same arguments.

    parts: shares the work is split into, fixed by the plan; parts = 1 runs on the calling thread without waking others.
    barrier: False if this launch may overlap with the one before it.
    writes: indices of the `args` that the kernel writes.
    name: source layer names, for reports.
    report: row of the build report, or -1.
    work: number of elements it writes where that depends on data; a launch of none is left out.
    scratch: bytes of workspace per thread and of shared workspace where those depend on data; Profile has the greatest
        of all others.
    grid: blocks of a GPU kernel.
    """

    entries: tuple[str, ...]
    args: tuple[Ref, ...]
    symbols: tuple[str, ...] = ()
    parts: int = 1
    barrier: bool = True
    writes: tuple[int, ...] = ()
    name: str = ""
    report: int = -1
    work: DimText = 1
    scratch: tuple[DimText, DimText] = (0, 0)
    grid: DimText = 0

    def __post_init__(self) -> None:
        if not self.entries or self.parts < 1:
            raise ValueError(f"launch {self.name!r} needs at least one entry and one part")
        if not self.barrier and any(a.kind == "shared" for a in self.args):
            raise ValueError(f"launch {self.name!r} uses the shared workspace and so needs a barrier")


@dataclass(frozen=True)
class HostStep:
    """An op run by its numpy reference between native segments.

    attrs: as made by `pack_attrs`.
    inputs: None where an optional input is absent.
    outputs: a dimension that is an unbound symbol is bound by the result.
    binds: symbols whose values are the elements of the first output; "" for an element that is none.
    subs: rows of `Plan.subs`, the programs that an If (then, other) or a Loop (body) runs.
    """

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[TypedRef | None, ...]
    outputs: tuple[TypedRef, ...]
    reason: str
    name: str = ""
    report: int = -1
    binds: tuple[str, ...] = ()
    subs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Native:
    """A run of launches executed by one call into the host library."""

    launches: tuple[Launch, ...]


Segment = Native | HostStep


@dataclass(frozen=True)
class Binding:
    """A model input or output."""

    name: str
    dtype: str
    shape: tuple[DimText, ...]


@dataclass(frozen=True)
class Copy:
    """After the last segment, output `output` is copied from `source`: an output that is an input, a constant, or
    another output.
    """

    output: int
    source: Ref


@dataclass(frozen=True)
class ArenaBuffer:
    """A row of the buffer table. bytes: size; first, last: first and last step (launch or host step, counted through
    the program).
    """

    name: str
    bytes: DimText
    first: int
    last: int


@dataclass(frozen=True)
class Slot:
    """An array made during the run: by the host step that writes it, or, with this type, for the first launch that
    does. last: the last step that reads it; -1 if it is read after all of them.
    """

    name: str
    dtype: str
    shape: tuple[DimText, ...]
    last: int = -1


@dataclass(frozen=True)
class Profile:
    """A range of run-time dimensions and the memory laid out for its maximum.

    symbols: name -> (min, opt, max).
    offsets: arena offset of each row of the buffer table (-1: unused here).
    arena_bytes, workspace_bytes, shared_bytes: sizes at the maximum; the workspace's is per thread.
    program: which of Plan.programs it runs.
    """

    symbols: Mapping[str, tuple[int, int, int]]
    offsets: tuple[int, ...]
    arena_bytes: int
    workspace_bytes: int = 0
    shared_bytes: int = 0
    program: int = 0


@dataclass(frozen=True)
class SubProgram:
    """What a step runs: a branch or a loop's body, with memory of its own; code and constants are the plan's.

    symbols: sizes it takes over from the program around it; its inputs bind the others. profile: of the one range of
    sizes it was made for; its program is number 0.
    """

    name: str
    symbols: tuple[str, ...]
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profile: Profile
    buffers: tuple[ArenaBuffer, ...]
    segments: tuple[Segment, ...]
    slots: tuple[Slot, ...] = ()

    @property
    def programs(self) -> tuple[tuple[Segment, ...], ...]:
        return (self.segments,)

    @property
    def copies(self) -> tuple[Copy, ...]:
        return ()


@dataclass(frozen=True)
class Plan:
    """Everything an engine is made of.

    fingerprint: the machine it was tuned on (runtime.machine.fingerprint).
    isa, needs: code level, and the CPU flags it requires.
    threads: number of threads it was tuned for.
    constants: bytes, at a 64-byte aligned address when read from a file.
    device: "cpu" or "cuda".
    kernels, host: shared objects; of a GPU plan, kernels is an archive of cubins (cubins.py) and host is empty.
    report: the build report, JSON-able.
    graph: portable graph for `temper rebuild`, or empty.
    """

    fingerprint: Mapping[str, Any]
    isa: str
    needs: tuple[str, ...]
    threads: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: tuple[Profile, ...]
    buffers: tuple[ArenaBuffer, ...]
    programs: tuple[tuple[Segment, ...], ...]
    constants: Buffer
    kernels: Buffer
    host: Buffer
    copies: tuple[Copy, ...] = ()
    slots: tuple[Slot, ...] = ()
    subs: tuple[SubProgram, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    graph: Buffer = b""
    host_abi: int = HOST_ABI
    device: str = "cpu"
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.profiles:
            raise ValueError("a plan needs at least one profile")
        for p in self.profiles:
            if not 0 <= p.program < len(self.programs) or len(p.offsets) != len(self.buffers):
                raise ValueError("a profile names a program that does not exist, or has not one offset per buffer")


# ---- attributes of host steps


def pack_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Op attributes as JSON-able values; TypeError names one that has no such form (a sub-graph)."""

    def pack(name: str, v: Any) -> Any:
        if isinstance(v, Dim):
            return {"dim": str(v)}
        if isinstance(v, np.ndarray):
            data = base64.b64encode(np.ascontiguousarray(v).tobytes()).decode()
            return {"dtype": v.dtype.str, "shape": list(v.shape), "data": data}
        if isinstance(v, (tuple, list)):
            return [pack(name, x) for x in v]
        if isinstance(v, np.generic):
            return v.item()
        if isinstance(v, (bool, int, float, str)):
            return v
        raise TypeError(f"attribute {name} of type {type(v).__name__} cannot be stored in a plan")

    return {k: pack(k, v) for k, v in attrs.items()}


def unpack_attrs(attrs: Mapping[str, Any], env: Mapping[str, int]) -> dict[str, Any]:
    """Inverse of `pack_attrs` with dimensions evaluated under `env`; sequences become tuples."""

    def unpack(v: Any) -> Any:
        if isinstance(v, dict) and "dim" in v:
            return value_of(v["dim"], env)
        if isinstance(v, dict):
            return np.frombuffer(base64.b64decode(v["data"]), dtype=np.dtype(v["dtype"])).reshape(v["shape"])
        if isinstance(v, list):
            return tuple(unpack(x) for x in v)
        return v

    return {k: unpack(v) for k, v in attrs.items()}
