"""A CUDA driver without a GPU: device memory is host memory, and launches are written down instead of run."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class CUdevice_attribute(enum.Enum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 9
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 132
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 50 << 20


class CUfunction_attribute(enum.Enum):
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class CUstream_flags(enum.Enum):
    CU_STREAM_NON_BLOCKING = 1


class CUstreamCaptureMode(enum.Enum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


@dataclass
class Launch:
    """One cuLaunchKernel: the function's name, blocks, threads, bytes of shared memory, arguments and their C types."""

    function: str
    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared: int
    values: tuple[Any, ...]
    types: tuple[Any, ...]


@dataclass
class FakeDriver:
    """launches: in the order in which graphs ran them. fail: function name -> the result it gives instead."""

    major: int = 9
    minor: int = 0
    launches: list[Launch] = field(default_factory=list)
    fail: dict[str, CUresult] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    _captured: list[Launch] | None = None

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute
    CUstream_flags = CUstream_flags
    CUstreamCaptureMode = CUstreamCaptureMode

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and name in (fail := object.__getattribute__(self, "fail")):
            return lambda *a: (fail[name], None)
        return object.__getattribute__(self, name)

    def _ok(self, *values: Any) -> tuple[Any, ...]:
        return (CUresult.CUDA_SUCCESS, *values)

    def cuGetErrorString(self, code: CUresult) -> tuple[Any, ...]:
        return self._ok(code.name.lower().encode())

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return self._ok(1)

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return self._ok(index)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        return self._ok("context")

    def cuCtxSetCurrent(self, context: str) -> tuple[Any, ...]:
        return self._ok()

    def cuDeviceGetName(self, size: int, device: int) -> tuple[Any, ...]:
        return self._ok(b"Fake H100\0\0")

    def cuDeviceTotalMem(self, device: int) -> tuple[Any, ...]:
        return self._ok(1 << 36)

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return self._ok(13000)

    def cuDeviceGetAttribute(self, key: CUdevice_attribute, device: int) -> tuple[Any, ...]:
        if "CAPABILITY" in key.name:
            return self._ok(self.major if "MAJOR" in key.name else self.minor)
        return self._ok(key.value)

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        block = np.zeros(nbytes + 256, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block
        return self._ok(address)

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        del self.blocks[address]
        return self._ok()

    def _copy(self, to: int, source: int, nbytes: int, stream: Any = None) -> tuple[Any, ...]:
        ctypes.memmove(to, source, nbytes)
        return self._ok()

    cuMemcpyHtoD = cuMemcpyDtoH = cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = _copy

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        return self._ok("module")

    def cuModuleUnload(self, module: str) -> tuple[Any, ...]:
        return self._ok()

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[Any, ...]:
        return self._ok(name.decode())

    def cuFuncSetAttribute(self, function: str, attribute: CUfunction_attribute, value: int) -> tuple[Any, ...]:
        self.limits[function] = value
        return self._ok()

    def cuStreamCreate(self, flags: CUstream_flags) -> tuple[Any, ...]:
        return self._ok("stream")

    def cuStreamDestroy(self, stream: str) -> tuple[Any, ...]:
        return self._ok()

    def cuStreamSynchronize(self, stream: str) -> tuple[Any, ...]:
        return self._ok()

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        return self._ok("event")

    def cuEventRecord(self, event: str, stream: str) -> tuple[Any, ...]:
        return self._ok()

    def cuEventSynchronize(self, event: str) -> tuple[Any, ...]:
        return self._ok()

    def cuEventDestroy(self, event: str) -> tuple[Any, ...]:
        return self._ok()

    def cuEventElapsedTime(self, start: str, end: str) -> tuple[Any, ...]:
        return self._ok(0.25)

    def cuStreamBeginCapture(self, stream: str, mode: CUstreamCaptureMode) -> tuple[Any, ...]:
        self._captured = []
        return self._ok()

    def cuStreamEndCapture(self, stream: str) -> tuple[Any, ...]:
        graph, self._captured = self._captured, None
        return self._ok(graph)

    def cuGraphInstantiate(self, graph: list[Launch], flags: int) -> tuple[Any, ...]:
        return self._ok(list(graph))

    def cuGraphDestroy(self, graph: list[Launch]) -> tuple[Any, ...]:
        return self._ok()

    def cuGraphExecDestroy(self, graph: list[Launch]) -> tuple[Any, ...]:
        return self._ok()

    def cuGraphLaunch(self, graph: list[Launch], stream: str) -> tuple[Any, ...]:
        self.launches += graph
        return self._ok()

    def cuLaunchKernel(
        self, f: str, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: str, args: Any, _: int
    ) -> tuple[Any, ...]:
        values, types = args
        launch = Launch(f, (gx, gy, gz), (bx, by, bz), shared, tuple(values), tuple(types))
        (self.launches if self._captured is None else self._captured).append(launch)
        return self._ok()
