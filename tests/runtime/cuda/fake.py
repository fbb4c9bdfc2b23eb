"""A CUDA driver without a GPU: device memory is host memory, and launches are written down instead of run.

Arguments are read as the real driver does, from the addresses given, by the sizes that the cubin states.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from temper.compile.cubin import read_cubin
from temper.runtime.cuda import dlpack


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class CUdevice_attribute(enum.Enum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 9
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 132
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 50 << 20
    CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 1_980_000
    CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 2_619_000
    CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 5120
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 232_448


class CUfunction_attribute(enum.Enum):
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class CUpointer_attribute(enum.Enum):
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9


class CUstream_flags(enum.IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(enum.IntEnum):
    CU_EVENT_DEFAULT = 0
    CU_EVENT_DISABLE_TIMING = 2


class CUstreamCaptureMode(enum.Enum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUgraphDependencyType(enum.IntEnum):
    CU_GRAPH_DEPENDENCY_TYPE_DEFAULT = 0
    CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC = 1


class CUstream(int):
    """A stream's handle."""


class CUDA_KERNEL_NODE_PARAMS:
    """Fields as the launch layer sets them."""

    func: Function
    gridDimX = gridDimY = gridDimZ = blockDimX = blockDimY = blockDimZ = sharedMemBytes = kernelParams = 0


@dataclass
class CUgraphEdgeData:
    type: int = 0
    from_port: int = 0


@dataclass(frozen=True)
class Function:
    """A loaded kernel and the bytes of its parameters."""

    name: str
    params: tuple[int, ...]


@dataclass
class Launch:
    """One launch: the function's name, blocks, threads, bytes of shared memory, arguments, and the stream."""

    function: str
    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared: int
    values: tuple[int, ...]
    stream: int = 0


@dataclass
class FakeGraph:
    """Nodes in order of being added; edges as (from, to, data)."""

    nodes: list[Launch] = field(default_factory=list)
    edges: list[tuple[int, int, CUgraphEdgeData]] = field(default_factory=list)


