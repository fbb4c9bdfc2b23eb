"""A plan bound to concrete input shapes: profile chosen, every address computed, native contexts made."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2

import numpy as np

from temper.errors import InputError, PlanError
from temper.ir.dims import Dim, parse_dim, solved
from temper.plan.format import (
    Binding,
    DimText,
    HostStep,
    Launch,
    Native,
    Plan,
    Profile,
    Ref,
    TypedRef,
    unpack_attrs,
    value_of,
)
from temper.runtime.cpu import ADDRESS, BINDING, WORKSPACE, Argument, Call, Host, Library, NativeContext
from temper.runtime.memory import address, allocate, view

_NUMPY = {"bfloat16": "uint16", "string": "object"}
_ALIGN = 64

Shapes = tuple[tuple[int, ...], ...]


def numpy_dtype(dtype: str) -> np.dtype:
    """numpy's dtype for an IR dtype: bfloat16 is carried as uint16, string as object."""
    return np.dtype(_NUMPY.get(dtype, dtype))


def shape_text(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def solve(inputs: Sequence[Binding], shapes: Shapes) -> dict[str, int]:
    """Values of the symbols from input shapes. InputError names input, axis, expected and got."""
    env: dict[str, int] = {}
    source: dict[str, str] = {}
    for b, shape in zip(inputs, shapes, strict=True):
        want = f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}"
        if len(shape) != len(b.shape):
            raise InputError(f"{want}: rank {len(shape)} instead of {len(b.shape)}")
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and d.isidentifier():
                if env.setdefault(d, size) != size:
                    raise InputError(f"{want}: {d} is {size} here and {env[d]} in input '{source[d]}'")
                source.setdefault(d, b.name)
            elif isinstance(d, int) and d != size:
                raise InputError(f"{want}: axis {axis} must be {d}, not {size}")
    for b, shape in zip(inputs, shapes, strict=True):
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and not d.isidentifier():
                _solve_expression(b, shape, axis, d, size, env)
    for b, shape in zip(inputs, shapes, strict=True):
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and not d.isidentifier() and (value := value_of(d, env)) != size:
                raise InputError(
                    f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}: "
                    f"axis {axis} must be "
                    f"{d} = {value}, not {size}"
                )
    return env


def _solve_expression(b: Binding, shape: tuple[int, ...], axis: int, d: str, size: int, env: dict[str, int]) -> None:
    """Binds the symbol of a dimension such as 32 * H. InputError if no whole number gives this size."""
    expression = parse_dim(d)
    assert isinstance(expression, Dim)
    if expression.symbols <= env.keys():
        return
    if (found := solved(expression, size)) is None:
        raise InputError(
            f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}: "
            f"axis {axis} must be {d} for a whole number, not {size}"
        )
    env[found[0]] = found[1]


def choose_profile(profiles: Sequence[Profile], env: Mapping[str, int]) -> int:
    """Index of the profile that holds `env` and whose optimum is nearest. InputError lists the profiles if none
    does.
    """

    def distance(p: Profile) -> float:
        total = 0.0
        for name, (low, opt, high) in p.symbols.items():
            size = env.get(name, opt)
            if not low <= size <= high:
                return inf
            total += abs(log2(max(size, 1) / max(opt, 1)))
        return total

    best = min(range(len(profiles)), key=lambda i: distance(profiles[i]))
    if distance(profiles[best]) == inf:
        ranges = "; ".join(
            ", ".join(f"{n} {low} to {high} (best {opt})" for n, (low, opt, high) in sorted(p.symbols.items()))
            for p in profiles
        )
        got = ", ".join(f"{n} = {v}" for n, v in sorted(env.items()))
        raise InputError(
            f"no profile of this plan holds {got}; it was built for {ranges}. "
            "Build with a profile that includes this size"
        )
    return best


