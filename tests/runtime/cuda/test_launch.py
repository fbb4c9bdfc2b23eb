"""GPU plans against a driver that writes launches down: addresses, arguments, grids, graphs, host steps and errors."""

from __future__ import annotations

import ctypes
import importlib.util

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import ConfigError, DeviceError, PlanError, TemperError
from temper.plan.cubins import DeviceFunction, from_archive, to_archive
from temper.plan.file import from_bytes, to_bytes
from temper.plan.format import Native, Plan
from temper.runtime.cuda.bound import DeviceHostCall
from temper.runtime.cuda.context import CudaContext
from temper.runtime.cuda.driver import Gpu, runs_on
from temper.runtime.cuda.launch import Functions, Graph, LaunchCall
from temper.runtime.engine import Engine
from temper.runtime.steps import Run
from temper.runtime.trace import trace
from temper.tactics.cuda.sources import cuda_tactics
from tests.runtime.cuda.fake import CUgraphDependencyType, CUresult, FakeDriver

rng = np.random.default_rng(3)
W = rng.standard_normal((8, 4, 3, 3), np.float32)
#: without its kernel, the sum along an axis is a host step between two kernels
NODES = (
    helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="first"),
    helper.make_node("CumSum", ["a", "axis"], ["b"], name="host"),
    helper.make_node("Conv", ["b", "v"], ["y"], name="second"),
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """For any batch of at most 4."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: no GPU kernel can be compiled")
    constants = {"w": W, "v": rng.standard_normal((6, 8, 1, 1), np.float32), "axis": np.array(3)}
    graph = helper.make_graph(
        list(NODES),
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4, 5, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 6, 5, 5))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    without = tuple(t.name for t in cuda_tactics() if "CumSum" in t.ops)
    profile = Profile.of(N=(1, 2, 4))
    config = BuildConfig(device="cuda:sm_90", effort=0, profiles=(profile,), disable=without)
    return build_plan(model.SerializeToString(), config).plan


def test_the_plan_states_its_device_and_survives_its_file(plan: Plan) -> None:
    again = from_bytes(to_bytes(plan))
    assert (again.device, again.isa, again.needs, bytes(again.host)) == ("cuda", "sm_90", (), b"")
    functions = from_archive(again.kernels)
    launched = [e for s in again.programs[0] if isinstance(s, Native) for x in s.launches for e in x.entries]
    assert set(launched) == set(functions)
    assert all(bytes(f.cubin).startswith(b"\x7fELF") for f in functions.values())


def test_arguments_are_packed_as_the_kernel_takes_them(plan: Plan) -> None:
    driver = FakeDriver()
    engine = Engine(plan, gpu=Gpu(0, driver))
    engine(x=rng.standard_normal((3, 4, 5, 5), np.float32))
    functions = from_archive(plan.kernels)
    launches = [x for s in plan.programs[0] if isinstance(s, Native) for x in s.launches]
    assert [x.function for x in driver.launches] == [functions[x.entries[0]].entry for x in launches]
    for planned, made in zip(launches, driver.launches, strict=True):
        f = functions[planned.entries[0]]
        pointers, sizes = len(planned.args), len(planned.symbols)
        assert made.threads == (f.threads, 1, 1) and made.shared == f.shared
        assert len(made.values) == pointers + sizes + f.scratch
        assert made.values[pointers : pointers + sizes] == (3,) * sizes
        assert made.values[pointers + sizes :] == (0,) * f.scratch
        inside = [any(a <= p < a + b.nbytes for a, b in driver.blocks.items()) for p in made.values[:pointers]]
        assert all(inside)
        # 75 pixels of 6 or 8 channels: never more blocks than elements
        assert 1 <= made.blocks[0] <= 75 * 8


def test_one_graph_serves_all_runs_of_a_shape(plan: Plan) -> None:
    driver = FakeDriver()
    engine = Engine(plan, gpu=Gpu(0, driver))
    x = rng.standard_normal((2, 4, 5, 5), np.float32)
    engine(x=x)
    first = list(driver.launches)
    driver.fail["cuGraphInstantiate"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY  # a second graph would fail
    engine(x=x)
    assert driver.launches == first * 2


def test_host_steps_get_what_kernels_left_and_hand_on_what_they_made(plan: Plan) -> None:
    engine = Engine(plan, gpu=Gpu(0, FakeDriver()))
    x = np.ones((1, 4, 5, 5), np.float32)
    context = engine.context()
    assert isinstance(context, CudaContext)
    context(x)
    bound = context._bound_for((x.shape,))
    call = next(s for s in bound.steps if isinstance(s, DeviceHostCall))
    assert call.step.op == "CumSum" and call.step.inputs[0] is not None
    read, written = (_floats(bound.address(t.ref), 200) for t in (call.step.inputs[0], call.step.outputs[0]))
    read[:] = 1
    call.run(Run([x], [], {"N": 1}))
    assert sorted(set(written.tolist())) == [1, 2, 3, 4, 5]
    assert engine.profile_layers([x])[0].seconds >= 0


def _floats(address: int, count: int) -> np.ndarray:
    """Device memory of the fake driver."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def test_wide_shared_memory_is_asked_for() -> None:
    driver = FakeDriver()
    functions = Functions(Gpu(0, driver), {"k": DeviceFunction("k", b"", 128, shared=100_000)})
    LaunchCall(functions, "k", [256], [7], 3, "layer").run(5)
    assert driver.limits == {"k": 100_000}
    assert driver.launches[0].blocks == (3, 1, 1) and driver.launches[0].stream == 5


