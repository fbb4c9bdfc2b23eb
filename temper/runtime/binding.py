"""A plan bound to concrete input shapes: profile chosen, every address computed, native contexts made."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import proxy

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError, PlanError
from temper.ir.dims import Dim, evaluate, parse_dim
from temper.plan.container import unpack_strings
from temper.plan.format import (
    Binding,
    DimText,
    Launch,
    Native,
    Plan,
    Profile,
    Ref,
    Segment,
    SubProgram,
    TypedRef,
)
from temper.runtime.cpu import ADDRESS, BINDING, WORKSPACE, Argument, Call, Host, Library, NativeContext
from temper.runtime.flow import FlowCall
from temper.runtime.memory import address, allocate, data_address, view
from temper.runtime.shapes import shape_text
from temper.runtime.steps import HostCall, NativeCall, Run, sizes_of

_ALIGN = 64


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


class Memory:
    """One context's memory for one profile: arena, shared scratch and every thread's scratch in one block.

    size: bytes of the shared scratch.
    """

    def __init__(self, profile: Profile, threads: int) -> None:
        self.stride = _up(profile.workspace_bytes)
        self.size = profile.shared_bytes
        shared, scratch = _up(profile.arena_bytes), _up(profile.arena_bytes) + _up(profile.shared_bytes)
        self.block = allocate(scratch + self.stride * threads)
        self.arena = address(self.block)
        self.shared = self.arena + shared
        self.workspace = self.arena + scratch


class Scratch:
    """Scratch of a segment that needs more than its profile's for the sizes found in the data."""

    def __init__(self, stride: int, shared: int, threads: int) -> None:
        self.stride = _up(stride)
        self.block = allocate(_up(shared) + self.stride * threads)
        self.shared = address(self.block)
        self.workspace = self.shared + _up(shared)


def _refs(segment: Segment) -> Iterator[Ref]:
    if isinstance(segment, Native):
        for launch in segment.launches:
            yield from launch.args
    else:
        yield from (t.ref for t in (*segment.inputs, *segment.outputs) if t is not None)


@dataclass(frozen=True)
class Code:
    """A plan's machine code in this process."""

    host: Host
    kernels: Library | None

    def function(self, name: str) -> int:
        if self.kernels is None:
            raise PlanError(f"the plan calls {name} but has no machine code; build the plan anew")
        return self.kernels.function(name)


class Sized:
    """A program at the sizes known before its run.

    env: those sizes. outputs: shape (None where it depends on data) and dtype of each.
    """

    def __init__(self, plan: Plan, profile: Profile, env: Mapping[str, int], unit: SubProgram | None = None) -> None:
        """unit: the sub-program to bind instead of the plan's own program."""
        self.plan = plan
        self._plan = unit or plan
        self._profile, self.env = profile, env
        self._values: dict[str, int] = {}
        self._late: dict[str, Dim] = {}
        self.slots = self._plan.slots
        self.outputs = tuple((self._shape(b), storage(b.dtype)) for b in self._plan.outputs)
        self.program = self._plan.programs[profile.program]
        self.copies = self._plan.copies

    def value(self, d: DimText, env: Mapping[str, int] | None = None) -> int:
        """A dimension or offset at the sizes known before the run or, with `env`, at those and others found in data."""
        if isinstance(d, int):
            return d
        if d in self._values:
            return self._values[d]
        if d in self._late:
            if env is None:
                raise KeyError(d)
            return self._late[d].evaluate(env)
        found = parse_dim(d)
        if isinstance(found, Dim) and not found.symbols <= self.env.keys():
            self._late[d] = found
            return self.value(d, env)
        self._values[d] = evaluate(found, self.env)
        return self._values[d]

    def unknown(self, texts: Iterable[DimText]) -> tuple[str, ...]:
        """The symbols of these dimensions that are not known before the run, sorted."""
        symbols: set[str] = set()
        for d in texts:
            try:
                self.value(d)
            except KeyError:
                symbols |= self._late[str(d)].symbols - self.env.keys()
        return tuple(sorted(symbols))

    def _shape(self, b: Binding) -> tuple[int, ...] | None:
        """None if the shape depends on data, or if it is a sequence."""
        return None if b.dtype == "sequence" or self.unknown(b.shape) else tuple(self.value(d) for d in b.shape)

    def extent(self, r: Ref) -> tuple[int, int]:
        """The first byte, and the last one + 1, of the arena's buffer that an argument lies in."""
        at = self._profile.offsets[r.index]
        return at, at + self.value(self._plan.buffers[r.index].bytes)

    @property
    def host_arena(self) -> np.ndarray:
        """The arena's bytes where steps on the host work."""
        raise NotImplementedError

    def view(self, t: TypedRef, env: Mapping[str, int]) -> np.ndarray:
        """The array at a place in the host's arena, or among the constants."""
        shape, dtype = tuple(self.value(d, env) for d in t.shape), storage(t.dtype)
        offset = self.value(t.ref.offset, env)
        if t.ref.kind == "const" and t.dtype == "string":
            return unpack_strings(memoryview(self.plan.constants)[offset:], shape)
        if t.ref.kind == "const":
            return view(np.frombuffer(self.plan.constants, np.uint8), offset, dtype, shape)
        return view(self.host_arena, self._profile.offsets[t.ref.index] + offset, dtype, shape)

    def output_shape(self, i: int) -> tuple[DimText, ...]:
        return self._plan.outputs[i].shape

    def late_output(self, run: Run, i: int) -> np.ndarray:
        """The array of an output whose shape depends on data: the caller's, if its shape is right, or a new one."""
        b = self._plan.outputs[i]
        shape = sizes_of(b.shape, self, run.env, b.name)
        given = run.outputs[i]
        if given is None:
            return np.empty(shape, storage(b.dtype))
        if given.shape != shape:
            raise InputError(f"out for '{b.name}' has shape {shape_text(given.shape)}, the result {shape_text(shape)}")
        return given