class Memory:
    """One context's memory for one profile: arena, shared scratch and every thread's scratch in one block."""

    def __init__(self, profile: Profile, threads: int) -> None:
        def up(n: int) -> int:
            return -(-n // _ALIGN) * _ALIGN

        self.stride = up(profile.workspace_bytes)
        shared, scratch = up(profile.arena_bytes), up(profile.arena_bytes) + up(profile.shared_bytes)
        self.block = allocate(scratch + self.stride * threads)
        self.arena = address(self.block)
        self.shared = self.arena + shared
        self.workspace = self.arena + scratch


@dataclass(frozen=True)
class Code:
    """A plan's machine code in this process."""

    host: Host
    kernels: Library | None

    def function(self, name: str) -> int:
        if self.kernels is None:
            raise PlanError(f"the plan calls {name} but has no machine code; build the plan anew")
        return self.kernels.function(name)


class HostCall:
    """A host step with its constant and arena operands resolved; inputs and outputs come with each run."""

    def __init__(
        self, step: HostStep, env: Mapping[str, int], resolve: Callable[[TypedRef], np.ndarray | None]
    ) -> None:
        from temper.reference import REFERENCES, run  # only plans with host steps load the references

        if step.op not in REFERENCES:
            raise PlanError(
                f"the plan has a host step {step.op}, which this Temper has no reference for; "
                "build the plan anew with this version"
            )
        self.step = step
        self._reference = run
        self._attrs = unpack_attrs(step.attrs, env)
        self._env = env
        self._inputs = [(t, None if t is None else resolve(t)) for t in step.inputs]
        self._outputs = [(t, resolve(t)) for t in step.outputs]
        self._dtypes = [None if t is None else t.dtype for t in step.inputs], [t.dtype for t in step.outputs]

    def _moving(
        self, t: TypedRef, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray], hosts: dict[int, np.ndarray]
    ) -> np.ndarray:
        if t.ref.kind == "host":
            return hosts[t.ref.index]
        base = arrays[t.ref.index] if t.ref.kind == "input" else outputs[t.ref.index]
        shape = tuple(value_of(d, self._env) for d in t.shape)
        if base.dtype == object or (base.dtype == numpy_dtype(t.dtype) and base.size == np.prod(shape, dtype=np.int64)):
            return base.reshape(shape)
        return view(base.reshape(-1).view(np.uint8), value_of(t.ref.offset, self._env), numpy_dtype(t.dtype), shape)

    def run(self, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray], hosts: dict[int, np.ndarray]) -> None:
        ins = [
            None if t is None else fixed if fixed is not None else self._moving(t, arrays, outputs, hosts)
            for t, fixed in self._inputs
        ]
        results = self._reference(self.step.op, ins, self._attrs, *self._dtypes)
        for (t, fixed), y in zip(self._outputs, results, strict=True):
            if t.ref.kind == "host":
                hosts[t.ref.index] = np.asarray(y)
                continue
            target = fixed if fixed is not None else self._moving(t, arrays, outputs, hosts)
            if y.shape != target.shape or y.dtype != target.dtype:
                raise PlanError(
                    f"host step {self.step.name or self.step.op} made {y.dtype}{shape_text(y.shape)}, the plan expects "
                    f"{target.dtype}{shape_text(target.shape)}; build the plan anew with this version"
                )
            np.copyto(target, y)


