"""The part of the CUDA driver that the runtime uses: checked calls, and the few objects that own something on a device.

Everything goes through NVIDIA's cuda-bindings, imported on first use. Every call's result is checked: a failure is a
DeviceError with the driver's own words. After a fault of a kernel the driver refuses everything else in this process;
every later error says so, and what was running.
"""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache, cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.errors import DeviceError, DeviceMemoryError

if TYPE_CHECKING:
    from temper.runtime.cuda.launch import Graph

#: Results after which a process's work on the GPU is lost, and every later call fails.
_FAULTS = frozenset(
    f"CUDA_ERROR_{x}"
    for x in (
        "ILLEGAL_ADDRESS", "ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "ASSERT",
        "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "HARDWARE_STACK_ERROR", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE",
        "CONTEXT_IS_DESTROYED", "TENSOR_MEMORY_LEAK", "EXTERNAL_DEVICE",
    )
)  # fmt: skip

#: bound here, as destructors may run when modules are gone
_process = os.getpid

#: The least driver that cuda-bindings 12.8, the oldest this runtime takes, is for.
_OLDEST = 12000


@cache
def bindings() -> ModuleType:
    """cuda.bindings.driver, initialised. DeviceError says what is missing: the package, or a usable driver."""
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise DeviceError("running on a GPU needs the package cuda-bindings: pip install 'temper-rt[cuda]'") from e
    try:
        (code,) = driver.cuInit(0)
    except RuntimeError as e:  # no libcuda.so
        raise DeviceError(f"there is no CUDA driver on this machine ({e}); install NVIDIA's driver") from e
    if code == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
        raise DeviceError(f"the CUDA driver sees no GPU{why}; see what nvidia-smi lists")
    if code != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"the CUDA driver did not start: {code.name}; see whether nvidia-smi works")
    return driver


class Driver:
    """Checked calls of a driver module. fault: what was running when the GPU's context was lost, and how; "" if it is
    whole. process: the one that the GPU knows.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.fault = ""
        self._success = module.CUresult.CUDA_SUCCESS
        self.process = os.getpid()

    def __call__(self, name: str, *args: Any, what: str = "") -> Any:
        """Result of a driver function: nothing, one value or a tuple of them. DeviceError names `what` it was for."""
        try:
            result = getattr(self.module, name)(*args)
        except (AttributeError, RuntimeError) as e:  # cuda-bindings' words for a function that the driver lacks
            raise DeviceError(
                f"{what or name}: this CUDA driver or cuda-bindings lacks {name} ({e}); install newer ones"
            ) from e
        if result[0] is not self._success and result[0] != self._success:
            raise self.error(result[0], what or name)
        count = len(result)
        return None if count == 1 else result[1] if count == 2 else result[1:]

    def error(self, code: Any, what: str) -> DeviceError:
        """The error of a call that gave `code`; remembers a fault."""
        if self.fault:
            return DeviceError(
                f"{what}: nothing runs on this GPU in this process any more, since a kernel faulted before: "
                f"{self.fault}. Start a new process"
            )
        text = f"{what}: {self._words(code)}"
        if code.name in _FAULTS:
            self.fault = text
            return DeviceError(
                f"{text}. Nothing runs on this GPU in this process from now on; with TEMPER_SYNC=1 every kernel is "
                "waited for, and the error names the one that faults"
            )
        if code.name == "CUDA_ERROR_OUT_OF_MEMORY":
            return DeviceMemoryError(f"{text}: end what else uses the GPU, or take smaller profiles or fewer contexts")
        return DeviceError(text)

    def _words(self, code: Any) -> str:
        found, text = self.module.cuGetErrorString(code)
        words = text.decode() if found == self.module.CUresult.CUDA_SUCCESS and text else "unknown error"
        return f"{code.name} ({words})"

    def attribute(self, device: Any, name: str) -> int:
        """A device attribute, by its name without CU_DEVICE_ATTRIBUTE_."""
        key = getattr(self.module.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self("cuDeviceGetAttribute", key, device))

    def device_of(self, address: int, what: str) -> int:
        """The number of the GPU that memory is on, from the driver itself: cuda-bindings up to 13.5 answer 0 for any
        memory (NVIDIA/cuda-python, issue 2928)."""
        found, key = ctypes.c_int(), self.module.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        code = self._pointer_attribute(ctypes.byref(found), int(key.value), address)
        if code:
            raise self.error(self.module.CUresult(code), what)
        return found.value

    @cached_property
    def _pointer_attribute(self) -> Any:
        """The driver's cuPointerGetAttribute as a function of the C interface."""
        address, _ = self("cuGetProcAddress", b"cuPointerGetAttribute", _OLDEST, 0)
        return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)(int(address))


