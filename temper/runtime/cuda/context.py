"""A GPU plan in this process: its code and constants on one device, and contexts that run it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.config import knob
from temper.errors import InputError, PlanError, TemperError
from temper.plan.cubins import from_archive
from temper.plan.format import Binding, Plan, value_of
from temper.runtime.context import Context, LayerTime
from temper.runtime.cuda.arrays import DeviceArray, check_open
from temper.runtime.cuda.bound import CudaBound, Place, Watch, arena_bytes
from temper.runtime.cuda.driver import Gpu, Memory, Stream, runs_on
from temper.runtime.cuda.inputs import Given, is_host, on_device, wrong_shape
from temper.runtime.cuda.late import is_late
from temper.runtime.cuda.launch import Functions, LaunchCall
from temper.runtime.cuda.layers import layer_times
from temper.runtime.cuda.transfer import Transfers
from temper.runtime.shapes import Shapes, choose_profile, solve
from temper.runtime.steps import Run

if TYPE_CHECKING:
    from temper.runtime.engine import Engine


def check_gpu(plan: Plan, gpu: Gpu) -> None:
    """PlanError if the plan's code is not for this GPU."""
    if not runs_on(plan.isa, gpu.isa):
        raise PlanError(
            f"the plan was built for {plan.isa}, this GPU ({gpu.name}) is {gpu.isa}; build the model for it with "
            f"--device cuda:{gpu.isa}, or `temper rebuild` the plan here"
        )


def gpu_remarks(plan: Plan, gpu: Gpu) -> tuple[str, ...]:
    """What a user should know of a plan that this GPU can run: that it was tuned elsewhere, or nowhere."""
    tuned = plan.fingerprint.get("gpu", "")
    if not plan.report.get("effort", 1) or not tuned:
        return ("kernels of this plan were not timed, but chosen by the cost model: `temper rebuild` tunes it here",)
    if (tuned, plan.fingerprint.get("processors")) != (gpu.name, gpu.processors):
        return (
            f"tuned on {tuned}, running on {gpu.name}: results are the same, speed may not be; `temper rebuild` "
            "re-tunes",
        )
    return ()


