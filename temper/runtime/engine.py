"""The engine: a plan loaded into this process, called with numpy arrays."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.dtypes import ML_FLOATS, storage
from temper.errors import ConfigError, InputError, PlanError, TemperError
from temper.plan import file as plan_file
from temper.plan.format import Binding, DimText, Native, Plan, Profile
from temper.runtime import machine
from temper.runtime.binding import Bound, Code, Memory, Sized
from temper.runtime.cpu import Host, Library
from temper.runtime.memory import address, allocate, data_address
from temper.runtime.shapes import Shapes, choose_profile, shape_text, solve
from temper.runtime.steps import NativeCall, Run

if TYPE_CHECKING:
    from temper.runtime.cuda.context import CudaPlan
    from temper.runtime.cuda.driver import Gpu

Result = np.ndarray | dict[str, np.ndarray]

#: Shapes a context keeps bound; the oldest is dropped, and binding it again costs about a millisecond.
_KEPT_SHAPES = 64


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output: dtype as numpy sees it; a dimension is an int or the text of an expression in the
    plan's symbols. A name that starts with an underscore is a size found in the data. A sequence (given as a list of
    arrays, returned as a tuple of them) has dtype object and no dimensions.
    """

    name: str
    dtype: np.dtype
    shape: tuple[DimText, ...]


@dataclass(frozen=True)
class LayerTime:
    """Measured time of one step. report: row of the build report or -1; host: True for a numpy step."""

    name: str
    seconds: float
    report: int
    host: bool


def check_machine(plan: Plan) -> tuple[str, ...]:
    """PlanError if this CPU cannot run the plan; otherwise remarks (tuned on another CPU), empty when all fits. What a
    GPU plan needs is checked on its GPU."""
    if plan.device != "cpu":
        return ()
    if platform.machine() not in ("x86_64", "AMD64"):
        raise PlanError(
            f"the plan holds x86-64 code, this machine is {platform.machine()}; build the model on this machine"
        )
    missing = sorted(set(plan.needs) - machine.cpu_flags())
    if missing:
        raise PlanError(
            f"the plan was built for {plan.isa} and needs CPU flags this machine ({machine.cpu_name()}) lacks: "
            f"{', '.join(missing)}; "
            "build the model on this machine, or for a lower code level with TEMPER_ISA"
        )
    here = machine.fingerprint()
    differs = [k for k in sorted(plan.fingerprint) if plan.fingerprint[k] != here.get(k)]
    if differs:
        return (
            f"tuned on {plan.fingerprint.get('cpu', 'another machine')}, running on {here['cpu']} "
            f"(differs in {', '.join(differs)}): "
            "results are the same, speed may not be; `temper rebuild` re-tunes",
        )
    return ()


def gpu_number(device: str) -> int:
    """Which GPU "cuda:1" names; "" and "cuda" are the first. ConfigError for anything else."""
    kind, _, number = device.partition(":")
    if device and (kind != "cuda" or (number and not number.isdecimal())):
        raise ConfigError(f"a GPU plan cannot run on {device!r}: give cuda, or cuda:N for the N-th GPU")
    return int(number or 0)


