"""The CUDA driver as this runtime uses it: checked calls, and the few objects that own something on a device.

Everything goes through NVIDIA's cuda-bindings, imported on first use. Every call's result is checked: a failure is a
DeviceError with the driver's own words.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from temper.errors import DeviceError
from temper.plan.cubins import DeviceFunction

#: Bytes of dynamic shared memory that a function may use without asking.
_PLAIN_SHARED = 48 << 10

_INT32, _POINTER = ctypes.c_int, ctypes.c_void_p


@cache
def bindings() -> ModuleType:
    """cuda.bindings.driver, initialised. DeviceError says what is missing: the package, or a usable driver."""
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise DeviceError(
            "running on a GPU needs the package cuda-bindings: pip install 'temper-rt[cuda]'"
        ) from e
    try:
        (code,) = driver.cuInit(0)
    except RuntimeError as e:  # no libcuda.so
        raise DeviceError(f"there is no CUDA driver on this machine ({e}); install NVIDIA's driver") from e
    if code != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"the CUDA driver did not start: {code.name}; see whether nvidia-smi works")
    return driver


class Driver:
    """Checked calls of a driver module."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, name: str, *args: Any, what: str = "") -> Any:
        """Result of a driver function: nothing, one value or a tuple of them. DeviceError names `what` it was for."""
        code, *rest = getattr(self.module, name)(*args)
        if code != self.module.CUresult.CUDA_SUCCESS:
            raise DeviceError(f"{what or name}: {self._words(code)}")
        return None if not rest else rest[0] if len(rest) == 1 else tuple(rest)

    def _words(self, code: Any) -> str:
        found, text = self.module.cuGetErrorString(code)
        words = text.decode() if found == self.module.CUresult.CUDA_SUCCESS and text else "unknown error"
        return f"{code.name} ({words})"

    def attribute(self, device: Any, name: str) -> int:
        """A device attribute, by its name without CU_DEVICE_ATTRIBUTE_."""
        key = getattr(self.module.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self("cuDeviceGetAttribute", key, device))


class Gpu:
    """One GPU with its primary context, which other libraries of the process share."""

    def __init__(self, index: int = 0, module: Any = None) -> None:
        """DeviceError if there is no such device. module: another driver than the machine's, for tests."""
        self.driver = Driver(module or bindings())
        count = self.driver("cuDeviceGetCount")
        if not 0 <= index < count:
            raise DeviceError(f"there is no GPU {index}: the driver sees {count}")
        self.index = index
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

    def enter(self) -> None:
        """Makes the GPU the calling thread's own."""
        self.driver("cuCtxSetCurrent", self.context)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What timings depend on, JSON-able."""
        version = int(self.driver("cuDriverGetVersion"))
        return {"gpu": self.name, "isa": self.isa, "processors": self.processors, "l2": self.cache, "driver": version}

    def allocate(self, nbytes: int, what: str) -> Memory:
        return Memory(self, nbytes, what)


class Memory:
    """A block of device memory, freed with the object."""

    def __init__(self, gpu: Gpu, nbytes: int, what: str) -> None:
        self.gpu, self.nbytes = gpu, nbytes
        self.address = 0
        self.address = int(gpu.driver("cuMemAlloc", max(nbytes, 1), what=f"allocating {nbytes} bytes for {what}"))

    def __del__(self) -> None:
        if self.address:
            self.gpu.driver.module.cuMemFree(self.address)

    def write(self, array: np.ndarray, offset: int = 0) -> None:
        """Copies an array's bytes to the device."""
        source = np.ascontiguousarray(array)
        if source.nbytes:
            self.gpu.driver("cuMemcpyHtoD", self.address + offset, source.ctypes.data, source.nbytes)

    def read(self, into: np.ndarray, offset: int = 0) -> None:
        """Fills a contiguous array with bytes from the device."""
        if into.nbytes:
            self.gpu.driver("cuMemcpyDtoH", into.ctypes.data, self.address + offset, into.nbytes)


