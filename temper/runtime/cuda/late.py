"""GPU plans with data-dependent sizes or control flow: run step by step, with copies on the host and on the device.

Kernels whose sizes depend on data get them when the run reaches them; all others are graphs (late_launches.py). Every
input, output and slot may be on the host, on the device or on both: a host step's results go to the device when a
kernel reads them, and what kernels wrote comes back when a host step reads it. If and Loop are host steps that run
sub-programs, each bound in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any
from weakref import proxy

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError
from temper.plan.format import HostStep, Native, Plan, Profile, Ref, SubProgram, TypedRef
from temper.runtime.binding import Sized
from temper.runtime.cuda.arrays import Block as Pooled
from temper.runtime.cuda.arrays import DeviceArray, Pool
from temper.runtime.cuda.bound import Watch
from temper.runtime.cuda.driver import Memory, Stream
from temper.runtime.cuda.inputs import Given, wrong_shape
from temper.runtime.cuda.late_launches import LateLaunches, prepared
from temper.runtime.cuda.launch import Functions
from temper.runtime.flow import FlowCall
from temper.runtime.memory import allocate, view
from temper.runtime.shapes import shape_text
from temper.runtime.steps import HostCall, Run, sizes_of

#: An array of a run: ("input" | "output" | "host" for a slot, its number).
Key = tuple[str, int]

_ALIGN = 256


def is_late(plan: Plan) -> bool:
    """The plan needs what this module does: late sizes, programs inside nodes, or elements that are not plain bytes."""
    # at sizes that a profile allows: quotients of others may divide by nothing
    known = {s: best for p in plan.profiles for s, (_, best, _) in p.symbols.items()}
    sized = Sized(plan, plan.profiles[0], known)
    if plan.slots or plan.subs or any(shape is None for shape, _ in sized.outputs):
        return True
    hosted = [t for p in plan.programs for s in p if isinstance(s, HostStep) for t in (*s.inputs, *s.outputs)]
    bound = [b.dtype for b in (*plan.inputs, *plan.outputs)]
    return any(kind in ("string", "sequence") for kind in (*bound, *(t.dtype for t in hosted if t is not None)))


class Block:
    """Device memory of one program: the arena and the scratch that launches share."""

    def __init__(self, functions: Functions, profile: Profile) -> None:
        self.shared_at = -(-profile.arena_bytes // _ALIGN) * _ALIGN
        self.memory = functions.gpu.allocate(self.shared_at + profile.shared_bytes, "a program's arena")


class _Copies:
    """Where the arrays of one run are up to date."""

    def __init__(self) -> None:
        self.host: set[Key] = set()
        self.device: set[Key] = set()


class LateBound(Sized):
    """A program bound to the shapes of its inputs. One run at a time.

    steps: what runs each of its segments.
    """

    def __init__(
        self,
        plan: Plan,
        functions: Functions,
        constants: Memory,
        stream: Stream,
        block: Block | None,
        profile: Profile,
        env: Mapping[str, int],
        unit: SubProgram | None = None,
        watch: Watch | None = None,
    ) -> None:
        """block: memory to share with other bindings of the program; None for its own. watch: launches one by one
        instead of as graphs, each within what this returns."""
        super().__init__(plan, profile, env, unit)
        self.functions, self._constants, self.stream = functions, constants, stream
        self.gpu, self.profile, self.watch = functions.gpu, profile, watch
        self.memory = block or Block(functions, profile)
        self.first_slot = len(self._plan.inputs) + len(self._plan.outputs)
        #: host addresses that nobody reads: what the CPU's kernels get
        self.pointers = [0] * (self.first_slot + len(self.slots))
        self.threads = 1
        self._mirror = allocate(profile.arena_bytes)
        self._blocks: dict[Key, Memory] = {}
        self._copies = _Copies()
        #: of a run: callers' arrays on the device, where results go that stay there, and the memory taken for them
        self._given: dict[Key, Given] = {}
        self._pool: Pool | None = None
        self._made: dict[Key, Pooled] = {}
        #: where arrays are on the device
        self._at: dict[Key, int] = {}
        self._scratch: Memory | None = None
        me = proxy(self)  # without a cycle, memory is given back with the last holder
        self.steps = [LateLaunches(s, me) if isinstance(s, Native) else _Host(s, me) for s in self.program]

    # ---- as flow.py uses it

    def sub(self, number: int, env: Mapping[str, int], arrays: Sequence[Any], memory: Any) -> LateBound:
        """A sub-program bound to what it takes: sizes from `env`, and the shapes of its inputs."""
        unit = self.plan.subs[number]
        own = {s: env[s] for s in unit.symbols if s in env}
        for b, a in zip(unit.inputs, arrays, strict=True):
            if isinstance(a, np.ndarray):
                own.update(
                    (d, n) for d, n in zip(b.shape, a.shape, strict=True) if isinstance(d, str) and d.isidentifier()
                )
        return LateBound(
            self.plan, self.functions, self._constants, self.stream, memory, unit.profile, own, unit, self.watch
        )

    def keeps(self, first: int, shapes: Sequence[tuple[int, ...] | None]) -> bool:
        """Its outputs from number `first` on have these shapes, whatever the data are. None: a sequence."""
        return [s for s, _ in self.outputs[first : first + len(shapes)]] == list(shapes)

    def call(self, arrays: Sequence[Any], changed: int | None = None) -> list[Any]:
        """Results on the host, of arrays on the host. changed: only the first so many differ from the last call's."""
        kept: set[Key] = set()
        if changed is not None:
            kept = {k for k in self._copies.device if k[0] == "input" and k[1] >= changed}
        return self.run(arrays, None, kept)

    # ---- runs

    def run(
        self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None, kept: set[Key] | None = None
    ) -> list[Any]:
        """Results on the host, in `targets` where given. kept: inputs whose device copies are still right."""
        run = self.fresh_run(arrays, targets, kept)
        for step in self.steps:
            step.run(run)
        self._finish(run)
        for i in range(len(run.outputs)):
            self.to_host(("output", i), run)
        return run.outputs

    def run_on_device(
        self, arrays: Sequence[Any], targets: Sequence[Given | np.ndarray | None], pool: Pool
    ) -> list[Any]:
        """Results on the device, in `targets` where given, those of no element type of the device on the host.

        arrays: on the host or, as `Given`, on the device. pool: where the memory of results comes from.
        """
        host = [np.empty(x.shape, storage(b.dtype)) if isinstance(x, Given) else x
                for b, x in zip(self._plan.inputs, arrays, strict=True)]  # fmt: skip
        self._given = {("input", i): x for i, x in enumerate(arrays) if isinstance(x, Given)}
        self._given |= {("output", i): x for i, x in enumerate(targets) if isinstance(x, Given)}
        self._pool = pool
        try:
            run = self.fresh_run(host, [None if isinstance(x, Given) else x for x in targets])
            for key in [k for k in self._given if k[0] == "input"]:
                self._copies.host.discard(key)
                self._copies.device.add(key)
                self._at[key] = self._given[key].address
            for step in self.steps:
                step.run(run)
            self._finish(run)
            return [self._kept_on_device(i, t, run) for i, t in enumerate(targets)]
        finally:
            self._given, self._pool, self._made = {}, None, {}

    def _kept_on_device(self, i: int, target: Given | np.ndarray | None, run: Run) -> Any:
        """A result of `run_on_device`."""
        key, b = ("output", i), self._plan.outputs[i]
        if isinstance(target, np.ndarray) or b.dtype in ("string", "sequence"):
            self.to_host(key, run)
            return run.outputs[i]
        self.to_device(key, run)
        if target is not None:
            return target.source
        return DeviceArray(self._made[key], self._size_of(key, run)[0], b.dtype, self.stream)

    def fresh_run(
        self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None, kept: set[Key] | None = None
    ) -> Run:
        outputs = [None if shape is None else np.empty(shape, dtype) for shape, dtype in self.outputs]
        for i, given in enumerate(targets or ()):
            outputs[i] = outputs[i] if given is None else given
        self._copies = _Copies()
        self._copies.host = {("input", i) for i in range(len(arrays))}
        self._copies.device = kept or set()
        return Run(arrays, outputs, self.env)

    def _array(self, key: Key, run: Run) -> Any:
        """The host's array of a key; None if there is none yet."""
        kind, i = key
        return run.arrays[i] if kind == "input" else run.outputs[i] if kind == "output" else run.slots.get(i)

    def _size_of(self, key: Key, run: Run) -> tuple[tuple[int, ...], np.dtype]:
        kind, i = key
        if kind == "input":
            return run.arrays[i].shape, run.arrays[i].dtype
        if kind == "output":
            b = self._plan.outputs[i]
            return sizes_of(b.shape, self, run.env, b.name), storage(b.dtype)
        slot = self.slots[i]
        return sizes_of(slot.shape, self, run.env, slot.name), storage(slot.dtype)

    def to_host(self, key: Key, run: Run) -> None:
        """Brings what kernels wrote back."""
        if key in self._copies.host or key not in self._copies.device:
            return
        shape, dtype = self._size_of(key, run)
        a = self._array(key, run)
        if a is None:
            a = np.empty(shape, dtype)
            (run.outputs if key[0] == "output" else run.slots)[key[1]] = a
        elif a.shape != shape:
            b = self._plan.outputs[key[1]]
            raise InputError(f"out for '{b.name}' has shape {shape_text(a.shape)}, the result {shape_text(shape)}")
        self.stream.wait("waiting for what kernels made")
        if a.nbytes:
            self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, self._at[key], a.nbytes)
        self._copies.host.add(key)

    def to_device(self, key: Key, run: Run) -> int:
        """The device's address of an array, with what the host wrote last; room for it where nobody wrote yet."""
        shape, dtype = self._size_of(key, run)
        nbytes = prod(shape) * dtype.itemsize
        at = self._room(key, shape, nbytes)
        if at != self._at.get(key):
            self._copies.device.discard(key)
            self._at[key] = at
        if key not in self._copies.device:
            a = self._array(key, run)
            if key in self._copies.host and a is not None and nbytes:
                self._upload(at, a)
            self._copies.device.add(key)
        return at

    def _room(self, key: Key, shape: tuple[int, ...], nbytes: int) -> int:
        """The address of device memory for an array of the run."""
        if (given := self._given.get(key)) is not None and given.aligned:
            if given.shape != shape:
                raise wrong_shape(self._plan.outputs[key[1]], "out for", given.shape, shape)
            return given.address
        if self._pool is not None and key[0] == "output":
            if key not in self._made:
                self._made[key] = self._pool.take(nbytes, f"'{self._plan.outputs[key[1]].name}'")
            return self._made[key].memory.address
        block = self._blocks.get(key)
        if block is None or block.nbytes < nbytes:
            self.stream.wait("waiting for room")
            block = self._blocks[key] = self.gpu.allocate(max(nbytes, 1), "an array made during the run")
        return block.address

    def _upload(self, address: int, a: np.ndarray) -> None:
        """Puts a copy of a host array on the stream; the array has been read when this returns."""
        whole = np.ascontiguousarray(a)
        self.gpu.driver("cuMemcpyHtoDAsync", address, whole.ctypes.data, whole.nbytes, self.stream.handle)

    def wrote_on_host(self, key: Key) -> None:
        self._copies.host.add(key)
        self._copies.device.discard(key)

    def wrote_on_device(self, key: Key) -> None:
        self._copies.device.add(key)
        self._copies.host.discard(key)

    def place(self, r: Ref, env: Mapping[str, int]) -> int:
        """The device's address of an argument that is not an array of the run."""
        offset = self.value(r.offset, env)
        if r.kind == "arena":
            return self.memory.memory.address + self.profile.offsets[r.index] + offset
        if r.kind == "const":
            return self._constants.address + offset
        return self.memory.memory.address + self.memory.shared_at + offset if r.kind == "shared" else 0

    def shared(self, nbytes: int) -> int:
        """Scratch for a launch that needs more than was known at build."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self.stream.wait("waiting for room")
            self._scratch = self.gpu.allocate(nbytes, "scratch of sizes found in data")
        return self._scratch.address

    @property
    def host_arena(self) -> np.ndarray:
        return self._mirror

    def fetch(self, t: TypedRef, run: Run) -> None:
        """Brings what a host step reads to the host."""
        if t.ref.kind in ("input", "output", "host"):
            self.to_host((t.ref.kind, t.ref.index), run)
        elif t.ref.kind == "arena":
            a = self.view(t, run.env)
            self.stream.wait("waiting for the operands of a host step")
            if a.nbytes:
                self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, self.place(t.ref, run.env), a.nbytes)

    def give(self, t: TypedRef, run: Run) -> None:
        """Takes note of what a host step made; what is in the arena goes to the device."""
        if t.ref.kind in ("output", "host"):
            self.wrote_on_host((t.ref.kind, t.ref.index))
        elif t.ref.kind == "arena":
            a = self.view(t, run.env)
            if a.nbytes:
                self._upload(self.place(t.ref, run.env), a)

    def _finish(self, run: Run) -> None:
        """Fills the outputs that are copies."""
        for c in self.copies:
            r, target, key = c.source, run.outputs[c.output], ("output", c.output)
            if r.kind == "arena" and self._pool is not None:
                shape, dtype = self._size_of(key, run)
                at, nbytes = self.to_device(key, run), prod(shape) * dtype.itemsize
                if nbytes:
                    self.gpu.driver("cuMemcpyDtoDAsync", at, self.place(r, run.env), nbytes, self.stream.handle)
                self.wrote_on_device(key)
                continue
            self.wrote_on_host(key)
            if r.kind in ("input", "output", "host"):
                self.to_host((r.kind, r.index), run)
                source = self._array((r.kind, r.index), run)
                if target is None or not isinstance(source, np.ndarray):
                    run.outputs[c.output] = source
                    continue
                if r.kind == "host" and target.shape != source.shape:
                    b = self._plan.outputs[c.output]
                    raise InputError(
                        f"out for '{b.name}' has shape {shape_text(target.shape)}, the result "
                        f"{shape_text(source.shape)}"
                    )
                if source.dtype != object:
                    source = view(source.reshape(-1).view(np.uint8), self.value(r.offset), target.dtype, target.shape)
                np.copyto(target, source.reshape(target.shape), casting="no")
            elif r.kind == "const":
                block = np.frombuffer(self.plan.constants, np.uint8)
                np.copyto(target, view(block, self.value(r.offset), target.dtype, target.shape), casting="no")
            elif target.nbytes:
                self.stream.wait("waiting for an output")
                self.gpu.driver("cuMemcpyDtoH", target.ctypes.data, self.place(r, run.env), target.nbytes)


class _Host:
    """A host step between launches, or an If or a Loop."""

    def __init__(self, step: Any, bound: LateBound) -> None:
        self.step, self.bound = step, bound
        self._call: HostCall = (FlowCall if step.subs else HostCall)(step, bound)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        return self.step.name or self.step.op

    def run(self, run: Run) -> None:
        for t in self.step.inputs:
            if t is not None:
                self.bound.fetch(t, run)
        for t in self.step.outputs:  # a step may write a part of an output
            if t.ref.kind == "output":
                self.bound.fetch(t, run)
        self._call.run(run)
        for t in self.step.outputs:
            self.bound.give(t, run)


def step_times(bound: LateBound, arrays: Sequence[Any], repeats: int) -> list[tuple[str, float, int, bool]]:
    """(name, least wall seconds, row of the report, on the host) of every launch and host step, transfers included."""
    best: list[float] = []
    rows: list[tuple[str, int, bool]] = []
    for _ in range(max(1, repeats)):
        run, times = bound.fresh_run(arrays, None), []
        rows = []
        for segment, step in zip(bound.program, bound.steps, strict=True):
            parts = segment.launches if isinstance(segment, Native) else (None,)
            for x in parts:
                start = time.perf_counter()
                if x is not None:
                    if (call := prepared(x, bound, run)) is not None:
                        call.run(bound.stream.handle)
                    rows.append((x.name, x.report, False))
                else:
                    step.run(run)
                    rows.append((step.name, segment.report, True))  # type: ignore[union-attr]
                bound.stream.wait("timing a step")
                times.append(time.perf_counter() - start)
        best = [min(a, b) for a, b in zip(best, times, strict=True)] if best else times
    return [(name, s, report, host) for (name, report, host), s in zip(rows, best, strict=True)]