class Engine:
    """A loaded plan. Calls from many threads run at once, each in a context of its own."""

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int | None = None,
        spin_us: int | None = None,
        gpu: Gpu | None = None,
        device: str = "",
        defer: bool = False,
    ) -> None:
        """threads: at most this many, the plan's number if None; never more than the CPUs this process may use.
        spin_us: how long idle pool threads spin before they sleep, process-wide; the library's default if None.
        device: where a GPU plan runs: "cuda:1" is the second GPU, "" the first. gpu: the same as an object. defer: the
        GPU is looked for at the first run, so that a plan for one that is not here can be held. PlanError if this
        machine cannot run the plan; DeviceError if the GPU cannot be used; ConfigError for another device.
        """
        self.remarks = check_machine(plan)
        constants = plan.constants
        if address(constants) % 64:
            block = allocate(len(constants))
            block[:] = np.frombuffer(constants, np.uint8)
            plan = Plan(**{**vars(plan), "constants": block.data})
        self.plan = plan
        self.threads = max(1, min(threads or plan.threads, machine.cores(), 256))
        self._cuda: CudaPlan | None = None
        if plan.device == "cuda":
            self._gpu: Gpu | int = gpu_number(device) if gpu is None else gpu
            if not defer:
                self._shared  # noqa: B018 - finds the GPU
        else:
            if device not in ("", "cpu"):
                raise ConfigError(f"the plan was built for the CPU, it cannot run on {device!r}: build it for that")
            self._code = Code(Host.get(plan.host, plan.host_abi), Library(plan.kernels) if len(plan.kernels) else None)
            if spin_us is not None:
                self._code.host.set_spin(spin_us)
        self._arity = len(plan.inputs)
        self._only = plan.outputs[0].name if len(plan.outputs) == 1 else None
        self._names = tuple(b.name for b in plan.outputs)
        self._idle: list[Context] = []

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        spin_us: int | None = None,
        device: str = "",
    ) -> Engine:
        """Map a plan file, check it, and make an engine. PlanError names the damaged section, missing CPU flags or
        other version.
        """
        return cls(plan_file.read(path), threads=threads, spin_us=spin_us, device=device)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, *, threads: int | None = None, spin_us: int | None = None) -> Engine:
        """As `load`, from the bytes of a plan file."""
        return cls(plan_file.from_bytes(data), threads=threads, spin_us=spin_us)

    @property
    def _shared(self) -> CudaPlan | None:
        """What all contexts share on the GPU; None on a CPU."""
        if self._cuda is None and self.plan.device == "cuda":
            from temper.runtime.cuda.context import CudaPlan
            from temper.runtime.cuda.driver import Gpu

            self._cuda = CudaPlan(self.plan, Gpu(self._gpu) if isinstance(self._gpu, int) else self._gpu)
        return self._cuda

    @property
    def device_name(self) -> str:
        """"cpu", or the name of the GPU it runs on."""
        return "cpu" if self._shared is None else self._shared.gpu.name

    def __repr__(self) -> str:
        """What it takes and gives, and what it is for."""
        takes, gives = (", ".join(map(_describe, b)) for b in (self.plan.inputs, self.plan.outputs))
        where = "" if self.plan.device == "cuda" else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"<Engine {takes} -> {gives}; {self.plan.isa}{where}>"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(b) for b in self.plan.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(b) for b in self.plan.outputs)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        return self.plan.profiles

    @property
    def report(self) -> Mapping[str, Any]:
        return self.plan.report

    def context(self, *, stream: Any = None, ranges: bool = False) -> Context:
        """An independent execution context with memory of its own, for one thread at a time.

        Of a GPU plan: stream: where it works, as a handle (int) or a stream of PyTorch or CuPy; calls with arrays on
        the GPU then return at once, in order with what else is on that stream. None: a stream of its own, whose calls
        return when the results are there. ranges: marks layers with NVTX ranges for Nsight Systems (slower: kernels
        are launched one by one). ConfigError for a CPU plan with either.
        """
        if self._shared is not None and self._shared.late:
            from temper.runtime.cuda.late_context import LateContext

            return LateContext(self, self._shared, stream, ranges)
        if self._shared is not None:
            from temper.runtime.cuda.context import CudaContext

            return CudaContext(self, self._shared, stream, ranges)
        if stream is not None or ranges:
            raise ConfigError("streams and NVTX ranges are for GPU plans; this one was built for the CPU")
        return Context(self)

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Result:
        """engine(x), engine(a, b), engine(name=x) or engine({"name": x}): an array, or a dict by name where there are
        several outputs.

        Inputs are used in place when C-contiguous and copied otherwise; dtypes are never converted. out: arrays to
        write to (one, a sequence in output order, or a dict by name). InputError says what was expected and what was
        given.
        """
        arrays: Sequence[Any] = args
        if named or len(args) != self._arity or (args and type(args[0]) is dict):
            arrays = self._arguments(args, named)
        results = self._execute(arrays, None if out is None else self._targets(out))
        return results[0] if self._only is not None else dict(zip(self._names, results, strict=True))

    def _execute(self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
        """Runs in an idle context, or in a new one when all are at work in other threads."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = self.context()
        try:
            return context._execute(arrays, targets)
        finally:
            self._idle.append(context)

    def run(self, feeds: Mapping[str, np.ndarray] | Sequence[np.ndarray], out: Any = None) -> list[np.ndarray]:
        """Results in output order, from inputs by name or in input order."""
        arrays = self._arguments((feeds,) if isinstance(feeds, Mapping) else tuple(feeds), {})
        return self._execute(arrays, self._targets(out))

    def profile_layers(
        self, feeds: Mapping[str, np.ndarray] | Sequence[np.ndarray], repeats: int = 20
    ) -> list[LayerTime]:
        """Least seconds of every step over `repeats` runs, timed one after another with a barrier after each."""
        arrays = self._arguments((feeds,) if isinstance(feeds, Mapping) else tuple(feeds), {})
        return self.context()._profile(arrays, repeats)

    def _arguments(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        first = args[0] if len(args) == 1 else None
        if isinstance(first, Mapping):
            if named:
                raise InputError("give inputs either in one dict or by keyword, not both")
            args, named = (), first
        names = [b.name for b in self.plan.inputs]
        if len(args) > len(names):
            raise InputError(f"{len(args)} inputs given, the model has {len(names)}: {', '.join(names)}")
        given = dict(zip(names, args, strict=False))
        unknown = [n for n in named if n not in names]
        if unknown:
            raise InputError(
                f"no input named {', '.join(map(repr, unknown))}; the model's inputs are {', '.join(names)}"
            )
        twice = [n for n in named if n in given]
        if twice:
            raise InputError(f"input {', '.join(twice)} given both by position and by name")
        given.update(named)
        missing = [_describe(b) for b in self.plan.inputs if b.name not in given]
        if missing:
            raise InputError(f"missing input {'; '.join(missing)}")
        return [given[n] for n in names]

    def _targets(self, out: Any) -> list[np.ndarray | None] | None:
        if out is None:
            return None
        if not isinstance(out, (Mapping, list, tuple)):
            out = [out]
        if isinstance(out, Mapping):
            unknown = [n for n in out if n not in self._names]
            if unknown:
                raise InputError(
                    f"out names {', '.join(map(repr, unknown))}; the model's outputs are {', '.join(self._names)}"
                )
            return [out.get(n) for n in self._names]
        if len(out) != len(self._names):
            raise InputError(
                f"out has {len(out)} arrays, the model {len(self._names)} outputs: {', '.join(self._names)}"
            )
        return list(out)


class Context:
    """Memory and bound shapes for one run at a time; calling it from two threads at once is an error, not a race."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        plan = engine.plan
        self._dtypes = tuple(storage(b.dtype) for b in plan.inputs)
        self._memory: dict[int, Memory] = {}
        self._bound: dict[Shapes, Bound] = {}
        self._lock = threading.Lock()
        self._run: Any = engine._code.host.run if plan.device == "cpu" else None

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Result:
        """As Engine.__call__, in this context."""
        engine = self._engine
        results = self._execute(engine._arguments(args, named), engine._targets(out))
        return results[0] if engine._only is not None else dict(zip(engine._names, results, strict=True))

    def prepare(self, *args: Any, **named: Any) -> tuple[Bound, list[np.ndarray], list[Any]]:
        """The plan bound to these inputs, given as to __call__, without running it; the arrays it reads and writes.

        For whoever runs `Bound.steps` one by one. An output whose shape depends on data is None.
        """
        return self._prepared(self._engine._arguments(args, named))

    def _prepared(self, given: Sequence[Any]) -> tuple[Bound, list[np.ndarray], list[Any]]:
        arrays = self._checked(given)
        shapes = tuple(a.shape for a in arrays)
        bound = self._bound.get(shapes) or self._bind(shapes)
        outputs = self._outputs(bound, arrays, None)
        for i, a in enumerate((*arrays, *outputs)):
            bound.pointers[i] = data_address(a) if a is not None else 0
        return bound, arrays, outputs

    def _checked(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Arrays as they can be used: the same where possible, contiguous copies otherwise."""
        return [
            self._checked_one(b, dtype, a)
            for b, dtype, a in zip(self._engine.plan.inputs, self._dtypes, arrays, strict=True)
        ]

    @staticmethod
    def _checked_one(b: Binding, dtype: np.dtype, a: Any) -> np.ndarray:
        """One array, or a sequence of them, as it can be used."""
        if b.dtype == "sequence":
            return _wrapped(b, a)
        if isinstance(a, np.generic):
            a = np.asarray(a)
        if not isinstance(a, np.ndarray) and hasattr(a, "__dlpack__"):
            try:
                a = np.from_dlpack(a)
            except (BufferError, RuntimeError, TypeError) as e:
                raise InputError(f"input '{b.name}' cannot be read as a numpy array without a copy: {e}") from e
        if not isinstance(a, np.ndarray):
            raise InputError(f"input '{b.name}' is a {type(a).__name__}, expected a numpy array: {_describe(b)}")
        if a.dtype != dtype:
            if a.dtype.name != ML_FLOATS.get(b.dtype):
                raise InputError(
                    f"input '{b.name}' has dtype {a.dtype}, expected {dtype}: convert it with x.astype('{dtype}')"
                )
            a = a.view(dtype)
        return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C", subok=False).reshape(a.shape)

    def _bind(self, shapes: Shapes) -> Bound:
        engine = self._engine
        env = solve(engine.plan.inputs, shapes)
        index = choose_profile(engine.plan.profiles, env)
        profile = engine.plan.profiles[index]
        if index not in self._memory:
            self._memory[index] = Memory(profile, engine.threads)
        bound = Bound(engine.plan, engine._code, self._memory[index], profile, env, engine.threads)
        self._make_room(self._bound)
        self._bound[shapes] = bound
        return bound

    @staticmethod
    def _make_room(kept: dict[Shapes, Any]) -> Any:
        """Drops what was kept first if there is too much, and returns it."""
        return kept.pop(next(iter(kept))) if len(kept) >= _KEPT_SHAPES else None

    def _execute(self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        try:
            for a, dtype in zip(arrays, self._dtypes, strict=True):
                if type(a) is not np.ndarray or a.dtype != dtype or not a.flags.carray:
                    arrays = self._checked(arrays)
                    break
            shapes = tuple([a.shape for a in arrays])
            bound = self._bound.get(shapes) or self._bind(shapes)
            outputs = (
                [np.empty(shape, dtype) for shape, dtype in bound.fresh]
                if targets is None and bound.single
                else self._outputs(bound, arrays, targets)
            )
            pointers, i = bound.pointers, 0
            for a in arrays:
                pointers[i] = data_address(a)
                i += 1
            for a in outputs:
                pointers[i] = data_address(a) if a is not None else 0
                i += 1
            if bound.single:
                if self._run(bound.single, bound.bindings):
                    raise TemperError(
                        "this context is running in another thread; make one context per thread with engine.context()"
                    )
                return outputs
            bound.execute(Run(arrays, outputs, bound.env))
            return outputs
        finally:
            self._lock.release()

    def _outputs(
        self, bound: Sized, arrays: Sequence[np.ndarray], targets: Sequence[np.ndarray | None] | None
    ) -> list[Any]:
        """Output arrays: the caller's where given, new ones otherwise; None where the shape is only known after the
        run.
        """
        outputs: list[Any] = []
        for i, (b, (shape, dtype)) in enumerate(zip(self._engine.plan.outputs, bound.outputs, strict=True)):
            given = targets[i] if targets is not None else None
            if given is None:
                outputs.append(None if shape is None else np.empty(shape, dtype))
                continue
            self._checked_target(b, shape, dtype, given)
            others = [*arrays, *(t for t in (targets or ())[:i] if t is not None)]
            if any(np.may_share_memory(given, a) for a in others):
                raise InputError(
                    f"out for '{b.name}' shares memory with an input or another output; give an array of its own"
                )
            outputs.append(given)
        return outputs

    @staticmethod
    def _checked_target(b: Binding, shape: tuple[int, ...] | None, dtype: np.dtype, given: Any) -> np.ndarray:
        """A caller's array for an output, if it can be written."""
        expected = f"expected a writeable C-contiguous {dtype} array" + (
            "" if shape is None else f" of shape {shape_text(shape)}"
        )
        if not isinstance(given, np.ndarray):
            raise InputError(f"out for '{b.name}' is a {type(given).__name__}, {expected}")
        if given.dtype != dtype or (shape is not None and given.shape != shape) or not given.flags.carray:
            raise InputError(
                f"out for '{b.name}' is a {given.dtype} array of shape {shape_text(given.shape)}"
                f"{'' if given.flags.carray else ', read-only or not contiguous'}; {expected}"
            )
        return given

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        self._execute(arrays, None)
        bound, arrays, outputs = self._prepared(arrays)
        segments = bound.program
        times: list[list[float]] = []
        for _ in range(max(1, repeats)):
            run = Run(arrays, list(outputs), bound.env)
            row: list[float] = []
            for segment, step in zip(segments, bound.steps, strict=True):
                if isinstance(segment, Native) and isinstance(step, NativeCall):
                    seconds = iter(step.ready(run).profile(bound.bindings))
                    left_out = [bound.value(launch.work, run.env) == 0 for launch in segment.launches]
                    row += [
                        0.0 if none else sum(next(seconds) for _ in launch.entries)
                        for launch, none in zip(segment.launches, left_out, strict=True)
                    ]
                else:
                    start = time.perf_counter()
                    step.run(run)
                    row.append(time.perf_counter() - start)
            times.append(row)
        least = [min(column) for column in zip(*times, strict=True)]
        steps = [x for s in segments for x in (s.launches if isinstance(s, Native) else (s,))]
        return [LayerTime(x.name, t, x.report, not hasattr(x, "entries")) for x, t in zip(steps, least, strict=True)]


def _wrapped(b: Binding, given: Any) -> np.ndarray:
    """A sequence of arrays as one object, in an array without dimensions as all inputs are arrays."""
    if isinstance(given, np.ndarray) and given.dtype == object and given.shape == () and isinstance(given[()], tuple):
        return given
    if not isinstance(given, (list, tuple)) or not all(isinstance(a, (np.ndarray, np.generic)) for a in given):
        raise InputError(f"input '{b.name}' is a {type(given).__name__}, expected a list of numpy arrays")
    whole = np.empty((), object)
    whole[()] = tuple(np.array(a, order="C", copy=True) for a in given)
    return whole


def _spec(b: Binding) -> TensorSpec:
    return TensorSpec(b.name, storage(b.dtype), b.shape)


def _describe(b: Binding) -> str:
    return f"'{b.name}' {storage(b.dtype)}{shape_text(b.shape)}"