class Gpu:
    """One GPU with its primary context, which other libraries of the process share."""

    def __init__(self, index: int = 0, module: Any = None) -> None:
        """DeviceError if there is no such device. module: another driver than the machine's, for tests."""
        self.driver = Driver(module or bindings())
        self.version = int(self.driver("cuDriverGetVersion"))
        if self.version < _OLDEST:
            raise DeviceError(
                f"the CUDA driver is of version {self.cuda}, GPU plans need {_OLDEST // 1000}.0: install a newer "
                "NVIDIA driver"
            )
        count = self.driver("cuDeviceGetCount")
        if not 0 <= index < count:
            raise DeviceError(f"there is no GPU {index}: the driver sees {count}")
        self.index = index
        #: what stays as long as the process
        self.kept: list[Any] = []
        self.handle = self.driver("cuDeviceGet", index)
        self.context = self.driver("cuDevicePrimaryCtxRetain", self.handle)
        self.enter()
        raw = self.driver("cuDeviceGetName", 256, self.handle)
        self.name = raw.split(b"\0")[0].decode()
        self.memory = int(self.driver("cuDeviceTotalMem", self.handle))
        major, minor = (self.driver.attribute(self.handle, f"COMPUTE_CAPABILITY_{x}") for x in ("MAJOR", "MINOR"))
        self.isa = f"sm_{major}{minor}"
        self.processors = self.driver.attribute(self.handle, "MULTIPROCESSOR_COUNT")
        self.cache = self.driver.attribute(self.handle, "L2_CACHE_SIZE")
        #: kHz of the multiprocessors, and bytes per second of the memory
        self.clock = self.driver.attribute(self.handle, "CLOCK_RATE")
        width = self.driver.attribute(self.handle, "GLOBAL_MEMORY_BUS_WIDTH")
        self.bandwidth = 2 * self.driver.attribute(self.handle, "MEMORY_CLOCK_RATE") * 1000 * width // 8

    def enter(self) -> None:
        """Makes the GPU the calling thread's own. DeviceError in a process that was forked since."""
        if _process() != self.driver.process:
            raise DeviceError(
                "this process was forked from one that had used the GPU, which the driver does not take over: start "
                "it otherwise (multiprocessing: 'spawn' or 'forkserver'), and load the engine in it"
            )
        self.driver("cuCtxSetCurrent", self.context)

    def give_back(self, *calls: tuple[str, Any]) -> None:
        """Functions of the driver that free or destroy something, each with what: from a destructor, which may run in
        any thread, whatever GPU that uses and capture it is in. What they return is of no use to anybody.
        """
        if not calls or _process() != self.driver.process:
            return  # what a forked process has is its parent's
        module = self.driver.module
        module.cuCtxPushCurrent(self.context)
        (_, mode) = module.cuThreadExchangeStreamCaptureMode(
            module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        )
        for name, what in calls:
            getattr(module, name)(what)
        module.cuThreadExchangeStreamCaptureMode(mode)
        module.cuCtxPopCurrent()

    @property
    def cuda(self) -> str:
        """The version of CUDA that the driver is for."""
        return f"{self.version // 1000}.{self.version % 1000 // 10}"

    @property
    def bus(self) -> str:
        """Which of the machine's devices it is, whatever number it has in this process."""
        parts = (self.driver.attribute(self.handle, f"PCI_{x}_ID") for x in ("DOMAIN", "BUS", "DEVICE"))
        return "-".join(f"{x:x}" for x in parts)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What timings depend on, JSON-able."""
        return {
            "gpu": self.name,
            "isa": self.isa,
            "processors": self.processors,
            "l2": self.cache,
            "driver": self.version,
            "clock": self.clock,
            "bandwidth": self.bandwidth,
        }

    def allocate(self, nbytes: int, what: str) -> Memory:
        return Memory(self, nbytes, what)


@cache
def gpu_here(index: int) -> Gpu:
    """The process's GPU of that number: one object, so that every engine on it knows of a fault."""
    return Gpu(index)


