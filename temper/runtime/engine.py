"""The engine: a plan loaded into this process, called with numpy arrays."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import proxy

import numpy as np

from temper.dtypes import storage
from temper.errors import ConfigError, InputError, PlanError
from temper.plan import file as plan_file
from temper.plan.format import Binding, DimText, Plan, Profile
from temper.runtime import machine
from temper.runtime.binding import Code
from temper.runtime.context import Context, LayerTime, Result, described
from temper.runtime.cpu import Host, Library
from temper.runtime.memory import address, allocate

if TYPE_CHECKING:
    from temper.runtime.cuda.context import CudaPlan
    from temper.runtime.cuda.driver import Gpu


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output.

    dtype: as numpy holds it (temper/dtypes.py). A sequence, given as a list of arrays and returned as a tuple of them,
        has dtype object and no dimensions.
    shape: each dimension is an int, or the text of an expression in the plan's symbols. A symbol that starts with an
        underscore is a size found in the data.
    """

    name: str
    dtype: np.dtype
    shape: tuple[DimText, ...]


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
    """A loaded plan, called with arrays: engine(x).

    Calls from several threads run at the same time, each in a context of its own.
    """

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
        device: where a GPU plan runs: "cuda:1" is the second GPU, "" the first.
        gpu: the same as an object.
        defer: the GPU is looked for at the first run, so that a plan for one that is not here can be held.

        PlanError if this machine cannot run the plan; DeviceError if the GPU cannot be used; ConfigError for another
        device.
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
    def from_bytes(
        cls, data: bytes | memoryview, *, threads: int | None = None, spin_us: int | None = None, device: str = ""
    ) -> Engine:
        """As `load`, from the bytes of a plan file."""
        return cls(plan_file.from_bytes(data), threads=threads, spin_us=spin_us, device=device)

    def to_bytes(self) -> bytes:
        """What its plan file holds, for `from_bytes`."""
        return plan_file.to_bytes(self.plan)

    @property
    def _shared(self) -> CudaPlan | None:
        """What all contexts share on the GPU; None on a CPU."""
        if self._cuda is None and self.plan.device == "cuda":
            from temper.runtime.cuda.context import CudaPlan, gpu_remarks
            from temper.runtime.cuda.driver import gpu_here

            gpu = gpu_here(self._gpu) if isinstance(self._gpu, int) else self._gpu
            self._cuda = CudaPlan(self.plan, gpu)
            self.remarks += gpu_remarks(self.plan, gpu)
        return self._cuda

    @property
    def device_name(self) -> str:
        """"cpu", or the name of the GPU it runs on."""
        return "cpu" if self._shared is None else self._shared.gpu.name

    def __repr__(self) -> str:
        """Inputs, outputs, code level and threads."""
        takes, gives = (", ".join(map(described, b)) for b in (self.plan.inputs, self.plan.outputs))
        where = "" if self.plan.device == "cuda" else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"<Engine {takes} -> {gives}; {self.plan.isa}{where}>"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in order."""
        return tuple(_spec(b) for b in self.plan.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in order."""
        return tuple(_spec(b) for b in self.plan.outputs)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The ranges of sizes that the engine takes."""
        return self.plan.profiles

    @property
    def report(self) -> Mapping[str, Any]:
        """What the build did: layers, kernels, times, reasons. JSON-able; `temper inspect` prints it."""
        return self.plan.report

    def context(self, *, stream: Any = None, ranges: bool = False) -> Context:
        """An independent execution context with memory of its own, for one thread at a time.

        stream: of a GPU plan: the stream to work on, as a handle (int) or a stream of PyTorch or CuPy. Calls with
            arrays on the GPU then return at once, in order with what else is on that stream. None: a stream of its
            own, whose calls return when the results are there.
        ranges: of a GPU plan: mark layers with NVTX ranges for Nsight Systems. Slower: kernels are launched one by one.

        ConfigError if either is given for a CPU plan.
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
        """Runs the model: engine(x), engine(a, b), engine(name=x) or engine({"name": x}).

        Returns an array, or a dict by name if there are several outputs. Inputs are used in place when C-contiguous
        and copied otherwise; dtypes are never converted.

        out: arrays to write to: one, a sequence in output order, or a dict by name.

        InputError says what was expected and what was given.
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
            own: Any = proxy(self)  # which owns it: without a cycle, memory is given back with the engine
            context._engine = own
        try:
            return context._execute(arrays, targets)
        finally:
            self._idle.append(context)

    def run(self, feeds: Mapping[str, np.ndarray] | Sequence[np.ndarray], out: Any = None) -> list[np.ndarray]:
        """Runs the model on inputs by name or in input order; returns the results in output order."""
        arrays = self._arguments((feeds,) if isinstance(feeds, Mapping) else tuple(feeds), {})
        return self._execute(arrays, self._targets(out))

    def profile_layers(
        self, feeds: Mapping[str, np.ndarray] | Sequence[np.ndarray], repeats: int = 20
    ) -> list[LayerTime]:
        """The time of every step of the program: the least of `repeats` runs, with a barrier after each step."""
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
        missing = [described(b) for b in self.plan.inputs if b.name not in given]
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


def _spec(b: Binding) -> TensorSpec:
    return TensorSpec(b.name, storage(b.dtype), b.shape)