def test_kernels_that_wait_are_started_early() -> None:
    driver = FakeDriver()
    gpu = Gpu(0, driver)
    code = {"a": DeviceFunction("a", b"", 32), "b": DeviceFunction("b", b"", 32, waits=True)}
    functions = Functions(gpu, code)
    calls = [LaunchCall(functions, name, [], [], 1, name) for name in "abb"]
    graph = Graph(gpu, calls, [[], [0], [0]])
    early = int(CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC)
    edges = [(first, second, data.type, data.from_port) for first, second, data in driver.graphs[-1].edges]
    assert edges == [(0, 1, early, 1), (0, 2, early, 1)] and graph.label == "3 kernels, 'a' to 'b'"
    Graph(gpu, calls[::-1])
    assert [(first, second, data.type) for first, second, data in driver.graphs[-1].edges] == [(0, 1, early), (1, 2, 0)]


def test_launches_of_no_block_are_left_out() -> None:
    driver = FakeDriver()
    LaunchCall(Functions(Gpu(0, driver), {"k": DeviceFunction("k", b"", 32)}), "k", [], [], 0, "none").run(5)
    assert driver.launches == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("cuMemAlloc", "no room for .* KiB for the model's constants: 1.0 MiB of 65536.0 MiB are free"),
        ("cuModuleLoadData", "loading .* on Fake H100"),
        ("cuGraphAddKernelNode", "adding '\\w+' to a graph"),
        ("cuGraphLaunch", "launching 2 kernels, '\\w+' to '\\w+'"),
        ("cuStreamSynchronize", "operands of host step"),
    ],
)
def test_a_failure_names_the_layer(plan: Plan, call: str, words: str) -> None:
    driver = FakeDriver()
    gpu = Gpu(0, driver)
    loaded = Engine(plan, gpu=gpu)
    driver.fail[call] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(DeviceError, match=words):
        (Engine(plan, gpu=gpu) if call == "cuMemAlloc" else loaded)(x=np.ones((1, 4, 5, 5), np.float32))


def test_code_for_another_chip_is_refused(plan: Plan) -> None:
    with pytest.raises(PlanError, match="built for sm_90, this GPU .* is sm_80"):
        Engine(plan, gpu=Gpu(0, FakeDriver(major=8)))
    assert runs_on("sm_80", "sm_89") and not runs_on("sm_89", "sm_80") and not runs_on("sm_80", "sm_90")


def test_damaged_code_is_refused() -> None:
    data = to_archive({"k": DeviceFunction("k", b"\x7fELF", 128)})
    assert from_archive(data)["k"].cubin == b"\x7fELF"
    for broken in (b"", data[:12], data[:-2], data.replace(b'"threads"', b'"thraeds"')):
        with pytest.raises(PlanError, match="GPU code is damaged"):
            from_archive(broken)


@pytest.mark.parametrize("device", ["gpu", "cuda:sm_70", "cpu:0", "cuda:x"])
def test_unknown_devices_are_named(device: str) -> None:
    with pytest.raises(ConfigError, match="there is no device"):
        build_plan(b"", BuildConfig(device=device))


def test_timing_needs_the_gpu() -> None:
    with pytest.raises(ConfigError, match="effort 0"):
        build_plan(b"", BuildConfig(device="cuda:sm_90", effort=1))


def test_a_machine_without_a_driver_says_so(plan: Plan) -> None:
    try:
        Gpu()
    except TemperError as e:
        assert "driver" in str(e) or "cuda-bindings" in str(e)
        with pytest.raises(DeviceError):
            Engine(plan)
        held = Engine(plan, defer=True)  # what `temper.build` returns for a GPU that is not here
        assert held.inputs[0].name == "x"
        with pytest.raises(DeviceError):
            held(np.zeros((1, 4, 5, 5), np.float32))
    else:
        pytest.skip("this machine has a GPU")


def test_steps_are_run_one_by_one_and_their_results_read(plan: Plan) -> None:
    driver = FakeDriver()
    engine = Engine(plan, gpu=Gpu(0, driver))
    steps = list(trace(engine, {"x": np.ones((2, 4, 5, 5), np.float32)}))
    launches = [x for s in plan.programs[0] for x in (s.launches if isinstance(s, Native) else ())]
    assert len(driver.launches) == len(launches)
    names = [n for s in steps for n in s.tensors]
    assert len(names) == len(set(names)) >= 3
    assert all(a.shape[0] == 2 and not a.any() for s in steps for a in s.tensors.values())