class Memory:
    """A block of device memory, freed with the object."""

    def __init__(self, gpu: Gpu, nbytes: int, what: str) -> None:
        """DeviceMemoryError if there is no room, with what there is."""
        self.gpu, self.nbytes = gpu, nbytes
        self.address = 0
        result = gpu.driver.module.CUresult
        code, address = self._taken()
        if code == result.CUDA_ERROR_OUT_OF_MEMORY and gc.collect():
            code, address = self._taken()
        if code == result.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = gpu.driver("cuMemGetInfo")
            raise DeviceMemoryError(
                f"{gpu.name} has no room for {_megabytes(nbytes)} for {what}: {_megabytes(free)} of "
                f"{_megabytes(total)} are free; end what else uses the GPU, or take smaller profiles or fewer contexts"
            )
        if code != result.CUDA_SUCCESS:
            raise gpu.driver.error(code, f"allocating {nbytes} bytes for {what}")
        self.address = int(address)

    def _taken(self) -> tuple[Any, Any]:
        """What the driver says, and the address."""
        module = self.gpu.driver.module
        # memory taken while some stream is being captured is not part of what is captured
        (_, mode) = module.cuThreadExchangeStreamCaptureMode(
            module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        )
        code, address = module.cuMemAlloc(max(self.nbytes, 1))
        module.cuThreadExchangeStreamCaptureMode(mode)
        return code, address

    def __del__(self) -> None:
        if self.address:
            self.gpu.give_back(("cuMemFree", self.address))

    def write(self, array: np.ndarray, offset: int = 0) -> None:
        """Copies an array's bytes to the device; they are there for every stream when this returns."""
        source = np.ascontiguousarray(array)
        if source.nbytes:
            self.gpu.driver("cuMemcpyHtoD", self.address + offset, source.ctypes.data, source.nbytes)
            # the last of it may still be on the way from the driver's own buffer
            self.gpu.driver("cuStreamSynchronize", self.gpu.driver.module.CUstream(0))

    def read(self, into: np.ndarray, offset: int = 0) -> None:
        """Fills a contiguous array with bytes from the device."""
        if into.nbytes:
            self.gpu.driver("cuMemcpyDtoH", into.ctypes.data, self.address + offset, into.nbytes)


class Pinned:
    """Host memory that the GPU copies from and to by itself. array: its bytes."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.gpu = gpu
        self.address = 0
        what = f"pinning {nbytes} bytes of host memory"
        self.address = int(gpu.driver("cuMemHostAlloc", max(nbytes, 1), 0, what=what))
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    def __del__(self) -> None:
        if self.address:
            self.gpu.give_back(("cuMemFreeHost", self.address))


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f} MiB" if nbytes >> 20 or not nbytes else f"{nbytes / (1 << 10):.1f} KiB"


class Event:
    """A point on a stream that others can wait for."""

    def __init__(self, gpu: Gpu, timed: bool = False) -> None:
        self.gpu = gpu
        self.handle = None
        flags = gpu.driver.module.CUevent_flags
        self.handle = gpu.driver(
            "cuEventCreate", int(flags.CU_EVENT_DEFAULT if timed else flags.CU_EVENT_DISABLE_TIMING)
        )

    def __del__(self) -> None:
        if self.handle is not None:
            self.gpu.give_back(("cuEventDestroy", self.handle))

    def record(self, stream: Any) -> None:
        """Now, on a stream's handle."""
        self.gpu.driver("cuEventRecord", self.handle, stream)

    @property
    def done(self) -> bool:
        """Everything before it has happened. DeviceError after a fault."""
        module = self.gpu.driver.module
        (code,) = module.cuEventQuery(self.handle)
        if code not in (module.CUresult.CUDA_SUCCESS, module.CUresult.CUDA_ERROR_NOT_READY):
            raise self.gpu.driver.error(code, "asking for an event")
        return bool(code == module.CUresult.CUDA_SUCCESS)

    def wait(self) -> None:
        """Until everything before it has happened."""
        self.gpu.driver("cuEventSynchronize", self.handle, what="waiting for an event")

    def since(self, start: Event) -> float:
        """Seconds on the device from another timed event."""
        return float(self.gpu.driver("cuEventElapsedTime", start.handle, self.handle)) / 1e3