class CudaPlan:
    """What all contexts of an engine share on one GPU."""

    def __init__(self, plan: Plan, gpu: Gpu) -> None:
        """PlanError if the plan's code is not for this GPU, or a kernel finds no room there."""
        check_gpu(plan, gpu)
        archive = from_archive(plan.kernels)
        shared = max((f.shared for f in archive.values()), default=0)
        if shared > (room := gpu.driver.attribute(gpu.handle, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")):
            raise PlanError(
                f"a kernel of the plan uses {shared} bytes of shared memory, this GPU ({gpu.name}) has {room}: build "
                "the model on it, or `temper rebuild` the plan here"
            )
        self.gpu = gpu
        #: sizes or steps depend on data
        self.late = is_late(plan)
        gpu.enter()
        self.functions = Functions(gpu, archive)
        constants = np.frombuffer(plan.constants, np.uint8)
        self.constants = gpu.allocate(constants.nbytes, "the model's constants")
        self.constants.write(constants)


def stream_handle(stream: Any) -> int:
    """The handle of a stream: an int, or an object of PyTorch, CuPy or another that has `__cuda_stream__`.

    TemperError for anything else.
    """
    if isinstance(stream, int):
        if stream < 0:
            raise TemperError(f"stream {stream} is not a handle of a CUDA stream")
        return stream
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TemperError(
        f"stream is a {type(stream).__name__}: give a CUDA stream's handle as an int, or a stream of PyTorch or CuPy"
    )


def watch_of(plan: Plan, stream: Stream, ranges: bool) -> Watch | None:
    """What launches are put between: NVTX ranges, or, with TEMPER_SYNC, waits for each. None where they may be graphs.
    """
    if ranges:
        from temper.runtime.cuda.ranges import ranges_of

        return ranges_of(plan)

    @contextmanager
    def waiting(launch: LaunchCall) -> Iterator[None]:
        yield
        if stream.owned or not stream.capturing:
            stream.wait(f"running '{launch.label}'")

    return waiting if knob("TEMPER_SYNC") not in ("", "0") else None


class CudaContext(Context):
    """An execution context with device memory of its own, on a stream of its own or the caller's.

    A call with numpy arrays, or on its own stream, returns when the results are there. On the caller's stream a call
    with arrays on the GPU returns at once, and what the caller puts on that stream afterwards comes after it.
    """

    def __init__(self, engine: Engine, shared: CudaPlan, stream: Any = None, ranges: bool = False) -> None:
        """stream: of the caller; None for one of its own. ranges: marks layers with NVTX ranges, launched one by one.

        DeviceError if the stream is another GPU's, or there is no room.
        """
        super().__init__(engine)
        self._shared = shared
        shared.gpu.enter()
        self.gpu = shared.gpu
        self.stream = Stream(shared.gpu, None if stream is None else stream_handle(stream))
        self._caller = stream  # its owner
        self._watch = watch_of(engine.plan, self.stream, ranges)
        self._block: Memory | None = None
        self._moves = Transfers(engine.plan, self.stream)
        self._on_device: dict[Shapes, CudaBound] = {}
        #: for `enqueue`: what was set, and the program bound to it
        self._set_inputs: list[Given | None] = [None] * len(engine.plan.inputs)
        self._set_outputs: list[Given | None] = [None] * len(engine.plan.outputs)
        self._own_outputs: list[DeviceArray | None] = [None] * len(engine.plan.outputs)
        self._ready: CudaBound | None = None
        self.warm_up()

    def prepare(self, *args: Any, **named: Any) -> tuple[CudaBound, list[np.ndarray], list[Any]]:  # type: ignore[override]
        """As Context.prepare: the plan bound to these inputs, which are on the device with room for outputs; the host's
        arrays of both. `bound.steps` may then be run in order."""
        given = [self._numpy_of(k, x) for k, x in enumerate(self._engine._arguments(args, named))]
        self.gpu.enter()
        bound = self._bound_for(tuple(a.shape for a in given))
        for k, x in enumerate(given):
            bound.point(k, self._moves.placed(k, x, False))
        for k in range(len(given), len(bound.nbytes)):
            bound.point(k, self._moves.staged(k, bound.nbytes[k]))
        return bound, given, [np.empty(*s) for s in bound.fresh]

    def warm_up(self) -> None:
        """Loads kernels, takes memory and makes graphs for the sizes that every profile is tuned at."""
        plan = self._engine.plan
        largest = max(plan.profiles, key=arena_bytes)
        self._memory_of(arena_bytes(largest))
        for p in plan.profiles:
            env = {name: best for name, (_, best, _) in p.symbols.items()}
            self._bound_for(tuple(tuple(value_of(d, env) for d in b.shape) for b in plan.inputs)).prepare()

    def _memory_of(self, nbytes: int) -> Memory:
        """A block of at least so many bytes, which all profiles share. What is bound to a smaller one is dropped."""
        if self._block is None or self._block.nbytes < nbytes:
            if self._block is not None and self._moves.captured:
                self._moves.kept.append(self._block)
            self._on_device.clear()
            self._ready = None
            self._block = None
            self._block = self.gpu.allocate(nbytes, "a context's arena")
        return self._block

    def _bound_for(self, shapes: Shapes) -> CudaBound:
        """The plan bound to these input shapes; those least recently used are dropped."""
        found = self._on_device.pop(shapes, None)
        if found is None:
            plan = self._engine.plan
            env = solve(plan.inputs, shapes)
            profile = plan.profiles[choose_profile(plan.profiles, env)]
            block = self._memory_of(arena_bytes(profile))
            if (dropped := self._make_room(self._on_device)) is not None:
                dropped.forget()
                self._ready = None
            place = Place.of(block, profile)
            found = CudaBound(
                plan, self._shared.functions, self._shared.constants, place, self.stream, profile, env, shapes,
                self._watch,
            )  # fmt: skip
        self._on_device[shapes] = found
        return found

    # ---- calls

    def _execute(self, arrays: Sequence[Any], targets: Sequence[Any] | None) -> list[Any]:
        self._lock_or_say()
        try:
            self.gpu.enter()
            self._ready = None
            given: list[Given | np.ndarray] = [
                self._checked_one(b, dtype, x) if is_host(x) else on_device(x, b, self.gpu, self.stream, "input")
                for b, dtype, x in zip(self._engine.plan.inputs, self._dtypes, arrays, strict=True)
            ]
            check_open(self.stream)
            bound = self._bound_for(tuple(x.shape for x in given))
            asked = targets if targets is not None else [None] * len(bound.fresh)
            # where everything given is the host's, so are the results
            device = any(isinstance(x, Given) for x in given) or any(t is not None and not is_host(t) for t in asked)
            return self._run_bound(bound, given, asked, device)
        finally:
            self._lock.release()

    def _lock_or_say(self) -> None:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )

    def _run_bound(
        self, bound: CudaBound, given: Sequence[Given | np.ndarray], asked: Sequence[Any], device: bool
    ) -> list[Any]:
        moves, first = self._moves, len(given)
        capturing = not self.stream.owned and self.stream.capturing
        outs = [self._target(bound, i, t) for i, t in enumerate(asked)]
        moves.check_overlap(given, outs)
        for k, x in enumerate(given):
            bound.point(k, moves.placed(k, x, capturing))
        results: list[Any] = []
        late: dict[int, Given | np.ndarray] = {}
        for i, (out, asked_for) in enumerate(zip(outs, asked, strict=True)):
            if isinstance(out, Given) and out.aligned:
                bound.point(first + i, out.address)
                results.append(asked_for)
            elif out is None and device:
                results.append(moves.result(first + i, bound.fresh[i][0], bound.nbytes[first + i]))
                bound.point(first + i, results[-1].address)
            else:
                late[i] = np.empty(*bound.fresh[i]) if out is None else out
                bound.point(first + i, moves.staged(first + i, bound.nbytes[first + i]))
                results.append(late[i] if out is None else asked_for)
        to_host = any(isinstance(x, np.ndarray) for x in late.values())
        from_host = not all(type(x) is Given for x in given)  # where the GPU may still be reading it
        if capturing and to_host:
            raise TemperError("the stream is being captured: give outputs on the GPU, not numpy arrays")
        self._start(bound, given, late, capturing)
        for i, target in late.items():
            moves.copy_out(bound.addresses[first + i], bound.nbytes[first + i], target)
        if capturing:
            self._keep()
            moves.kept += [r.block for r in results if isinstance(r, DeviceArray)]
        elif to_host or from_host or self.stream.owned:
            self.stream.wait(moves.doing)
        else:
            moves.hold([x for x in (*given, *outs) if isinstance(x, Given)])
        return results

    def _start(
        self,
        bound: CudaBound,
        given: Sequence[Given | np.ndarray | None],
        late: Mapping[int, Given | np.ndarray],
        direct: bool,
    ) -> None:
        """Puts the steps on the stream. given, late: host arrays among inputs and outputs, which host steps use."""
        if bound.single is not None and bound.watch is None and not direct:
            bound.single.run()
            return
        arrays: list[Any] = [x if isinstance(x, np.ndarray) else None for x in given]
        for i in bound.host_inputs:
            arrays[i] = self._moves.fetched(bound, i) if arrays[i] is None else arrays[i]
        outputs: list[Any] = [None] * len(bound.fresh)
        for i in bound.host_outputs:
            own = late.get(i)
            outputs[i] = own if isinstance(own, np.ndarray) else np.empty(*bound.fresh[i])
        bound.start(Run(arrays, outputs, bound.env), direct)

    def _target(self, bound: CudaBound, i: int, target: Any) -> Given | np.ndarray | None:
        """An array that the caller gave for an output, checked."""
        b, (shape, dtype) = self._engine.plan.outputs[i], bound.fresh[i]
        if target is None:
            return None
        if is_host(target):
            return self._checked_target(b, shape, dtype, target)
        out = on_device(target, b, self.gpu, self.stream, "out for")
        if out.shape != shape:
            raise wrong_shape(b, "out for", out.shape, shape)
        return out

    def upload(self, name: str, array: np.ndarray) -> DeviceArray:
        """A copy of an array for input `name` in this GPU's memory. InputError if it does not fit the input."""
        k = self._index(name, self._engine.plan.inputs, "input")
        b = self._engine.plan.inputs[k]
        self.gpu.enter()
        return self._moves.upload(k, self._checked_one(b, self._dtypes[k], array))

    # ---- prebound buffers

    def set_input(self, name: str, array: Any) -> None:
        """Sets the array on this GPU that `enqueue` reads as input `name`, in place, until another is set.

        InputError if it has the wrong type, is not contiguous, misaligned (16 bytes) or not on this GPU.
        """
        k = self._index(name, self._engine.plan.inputs, "input")
        self._replace(self._set_inputs, k, array, self._engine.plan.inputs[k], "input")

    def set_output(self, name: str, array: Any) -> None:
        """Sets the array on this GPU that `enqueue` writes output `name` to; without one it writes to its own."""
        k = self._index(name, self._engine.plan.outputs, "output")
        self._replace(self._set_outputs, k, array, self._engine.plan.outputs[k], "out for")

    @staticmethod
    def _index(name: str, bindings: Sequence[Binding], kind: str) -> int:
        for k, b in enumerate(bindings):
            if b.name == name:
                return k
        raise InputError(f"there is no {kind} '{name}'; the model's are {', '.join(b.name for b in bindings)}")

    def _replace(self, places: list[Given | None], k: int, array: Any, b: Binding, role: str) -> None:
        self._lock_or_say()
        try:
            self.gpu.enter()
            if is_host(array):
                raise InputError(f"{role} '{b.name}' is a {type(array).__name__}: enqueue takes arrays on the GPU")
            new = on_device(array, b, self.gpu, self.stream, role)
            if not new.aligned:
                raise InputError(f"{role} '{b.name}' does not start at a multiple of 16 bytes: give a copy")
            if (old := places[k]) is not None:
                self._moves.hold([old])
            places[k] = new
            self._ready = None
        finally:
            self._lock.release()

    @property
    def outputs(self) -> Mapping[str, Any]:
        """The arrays that `enqueue` writes, by output name: those set, or the context's own (None before a run)."""
        return {
            b.name: own if given is None else given.source
            for b, given, own in zip(
                self._engine.plan.outputs, self._set_outputs, self._own_outputs, strict=True
            )
        }

    def enqueue(self) -> None:
        """Puts a run with the arrays set on the stream and returns. InputError if an input is not set."""
        self._lock_or_say()
        try:
            bound = self._ready
            if bound is None:
                bound = self._ready = self._bound_to_set()
            self.gpu.enter()
            direct = not self.stream.owned and self.stream.capturing
            self._start(bound, [None] * len(bound.shapes), {}, direct)
            if direct:
                self._keep()
                self._moves.kept += [y.block for y in self._own_outputs if y is not None]
        finally:
            self._lock.release()

    def _keep(self) -> None:
        """Somebody's graph holds launches of this context now, and nobody tells when it goes: memory and code that they
        use stay as long as the process."""
        if not self._moves.captured:
            self._moves.captured = True
            self.gpu.kept.append(self)

    def _bound_to_set(self) -> CudaBound:
        """The plan bound to the arrays set."""
        plan = self._engine.plan
        missing = [b.name for b, x in zip(plan.inputs, self._set_inputs, strict=True) if x is None]
        if missing:
            raise InputError(f"no array is set for input {', '.join(missing)}: call set_input first")
        self.gpu.enter()
        given = [x for x in self._set_inputs if x is not None]
        bound = self._bound_for(tuple(x.shape for x in given))
        for i, (b, out) in enumerate(zip(plan.outputs, self._set_outputs, strict=True)):
            shape = bound.fresh[i][0]
            if out is not None and out.shape != shape:
                raise wrong_shape(b, "out for", out.shape, shape)
            own = self._own_outputs[i]
            if out is None and (own is None or own.shape != shape):
                own = self._moves.result(len(given) + i, shape, bound.nbytes[len(given) + i])
                self._own_outputs[i] = own
            elif out is not None:
                own = self._own_outputs[i] = None
            bound.point(len(given) + i, out.address if out is not None else own.address)  # type: ignore[union-attr]
        self._moves.check_overlap(given, self._set_outputs)
        for k, x in enumerate(given):
            bound.point(k, x.address)
        return bound

    def synchronize(self) -> None:
        """Waits for everything on the stream. DeviceError if a kernel faulted."""
        self.gpu.enter()
        self.stream.wait(self._moves.doing)

    # ---- layers

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        """Device time of every launch, and wall time of host steps, in the order of a run."""
        given = [self._numpy_of(k, x) for k, x in enumerate(arrays)]
        self._execute(given, None)
        bound = self._bound_for(tuple(a.shape for a in given))
        return layer_times(bound, given, repeats)

    def _numpy_of(self, k: int, x: Any) -> np.ndarray:
        """An input as a host array."""
        b = self._engine.plan.inputs[k]
        if is_host(x):
            return self._checked_one(b, self._dtypes[k], x)
        self.gpu.enter()
        given = on_device(x, b, self.gpu, self.stream, "input")
        a = np.empty(given.shape, self._dtypes[k])
        self.stream.wait(self._moves.doing)
        if a.nbytes:
            self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, given.address, a.nbytes)
        return a