class Functions:
    """The functions of a plan's archive, loaded when they are first asked for."""

    def __init__(self, gpu: Gpu, archive: Mapping[str, DeviceFunction]) -> None:
        self.gpu, self.archive = gpu, archive
        self._modules: list[Any] = []
        self._loaded: dict[str, Any] = {}

    def __del__(self) -> None:
        for module in self._modules:
            self.gpu.driver.module.cuModuleUnload(module)

    def get(self, name: str) -> tuple[Any, DeviceFunction]:
        """Handle and facts of a function. DeviceError if the GPU cannot run its code."""
        if name not in self.archive:
            raise DeviceError(f"the plan calls {name} but holds no code of it; build the plan anew")
        f = self.archive[name]
        if name not in self._loaded:
            d = self.gpu.driver
            module = d("cuModuleLoadData", bytes(f.cubin), what=f"loading {name} on {self.gpu.name} ({self.gpu.isa})")
            self._modules.append(module)
            handle = d("cuModuleGetFunction", module, f.entry.encode(), what=f"finding {f.entry}")
            if f.shared > _PLAIN_SHARED:
                limit = d.module.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                d("cuFuncSetAttribute", handle, limit, f.shared, what=f"{f.shared} bytes of shared memory for {name}")
            self._loaded[name] = handle
        return self._loaded[name], f


class LaunchCall:
    """One kernel launch with its arguments packed: pointers, int32 sizes, null scratch pointers."""

    def __init__(
        self, functions: Functions, name: str, pointers: Sequence[int], sizes: Sequence[int], grid: int, label: str
    ) -> None:
        """grid: blocks in x; a launch of none is left out. label: the layer's name, for errors."""
        self.driver, self._code = functions.gpu.driver, functions  # whose modules stay loaded as long as this
        self.handle, self.function = functions.get(name)
        self.grid, self.label = grid, label
        null = (0,) * self.function.scratch
        self.values = (*pointers, *sizes, *null)
        self.types = (_POINTER,) * len(pointers) + (_INT32,) * len(sizes) + (_POINTER,) * len(null)

    def run(self, stream: Any) -> None:
        """Puts the launch on a stream. DeviceError names the layer."""
        f = self.function
        if self.grid:
            blocks = self.grid * f.clusters
            self.driver(
                "cuLaunchKernel", self.handle, blocks, 1, 1, f.threads, 1, 1, f.shared, stream,
                (self.values, self.types), 0, what=f"launching '{self.label}'",
            )  # fmt: skip


class Stream:
    """A stream of its own, and graphs captured from it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.handle = None
        flags = gpu.driver.module.CUstream_flags.CU_STREAM_NON_BLOCKING
        self.handle = gpu.driver("cuStreamCreate", flags)

    def __del__(self) -> None:
        if self.handle is not None:
            self.gpu.driver.module.cuStreamDestroy(self.handle)

    def wait(self, what: str = "waiting for the GPU") -> None:
        """Until everything on the stream is done. DeviceError if a kernel faulted."""
        self.gpu.driver("cuStreamSynchronize", self.handle, what=what)

    def capture(self, launches: Sequence[LaunchCall]) -> Graph:
        """The launches, in order, as one graph."""
        d = self.gpu.driver
        mode = d.module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        d("cuStreamBeginCapture", self.handle, mode)
        try:
            for launch in launches:
                launch.run(self.handle)
        finally:
            graph = d("cuStreamEndCapture", self.handle)
        return Graph(self.gpu, graph, launches)

    def seconds(self, graph: Graph) -> float:
        """Device time of one run of a graph."""
        d = self.gpu.driver
        start, end = d("cuEventCreate", 0), d("cuEventCreate", 0)
        try:
            d("cuEventRecord", start, self.handle)
            graph.launch(self)
            d("cuEventRecord", end, self.handle)
            d("cuEventSynchronize", end, what="timing a graph")
            return float(d("cuEventElapsedTime", start, end)) / 1e3
        finally:
            d("cuEventDestroy", start)
            d("cuEventDestroy", end)


class Graph:
    """An instantiated CUDA graph of launches, whose code and memory their owner keeps."""

    def __init__(self, gpu: Gpu, graph: Any, launches: Sequence[LaunchCall]) -> None:
        self.gpu, self._launches = gpu, launches
        self._exec = None
        try:
            self._exec = gpu.driver("cuGraphInstantiate", graph, 0)
        finally:
            gpu.driver("cuGraphDestroy", graph)

    def __del__(self) -> None:
        if self._exec is not None:
            self.gpu.driver.module.cuGraphExecDestroy(self._exec)

    def launch(self, stream: Stream) -> None:
        self.gpu.driver("cuGraphLaunch", self._exec, stream.handle)


def runs_on(built: str, here: str) -> bool:
    """Cubins run on chips of the same major number that are not older; from sm_90 on only on exactly that chip."""
    a, b = (int(x.removeprefix("sm_")) for x in (built, here))
    return a == b if a >= 90 else a // 10 == b // 10 and a <= b