class Stream:
    """A stream: one of its own, or one that somebody else made and keeps alive."""

    def __init__(self, gpu: Gpu, borrowed: int | None = None) -> None:
        """borrowed: the handle of somebody else's stream; 0 and 1 are the default stream of all threads, 2 that of the
        calling one. DeviceError if it is of another GPU."""
        self.gpu = gpu
        self.owned = borrowed is None
        module = gpu.driver.module
        if borrowed is None:
            self.handle = None
            self.handle = gpu.driver("cuStreamCreate", int(module.CUstream_flags.CU_STREAM_NON_BLOCKING))
        else:
            self.handle = module.CUstream(borrowed)
            if borrowed > 2:  # the default streams are whatever context's is current
                context = gpu.driver("cuStreamGetCtx", self.handle, what=f"looking at stream {borrowed:#x}")
                context = context[0] if isinstance(context, tuple) else context
                if int(context) != int(gpu.context):
                    raise DeviceError(
                        f"stream {borrowed:#x} is not one of GPU {gpu.index} ({gpu.name}), where the engine is; give a "
                        "stream of that GPU"
                    )
        self.number = int(self.handle)
        #: for `after` and for `before`: a wait takes an event as it is then
        self._events: list[Event | None] = [None, None]

    def __del__(self) -> None:
        if getattr(self, "owned", False) and self.handle is not None:
            self.gpu.give_back(("cuStreamDestroy", self.handle))

    @property
    def public(self) -> int:
        """The handle as DLPack and the CUDA array interface write it: the default stream is 1."""
        return self.number or 1

    @property
    def capturing(self) -> bool:
        """Its work is being recorded as a graph instead of run."""
        status = self.gpu.driver("cuStreamIsCapturing", self.handle)
        return int(status) != 0

    def wait(self, what: str = "waiting for the GPU") -> None:
        """Until everything on the stream is done. DeviceError if a kernel faulted."""
        self.gpu.driver("cuStreamSynchronize", self.handle, what=what)

    def after(self, other: int) -> None:
        """What is put on the stream from now on waits for what is on another stream, given by its public handle."""
        if other != self.public:
            event = self._event(0)
            event.record(self.gpu.driver.module.CUstream(other))
            self.gpu.driver("cuStreamWaitEvent", self.handle, event.handle, 0)

    def before(self, other: int) -> None:
        """What is put on another stream, given by its public handle, from now on waits for what is on this one."""
        if other != self.public:
            event = self._event(1)
            event.record(self.handle)
            self.gpu.driver("cuStreamWaitEvent", self.gpu.driver.module.CUstream(other), event.handle, 0)

    def _event(self, k: int) -> Event:
        found = self._events[k]
        if found is None:
            found = self._events[k] = Event(self.gpu)
        return found

    def seconds(self, graph: Graph) -> float:
        """Device time of one run of a graph."""
        start, end = Event(self.gpu, timed=True), Event(self.gpu, timed=True)
        start.record(self.handle)
        graph.launch(self)
        end.record(self.handle)
        self.gpu.driver("cuEventSynchronize", end.handle, what=f"timing {graph.label}")
        return end.since(start)


def runs_on(built: str, here: str) -> bool:
    """Cubins run on chips of the same major number that are not older; from sm_90 on only on exactly that chip."""
    a, b = (int(x.removeprefix("sm_")) for x in (built, here))
    return a == b if a >= 90 else a // 10 == b // 10 and a <= b