class Bound(Sized):
    """A plan bound to input shapes. One run at a time; `pointers` are the binding addresses: inputs, outputs, slots.

    program, steps: the plan's segments, and what runs each of them.
    """

    def __init__(
        self,
        plan: Plan,
        code: Code,
        memory: Memory,
        profile: Profile,
        env: Mapping[str, int],
        threads: int,
        unit: SubProgram | None = None,
    ) -> None:
        super().__init__(plan, profile, env, unit)
        self.code, self._memory = code, memory
        self._constants = address(plan.constants)
        self.threads = threads
        self._run = code.host.run
        self.first_slot = len(self._plan.inputs) + len(self._plan.outputs)
        self.pointers = (ctypes.c_void_p * max(1, self.first_slot + len(self.slots)))()
        self.bindings = ctypes.addressof(self.pointers)
        me: Bound = proxy(self)  # without a cycle, memory is given back with the last holder
        self.steps = tuple(_step(s, me) for s in self.program)
        self._drops = self._last_uses()
        #: the native context's handle when the program is one native segment and nothing needs copying, the common case
        self.single: int = 0
        #: shapes and dtypes of the outputs whose shapes are known before the run: all of them when `single`
        self.fresh = tuple((shape, dtype) for shape, dtype in self.outputs if shape is not None)
        first = self.steps[0] if len(self.steps) == 1 else None
        if isinstance(first, NativeCall) and first.fixed and not self.copies and len(self.fresh) == len(self.outputs):
            assert first.context is not None
            self.single = first.context.handle

    def sub(self, number: int, env: Mapping[str, int], arrays: Sequence[Any], memory: Memory | None) -> Bound:
        """A sub-program bound to what it takes: sizes from `env`, and the shapes of its inputs."""
        unit = self.plan.subs[number]
        own = {s: env[s] for s in unit.symbols if s in env}
        for b, a in zip(unit.inputs, arrays, strict=True):
            if isinstance(a, np.ndarray):
                own.update(
                    (d, n) for d, n in zip(b.shape, a.shape, strict=True) if isinstance(d, str) and d.isidentifier()
                )
        memory = memory or Memory(unit.profile, self.threads)
        return Bound(self.plan, self.code, memory, unit.profile, own, self.threads, unit)

    @property
    def host_arena(self) -> np.ndarray:
        return self._memory.block

    @property
    def memory(self) -> Memory:
        return self._memory

    def keeps(self, first: int, shapes: Sequence[tuple[int, ...] | None]) -> bool:
        """Its outputs from number `first` on have these shapes, whatever the data are. None: a sequence."""
        return [s for s, _ in self.outputs[first : first + len(shapes)]] == list(shapes)

    def call(self, arrays: Sequence[Any], changed: int | None = None) -> list[Any]:
        """Results of a bound sub-program; arrays must be contiguous and of the shapes it is bound to.

        changed: only the first so many differ from those of the last call.
        """
        pointers = self.pointers
        for k, a in enumerate(arrays if changed is None else arrays[:changed]):
            pointers[k] = data_address(a) if type(a) is np.ndarray else 0
        i = len(arrays)
        if self.single:
            outputs = []
            for shape, dtype in self.fresh:
                a = np.empty(shape, dtype)
                pointers[i] = data_address(a)
                outputs.append(a)
                i += 1
            self._run(self.single, self.bindings)
            return outputs
        results = [None if shape is None else np.empty(shape, dtype) for shape, dtype in self.outputs]
        for a in results:
            pointers[i] = 0 if a is None else data_address(a)
            i += 1
        self.execute(Run(arrays, results, self.env))
        return results

    def _last_uses(self) -> list[list[int]]:
        """For every step the slots that nothing after it reads."""
        ends, at = [], -1
        for s in self.program:
            at += len(s.launches) if isinstance(s, Native) else 1
            ends.append(at)
        drops: list[list[int]] = [[] for _ in ends]
        used = {r.index for s in self.program for r in _refs(s) if r.kind == "host"}
        copied = {c.source.index for c in self.copies if c.source.kind == "host"}
        for i in sorted(used - copied):
            if 0 <= self.slots[i].last <= at:
                drops[next(k for k, end in enumerate(ends) if end >= self.slots[i].last)].append(i)
        return drops

    def execute(self, run: Run) -> None:
        """Every step in order, then the outputs that are copies."""
        for step, dropped in zip(self.steps, self._drops, strict=True):
            step.run(run)
            for i in dropped:
                run.slots.pop(i, None)
        self.finish(run.arrays, run.outputs, run.slots)

    def _argument(self, r: Ref, env: Mapping[str, int] | None) -> Argument:
        offset = self.value(r.offset, env)
        if r.kind == "arena":
            return ADDRESS, 0, self._memory.arena + self._profile.offsets[r.index] + offset
        if r.kind == "const":
            return ADDRESS, 0, self._constants + offset
        if r.kind in ("input", "output"):
            return BINDING, r.index + (len(self._plan.inputs) if r.kind == "output" else 0), offset
        if r.kind == "host" and r.index < len(self.slots):
            return BINDING, self.first_slot + r.index, offset
        if r.kind == "workspace":
            return WORKSPACE, 0, offset
        if r.kind == "shared":
            return ADDRESS, 0, self._memory.shared + offset
        if r.kind == "null":
            return ADDRESS, 0, 0
        raise PlanError(f"a kernel's argument is in slot {r.index}, which the plan does not have; build the plan anew")

    def address(self, r: Ref, env: Mapping[str, int] | None = None) -> int:
        """Where a kernel's argument lies: in this context's memory, the constants, or an array of the current run."""
        kind, index, value = self._argument(r, env)
        if kind == WORKSPACE:
            raise PlanError("every thread has its own workspace")
        return value + (int(self.pointers[index] or 0) if kind == BINDING else 0)

    def _calls(self, launch: Launch, env: Mapping[str, int] | None, shared: int) -> list[Call]:
        arguments = tuple(
            (ADDRESS, 0, shared) if shared and a.kind == "shared" else self._argument(a, env) for a in launch.args
        )
        values = tuple(self.value(s, env) for s in launch.symbols)
        return [
            Call(self.code.function(e), arguments, values, launch.parts, launch.barrier or i > 0)
            for i, e in enumerate(launch.entries)
        ]

    def native(self, segment: Native, env: Mapping[str, int] | None) -> NativeContext:
        """A segment's calls with every address resolved. env: all sizes, if some are found in data."""
        memory = self._memory
        scratch = [[self.value(b, env) for b in launch.scratch] for launch in segment.launches]
        own: Scratch | None = None
        if any(map(any, scratch)):
            own = Scratch(
                max(memory.stride, *(a for a, _ in scratch)), max(memory.size, *(b for _, b in scratch)), self.threads
            )
        calls = [
            c
            for launch in segment.launches
            if self.value(launch.work, env) > 0
            for c in self._calls(launch, env, own.shared if own else 0)
        ]
        return NativeContext(
            self.code.host,
            calls,
            len(self.pointers),
            self.threads,
            own.workspace if own else memory.workspace,
            own.stride if own else memory.stride,
            (self.code, memory, self.plan, own),
        )

    def finish(self, arrays: Sequence[np.ndarray], outputs: list[np.ndarray], hosts: Mapping[int, np.ndarray]) -> None:
        """Fills the outputs that are copies."""
        for c in self.copies:
            kind, index, offset = c.source.kind, c.source.index, self.value(c.source.offset)
            target = outputs[c.output]
            if kind == "host":
                source = hosts[index]
                if target is None:
                    outputs[c.output] = source
                    continue
                if target.shape != source.shape:
                    raise InputError(
                        f"out for '{self._plan.outputs[c.output].name}' has shape {shape_text(target.shape)}, "
                        f"the result "
                        f"{shape_text(source.shape)}"
                    )
            elif kind in ("input", "output") and (arrays if kind == "input" else outputs)[index].dtype == object:
                source = (arrays if kind == "input" else outputs)[index].reshape(target.shape)
            else:
                block = (
                    arrays[index].reshape(-1).view(np.uint8)
                    if kind == "input"
                    else outputs[index].reshape(-1).view(np.uint8)
                    if kind == "output"
                    else np.frombuffer(self.plan.constants, np.uint8)
                    if kind == "const"
                    else self._memory.block
                )
                if kind == "arena":
                    offset += self._profile.offsets[index]
                source = view(block, offset, target.dtype, target.shape)
            np.copyto(target, source, casting="no")


def _step(s: Segment, bound: Bound) -> NativeCall | HostCall | FlowCall:
    """What runs a segment."""
    if isinstance(s, Native):
        return NativeCall(s, bound)
    return FlowCall(s, bound) if s.subs else HostCall(s, bound)