class Bound:
    """A plan bound to input shapes. One run at a time; `pointers` are the binding addresses, inputs then outputs."""

    def __init__(
        self, plan: Plan, code: Code, memory: Memory, profile: Profile, env: Mapping[str, int], threads: int
    ) -> None:
        self._plan, self._code, self._memory, self._profile, self._env = plan, code, memory, profile, env
        self._constants = address(plan.constants)
        self._threads = threads
        self._values: dict[str, int] = {}
        count = len(plan.inputs) + len(plan.outputs)
        self.pointers = (ctypes.c_void_p * max(1, count))()
        self.bindings = ctypes.addressof(self.pointers)
        self.outputs = tuple((self._shape(b), numpy_dtype(b.dtype)) for b in plan.outputs)
        #: the plan's steps, and what runs each of them
        self.program = plan.programs[profile.program]
        self.steps = tuple(
            self._native(s) if isinstance(s, Native) else HostCall(s, env, self._fixed) for s in self.program
        )
        self.copies = plan.copies
        #: the native context's handle when the program is one native segment and nothing needs copying, the common case
        self.single: int = 0
        #: shapes and dtypes of the outputs whose shapes are known before the run: all of them when `single`
        self.fresh = tuple((shape, dtype) for shape, dtype in self.outputs if shape is not None)
        first = self.steps[0] if len(self.steps) == 1 else None
        if isinstance(first, NativeContext) and not self.copies and len(self.fresh) == len(self.outputs):
            self.single = first.handle

    def value(self, d: DimText) -> int:
        """A dimension or offset at the bound sizes."""
        if isinstance(d, int):
            return d
        if d not in self._values:
            self._values[d] = value_of(d, self._env)
        return self._values[d]

    def _shape(self, b: Binding) -> tuple[int, ...] | None:
        """None if the shape depends on data."""
        try:
            return tuple(self.value(d) for d in b.shape)
        except KeyError:
            return None

    def _argument(self, r: Ref) -> Argument:
        offset = self.value(r.offset)
        if r.kind == "arena":
            return ADDRESS, 0, self._memory.arena + self._profile.offsets[r.index] + offset
        if r.kind == "const":
            return ADDRESS, 0, self._constants + offset
        if r.kind in ("input", "output"):
            return BINDING, r.index + (len(self._plan.inputs) if r.kind == "output" else 0), offset
        if r.kind == "workspace":
            return WORKSPACE, 0, offset
        if r.kind == "shared":
            return ADDRESS, 0, self._memory.shared + offset
        if r.kind == "null":
            return ADDRESS, 0, 0
        raise PlanError(
            f"a kernel's argument is of kind '{r.kind}', which only host steps may use; build the plan anew"
        )

    def address(self, r: Ref) -> int:
        """Where a kernel's argument lies: in this context's memory, the constants, or an array of the current run."""
        kind, index, value = self._argument(r)
        if kind == WORKSPACE:
            raise PlanError("every thread has its own workspace")
        return value + (int(self.pointers[index] or 0) if kind == BINDING else 0)

    def _calls(self, launch: Launch) -> list[Call]:
        arguments = tuple(self._argument(a) for a in launch.args)
        values = tuple(self.value(s) for s in launch.symbols)
        return [
            Call(self._code.function(e), arguments, values, launch.parts, launch.barrier or i > 0)
            for i, e in enumerate(launch.entries)
        ]

    def _native(self, segment: Native) -> NativeContext:
        calls = [c for launch in segment.launches for c in self._calls(launch)]
        return NativeContext(
            self._code.host,
            calls,
            len(self._plan.inputs) + len(self._plan.outputs),
            self._threads,
            self._memory.workspace,
            self._memory.stride,
            (self._code, self._memory, self._plan),
        )

    def _fixed(self, t: TypedRef) -> np.ndarray | None:
        if t.ref.kind not in ("arena", "const"):
            return None
        shape, dtype = tuple(self.value(d) for d in t.shape), numpy_dtype(t.dtype)
        if t.ref.kind == "const":
            return view(np.frombuffer(self._plan.constants, np.uint8), self.value(t.ref.offset), dtype, shape)
        return view(self._memory.block, self._profile.offsets[t.ref.index] + self.value(t.ref.offset), dtype, shape)

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
                    else np.frombuffer(self._plan.constants, np.uint8)
                    if kind == "const"
                    else self._memory.block
                )
                if kind == "arena":
                    offset += self._profile.offsets[index]
                source = view(block, offset, target.dtype, target.shape)
            np.copyto(target, source, casting="no")