@dataclass
class FakeDriver:
    """launches: in the order in which they ran. fail: function name -> the result it gives instead.

    capturing: handles of streams being captured.
    calls: names of the driver's functions called since the list was emptied.
    device_of: address -> GPU of memory that is not this one's.
    contexts: stream -> context, where it is not this GPU's.
    """

    major: int = 9
    minor: int = 0
    version: int = 13000
    devices: int = 1
    launches: list[Launch] = field(default_factory=list)
    fail: dict[str, CUresult] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    capturing: set[int] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    device_of: dict[int, int] = field(default_factory=dict)
    contexts: dict[int, int] = field(default_factory=dict)
    waits: list[tuple[int, int]] = field(default_factory=list)
    graphs: list[FakeGraph] = field(default_factory=list)
    pinned: list[np.ndarray] = field(default_factory=list)
    handles: int = 100

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute
    CUpointer_attribute = CUpointer_attribute
    CUstream_flags = CUstream_flags
    CUevent_flags = CUevent_flags
    CUstream = CUstream
    CUDA_KERNEL_NODE_PARAMS = CUDA_KERNEL_NODE_PARAMS
    CUgraphEdgeData = CUgraphEdgeData
    CUgraphDependencyType = CUgraphDependencyType
    CUstreamCaptureMode = CUstreamCaptureMode
    CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC = 1

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu"):
            object.__getattribute__(self, "calls").append(name)
            if name in (fail := object.__getattribute__(self, "fail")):
                return lambda *a: (fail[name], None)
        return object.__getattribute__(self, name)

    def _ok(self, *values: Any) -> tuple[Any, ...]:
        return (CUresult.CUDA_SUCCESS, *values)

    def _handle(self) -> int:
        self.handles += 1
        return self.handles

    def cuGetErrorString(self, code: CUresult) -> tuple[Any, ...]:
        return self._ok(code.name.lower().encode())

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return self._ok(self.devices)

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return self._ok(index)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        return self._ok(77 + device)

    def cuCtxSetCurrent(self, context: int) -> tuple[Any, ...]:
        return self._ok()

    def cuCtxPushCurrent(self, context: int) -> tuple[Any, ...]:
        return self._ok()

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        return self._ok(77)

    def cuCtxSynchronize(self) -> tuple[Any, ...]:
        return self._ok()

    def cuMemGetInfo(self) -> tuple[Any, ...]:
        return self._ok(1 << 20, 1 << 36)

    def cuDeviceGetName(self, size: int, device: int) -> tuple[Any, ...]:
        return self._ok(b"Fake H100\0\0")

    def cuDeviceTotalMem(self, device: int) -> tuple[Any, ...]:
        return self._ok(1 << 36)

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return self._ok(self.version)

    def cuDeviceGetAttribute(self, key: CUdevice_attribute, device: int) -> tuple[Any, ...]:
        if "CAPABILITY" in key.name:
            return self._ok(self.major if "MAJOR" in key.name else self.minor)
        return self._ok(key.value)

    def cuGetProcAddress(self, name: bytes, version: int, flags: int) -> tuple[Any, ...]:
        assert name == b"cuPointerGetAttribute" and version <= self.version
        return self._ok(ctypes.cast(self._pointer_attribute, ctypes.c_void_p).value, 0)

    @cached_property
    def _pointer_attribute(self) -> Any:
        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
        def answer(place: int, key: int, address: int) -> int:
            assert key == CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL.value
            ctypes.c_int.from_address(place).value = self.device_of.get(address, 0)
            return 0

        return answer

    def cuThreadExchangeStreamCaptureMode(self, mode: CUstreamCaptureMode) -> tuple[Any, ...]:
        return self._ok(CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL)

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        block = np.zeros(nbytes + 256, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block
        return self._ok(address)

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        del self.blocks[address]
        return self._ok()

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        self.pinned.append(np.zeros(nbytes, np.uint8))
        return self._ok(self.pinned[-1].ctypes.data)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._ok()

    def _copy(self, to: int, source: int, nbytes: int, stream: Any = None) -> tuple[Any, ...]:
        ctypes.memmove(to, source, nbytes)
        return self._ok()

    cuMemcpyHtoD = cuMemcpyDtoH = cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = _copy

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        return self._ok({k.name: k.params for k in read_cubin(image)} if image else {})

    def cuModuleUnload(self, module: dict[str, tuple[int, ...]]) -> tuple[Any, ...]:
        return self._ok()

    def cuModuleGetFunction(self, module: dict[str, tuple[int, ...]], name: bytes) -> tuple[Any, ...]:
        return self._ok(Function(name.decode(), module.get(name.decode(), ())))

    def cuFuncSetAttribute(self, function: Function, attribute: CUfunction_attribute, value: int) -> tuple[Any, ...]:
        self.limits[function.name] = value
        return self._ok()

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        return self._ok(CUstream(self._handle()))

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._ok()

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._ok()

    def cuStreamIsCapturing(self, stream: int) -> tuple[Any, ...]:
        return self._ok(int(int(stream) in self.capturing))

    def cuStreamGetCtx(self, stream: int) -> tuple[Any, ...]:
        return self._ok(self.contexts.get(int(stream), 77))

    def cuStreamWaitEvent(self, stream: int, event: list[int], flags: int) -> tuple[Any, ...]:
        self.waits.append((int(stream), event[0]))
        return self._ok()

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        return self._ok([0])

    def cuEventRecord(self, event: list[int], stream: int) -> tuple[Any, ...]:
        event[0] = int(stream)
        return self._ok()

    def cuEventQuery(self, event: list[int]) -> tuple[Any, ...]:
        return self._ok()

    def cuEventSynchronize(self, event: list[int]) -> tuple[Any, ...]:
        return self._ok()

    def cuEventDestroy(self, event: list[int]) -> tuple[Any, ...]:
        return self._ok()

    def cuEventElapsedTime(self, start: list[int], end: list[int]) -> tuple[Any, ...]:
        return self._ok(0.25)

    def cuGraphCreate(self, flags: int) -> tuple[Any, ...]:
        self.graphs.append(FakeGraph())
        return self._ok(self.graphs[-1])

    @staticmethod
    def _launch(p: CUDA_KERNEL_NODE_PARAMS) -> Launch:
        grid = (p.gridDimX, p.gridDimY, p.gridDimZ)
        return Launch(
            p.func.name, grid, (p.blockDimX, p.blockDimY, p.blockDimZ), p.sharedMemBytes,
            _arguments(p.func, p.kernelParams),
        )  # fmt: skip

    def cuGraphAddKernelNode(
        self, graph: FakeGraph, before: list[int], count: int, params: CUDA_KERNEL_NODE_PARAMS
    ) -> tuple[Any, ...]:
        assert len(before) == count
        node = len(graph.nodes)
        graph.nodes.append(self._launch(params))
        graph.edges += [(b, node, CUgraphEdgeData()) for b in before]
        return self._ok(node)

    def cuGraphAddDependencies(
        self, graph: FakeGraph, before: list[int], after: list[int], data: list[CUgraphEdgeData], count: int
    ) -> tuple[Any, ...]:
        graph.edges += list(zip(before, after, data, strict=True))
        return self._ok()

    def cuGraphInstantiate(self, graph: FakeGraph, flags: int) -> tuple[Any, ...]:
        return self._ok(list(graph.nodes))

    def cuGraphExecKernelNodeSetParams(
        self, graph: list[Launch], node: int, params: CUDA_KERNEL_NODE_PARAMS
    ) -> tuple[Any, ...]:
        graph[node] = self._launch(params)
        return self._ok()

    def cuGraphDestroy(self, graph: FakeGraph) -> tuple[Any, ...]:
        return self._ok()

    def cuGraphExecDestroy(self, graph: list[Launch]) -> tuple[Any, ...]:
        return self._ok()

    def cuGraphLaunch(self, graph: list[Launch], stream: int) -> tuple[Any, ...]:
        self.launches += graph
        return self._ok()

    def cuLaunchKernel(self, f: Function, *rest: Any) -> tuple[Any, ...]:
        gx, gy, gz, bx, by, bz, shared, stream, at, _ = rest
        self.launches.append(Launch(f.name, (gx, gy, gz), (bx, by, bz), shared, _arguments(f, at), int(stream)))
        return self._ok()


def _arguments(f: Function, address: int) -> tuple[int, ...]:
    each = (ctypes.c_void_p * max(1, len(f.params))).from_address(address)
    kinds = {4: ctypes.c_int32, 8: ctypes.c_uint64}
    return tuple(kinds[n].from_address(at).value for n, at in zip(f.params, each, strict=False))


class Interface:
    """An array of the fake GPU, as CuPy shows one."""

    def __init__(self, driver: FakeDriver, shape: tuple[int, ...], typestr: str = "<f4", **more: Any) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(typestr).itemsize + 64
        self.address = driver.cuMemAlloc(nbytes)[1] + more.pop("skew", 0)
        facts = {"shape": shape, "typestr": typestr, "data": (self.address, False), "version": 3, "stream": None}
        self.__cuda_array_interface__ = {**facts, **more}


class Tensor:
    """An array of the fake GPU, as PyTorch hands one over. streams: those its reader named."""

    def __init__(self, driver: FakeDriver, shape: tuple[int, ...], dtype: str = "float32", device: int = 0) -> None:
        self.address = driver.cuMemAlloc(4096)[1]
        self.shape, self.dtype, self.device = shape, dtype, device
        self.kind = dlpack.CUDA
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.device

    def __dlpack__(self, *, stream: int) -> Any:
        self.streams.append(stream)
        return dlpack.write(self.address, self.device, self.dtype, self.shape, self)
