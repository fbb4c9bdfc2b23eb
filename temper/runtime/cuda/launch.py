"""Kernel launches of a GPU plan: functions loaded, arguments packed as C, and runs of launches as graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from temper.errors import DeviceError
from temper.plan.cubins import DeviceFunction
from temper.runtime.cuda.driver import Gpu, Stream

#: Bytes of dynamic shared memory that a function may use without asking.
_PLAIN_SHARED = 48 << 10


class Functions:
    """The functions of a plan's archive, loaded when they are first asked for."""

    def __init__(self, gpu: Gpu, archive: Mapping[str, DeviceFunction]) -> None:
        self.gpu, self.archive = gpu, archive
        self._modules: list[Any] = []
        self._loaded: dict[str, Any] = {}

    def __del__(self) -> None:
        self.gpu.give_back(*(("cuModuleUnload", module) for module in self._modules))

    def get(self, name: str) -> tuple[Any, DeviceFunction]:
        """Handle and facts of a function. DeviceError if the GPU cannot run its code."""
        if name not in self.archive:
            raise DeviceError(f"the plan calls {name} but holds no code of it; build the plan anew")
        f = self.archive[name]
        if name not in self._loaded:
            d = self.gpu.driver
            what = f"loading {name} on {self.gpu.name} ({self.gpu.isa}), whose driver is for CUDA {self.gpu.cuda}"
            module = d("cuModuleLoadData", bytes(f.cubin), what=what)
            self._modules.append(module)
            handle = d("cuModuleGetFunction", module, f.entry.encode(), what=f"finding {f.entry}")
            if f.shared > _PLAIN_SHARED:
                limit = d.module.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                d("cuFuncSetAttribute", handle, limit, f.shared, what=f"{f.shared} bytes of shared memory for {name}")
            self._loaded[name] = handle
        return self._loaded[name], f


class LaunchCall:
    """One kernel launch with its arguments packed as C: pointers, int32 sizes, scratch pointers (null unless the kernel
    uses them).

    Every argument has eight bytes of its own, of which a kernel reads the first four where it takes an int32.
    """

    def __init__(
        self, functions: Functions, name: str, pointers: Sequence[int], sizes: Sequence[int], grid: int, label: str
    ) -> None:
        """grid: blocks in x; a launch of none is left out. label: the layer's name, for errors."""
        self.gpu, self._code = functions.gpu, functions  # whose modules stay loaded as long as this
        self.handle, self.function = functions.get(name)
        self.grid, self.label = grid, label
        f = self.function
        extra = [0] * f.scratch
        if f.scratch_bytes:
            extra[0] = pointers[-1]
        values = (*pointers, *(s & 0xFFFFFFFF for s in sizes), *extra)
        self.values = (ctypes.c_uint64 * max(1, len(values)))(*values)
        start = ctypes.addressof(self.values)
        self._each = (ctypes.c_void_p * max(1, len(values)))(*(start + 8 * i for i in range(len(values))))
        self.parameters = ctypes.addressof(self._each)
        #: as a node of a graph
        self.node = self.gpu.driver.module.CUDA_KERNEL_NODE_PARAMS()
        self.node.func = self.handle
        self.node.gridDimX, self.node.gridDimY, self.node.gridDimZ = grid * f.clusters, 1, 1
        self.node.blockDimX, self.node.blockDimY, self.node.blockDimZ = f.threads, 1, 1
        self.node.sharedMemBytes = f.shared
        self.node.kernelParams = self.parameters

    def run(self, stream: Any) -> None:
        """Puts the launch on a stream. DeviceError names the layer."""
        f = self.function
        if self.grid:
            self.gpu.driver(
                "cuLaunchKernel", self.handle, self.grid * f.clusters, 1, 1, f.threads, 1, 1, f.shared, stream,
                self.parameters, 0, what=f"launching '{self.label}'",
            )  # fmt: skip


class Graph:
    """Launches as an instantiated CUDA graph. A kernel that waits itself for those it depends on is started while they
    end (programmatic dependent launch)."""

    def __init__(
        self, gpu: Gpu, launches: Sequence[LaunchCall], before: Sequence[Sequence[int]] | None = None
    ) -> None:
        """before: for every launch the earlier ones it depends on; the one before it if None. All have blocks."""
        self.gpu, self.launches = gpu, list(launches)
        self.label = _span(self.launches)
        self._launching = f"launching {self.label}"
        self._graph = self.exec = None
        d = gpu.driver
        self._graph = d("cuGraphCreate", 0)
        self._nodes: list[Any] = []
        for x in self.launches:
            node = d("cuGraphAddKernelNode", self._graph, [], 0, x.node, what=f"adding '{x.label}' to a graph")
            self._nodes.append(node)
        if before is None:
            before = [[i - 1] if i else [] for i in range(len(self.launches))]
        self._connect([(j, i) for i, all_ in enumerate(before) for j in all_])
        self.exec = d("cuGraphInstantiate", self._graph, 0, what=f"making a graph of {self.label}")
        self._numbers = {id(x): i for i, x in enumerate(self.launches)}

    def _connect(self, edges: Sequence[tuple[int, int]]) -> None:
        if not edges:
            return
        module = self.gpu.driver.module
        data = []
        for _, i in edges:
            edge = module.CUgraphEdgeData()
            if self.launches[i].function.waits:
                edge.type = int(module.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC)
                edge.from_port = int(module.CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC)
            data.append(edge)
        # version 13 of cuda-bindings has only the newer of two functions, under the plain name
        name = "cuGraphAddDependencies"
        name += "_v2" if hasattr(module, f"{name}_v2") else ""
        first, second = ([self._nodes[e[k]] for e in edges] for k in (0, 1))
        self.gpu.driver(name, self._graph, first, second, data, len(edges), what=f"connecting {self.label}")

    def __del__(self) -> None:
        made = (("cuGraphExecDestroy", self.exec), ("cuGraphDestroy", self._graph))
        self.gpu.give_back(*((name, x) for name, x in made if x is not None))

    def update(self, launch: LaunchCall) -> None:
        """Makes later runs use a launch's arguments as they are now."""
        i = self._numbers.get(id(launch))
        if i is not None:
            self.gpu.driver(
                "cuGraphExecKernelNodeSetParams", self.exec, self._nodes[i], launch.node,
                what=f"changing the addresses of '{launch.label}'",
            )  # fmt: skip

    def launch(self, stream: Stream) -> None:
        self.gpu.driver("cuGraphLaunch", self.exec, stream.handle, what=self._launching)


def _span(launches: Sequence[LaunchCall]) -> str:
    """A run of launches in words."""
    if len(launches) < 2:
        return f"'{launches[0].label}'" if launches else "no kernel"
    return f"{len(launches)} kernels, '{launches[0].label}' to '{launches[-1].label}'"
