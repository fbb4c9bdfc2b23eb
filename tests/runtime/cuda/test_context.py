"""Contexts of GPU plans against a driver that writes launches down: arrays in and out, streams, captures, faults."""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from temper.errors import ConfigError, DeviceError, DeviceMemoryError, InputError, PlanError, TemperError
from temper.plan.cubins import from_archive, to_archive
from temper.plan.format import Native, Plan
from temper.runtime.cuda import dlpack, staging
from temper.runtime.cuda.arrays import DeviceArray, Pool
from temper.runtime.cuda.context import CudaContext, stream_handle
from temper.runtime.cuda.driver import Gpu, Stream
from temper.runtime.engine import Engine, gpu_number
from tests.runtime.cuda.fake import CUresult, FakeDriver, Interface, Tensor


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def engine(native_plan: Plan, driver: FakeDriver) -> Engine:
    return Engine(native_plan, gpu=Gpu(0, driver))


def _context(engine: Engine, **options: Any) -> CudaContext:
    context = engine.context(**options)
    assert isinstance(context, CudaContext)
    return context


def _used(driver: FakeDriver, address: int) -> bool:
    return any(address in x.values for x in driver.launches)


def test_arrays_on_the_gpu_are_read_and_written_where_they_are(engine: Engine, driver: FakeDriver) -> None:
    x, y = Tensor(driver, (2, 4, 5, 5)), Interface(driver, (2, 8, 1, 1))
    driver.calls.clear()
    result = engine(x, out=y)
    assert result is y
    assert _used(driver, x.address) and _used(driver, y.address)
    assert not [c for c in driver.calls if c.startswith("cuMemcpy")]
    assert x.streams and x.streams[0] > 2  # the engine's own stream


def test_results_follow_the_inputs(engine: Engine, driver: FakeDriver) -> None:
    x = np.zeros((1, 4, 5, 5), np.float32)
    assert isinstance(engine(x), np.ndarray)
    y = engine(Interface(driver, x.shape))
    assert isinstance(y, DeviceArray) and y.shape == (1, 8, 1, 1) and y.dtype == np.float32
    assert isinstance(engine(Interface(driver, x.shape), out=np.empty((1, 8, 1, 1), np.float32)), np.ndarray)


def test_only_nodes_that_touch_a_moved_array_change(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine)
    first, second = Interface(driver, (2, 4, 5, 5)), Interface(driver, (2, 4, 5, 5))
    y = Interface(driver, (2, 8, 1, 1))
    context(first, out=y)
    driver.calls.clear()
    driver.launches.clear()
    context(first, out=y)
    assert "cuGraphExecKernelNodeSetParams" not in driver.calls and "cuGraphInstantiate" not in driver.calls
    context(second, out=y)
    assert driver.calls.count("cuGraphExecKernelNodeSetParams") == 1 and "cuGraphInstantiate" not in driver.calls
    one, other = driver.launches[: len(driver.launches) // 2], driver.launches[len(driver.launches) // 2 :]
    changed = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    assert len(changed) == 1 and first.address in changed[0][0].values and second.address in changed[0][1].values


def test_graphs_of_the_shapes_used_last_are_kept(
    engine: Engine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("temper.runtime.context._KEPT_SHAPES", 2)
    context = _context(engine)  # bound to a batch of 2, the optimum

    def made(batch: int) -> bool:
        driver.calls.clear()
        context(np.zeros((batch, 4, 5, 5), np.float32))
        return "cuGraphInstantiate" in driver.calls

    assert [made(n) for n in (2, 1, 2, 3, 2, 1)] == [False, True, False, True, False, True]
    assert "cuGraphExecDestroy" in driver.calls  # what is dropped is given back at once


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: Interface(d, (1, 4, 5, 5), "<f2"), "input 'x' has dtype float16, expected float32"),
        (lambda d: Interface(d, (1, 4, 5, 5), strides=(400, 4, 80, 16)), "input 'x' is not contiguous"),
        (lambda d: Interface(d, (1, 4, 5, 5), mask=1), "input 'x' has a mask"),
        (lambda d: Interface(d, (1, 4, 5, 5), stream=0), "input 'x' names stream 0"),
        (lambda d: Interface(d, (1, 3, 5, 5)), "input 'x' has shape .* axis 1 must be 4, not 3"),
        (lambda d: Interface(d, (9, 4, 5, 5)), "no profile of this plan holds N = 9"),
        (lambda d: Tensor(d, (1, 4, 5, 5), device=1), "input 'x' is on GPU 1, the engine on GPU 0"),
        (lambda d: "text", "input 'x' is a str"),
    ],
)
def test_what_cannot_be_used_is_named(engine: Engine, driver: FakeDriver, make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        engine(make(driver))


def test_arrays_in_other_memory_are_named(engine: Engine, driver: FakeDriver) -> None:
    x = Tensor(driver, (1, 4, 5, 5))
    x.kind = 1
    with pytest.raises(InputError, match="input 'x' is not on a GPU"):
        engine(x)
    far = Interface(driver, (1, 4, 5, 5))
    driver.device_of[far.address] = 3
    with pytest.raises(InputError, match="input 'x' is on GPU 3"):
        engine(far)


def test_outputs_given_are_checked(engine: Engine, driver: FakeDriver) -> None:
    x = Interface(driver, (1, 4, 5, 5))
    with pytest.raises(InputError, match=r"out for 'y' has shape \(1, 7, 1, 1\), expected \(1, 8, 1, 1\)"):
        engine(x, out=Interface(driver, (1, 7, 1, 1)))
    inside = Interface(driver, (1, 8, 1, 1))
    inside.__cuda_array_interface__["data"] = (x.address + 16, False)
    with pytest.raises(InputError, match="out for 'y' shares memory with 'x'"):
        engine(x, out=inside)


def test_misaligned_arrays_are_copied(engine: Engine, driver: FakeDriver) -> None:
    x = Interface(driver, (1, 4, 5, 5), skew=4)
    driver.calls.clear()
    engine(x)
    assert driver.calls.count("cuMemcpyDtoDAsync") == 1
    assert not _used(driver, x.address)


def test_other_streams_are_waited_for(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine)
    own = context.stream.number
    context(Interface(driver, (1, 4, 5, 5), stream=55))
    assert (own, 55) in driver.waits
    driver.waits.clear()
    context(Interface(driver, (1, 4, 5, 5), version=2))  # which says nothing: the default stream
    assert (own, 1) in driver.waits


def test_a_callers_stream_is_used_and_not_waited_for(engine: Engine, driver: FakeDriver) -> None:
    class Torch:
        cuda_stream = 4242

    context = _context(engine, stream=Torch())
    x = Tensor(driver, (2, 4, 5, 5))
    driver.calls.clear()
    y = context(x)
    assert x.streams == [4242] and "cuStreamSynchronize" not in driver.calls
    del x
    gc.collect()
    assert context._moves._held  # the input lives until the GPU is done with it
    assert y.__cuda_array_interface__["stream"] == 4242
    y.__dlpack__(stream=4242)
    assert not driver.waits
    y.__dlpack__(stream=7)
    assert driver.waits == [(7, 4242)]


def test_streams_of_any_library() -> None:
    class Cupy:
        ptr = 11

    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 12

    assert [stream_handle(s) for s in (10, Cupy(), Protocol())] == [10, 11, 12]
    with pytest.raises(TemperError, match="stream is a str"):
        stream_handle("default")
    with pytest.raises(TemperError, match="stream -1 is not a handle"):
        stream_handle(-1)


def test_host_arrays_have_been_read_when_a_call_returns(engine: Engine, driver: FakeDriver) -> None:
    """The GPU reads pinned ones by itself, whenever the caller's stream is that far."""
    context, y = _context(engine, stream=4242), Interface(driver, (2, 8, 1, 1))
    driver.calls.clear()
    context(np.zeros((2, 4, 5, 5), np.float32), out=y)
    assert "cuStreamSynchronize" in driver.calls


def test_garbage_may_be_found_while_memory_is_taken(driver: FakeDriver) -> None:
    pool = Pool(Stream(Gpu(0, driver)))
    block = pool.take(64, "a test")
    with pool._lock:
        del block  # as the interpreter may do at any moment
    assert pool._free[512]


def test_a_stream_of_another_gpu_is_refused(engine: Engine, driver: FakeDriver) -> None:
    driver.contexts[99] = 78
    with pytest.raises(DeviceError, match="stream 0x63 is not one of GPU 0"):
        engine.context(stream=99)


def test_captured_streams_get_the_launches_themselves(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine, stream=4242)
    x, y = Interface(driver, (2, 4, 5, 5)), Interface(driver, (2, 8, 1, 1))
    context(x, out=y)
    whole = [x.function for x in driver.launches]
    driver.capturing.add(4242)
    driver.launches.clear()
    driver.calls.clear()
    context(x, out=y)
    assert [x.function for x in driver.launches] == whole and {x.stream for x in driver.launches} == {4242}
    assert not {"cuGraphLaunch", "cuStreamSynchronize", "cuMemAlloc", "cuEventRecord"} & set(driver.calls)
    with pytest.raises(TemperError, match="captured: give input 'x' on the GPU"):
        context(np.zeros((2, 4, 5, 5), np.float32), out=y)


def test_a_capture_that_reaches_the_engines_own_stream_is_an_error(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine)
    driver.capturing.add(context.stream.number)
    with pytest.raises(TemperError, match="being captured; run in a context on that stream"):
        context(Interface(driver, (1, 4, 5, 5)))


def test_enqueue_runs_on_what_was_set(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine, stream=4242)
    with pytest.raises(InputError, match="no array is set for input x"):
        context.enqueue()
    x, y = Tensor(driver, (2, 4, 5, 5)), Tensor(driver, (2, 8, 1, 1))
    context.set_input("x", x)
    context.enqueue()
    own = context.outputs["y"]
    assert isinstance(own, DeviceArray) and _used(driver, x.address) and _used(driver, own.address)
    context.set_output("y", y)
    context.enqueue()
    assert _used(driver, y.address) and context.outputs["y"] is y
    driver.calls.clear()
    context.enqueue()
    assert set(driver.calls) <= {"cuCtxSetCurrent", "cuStreamIsCapturing", "cuGraphLaunch"}
    context(Tensor(driver, (2, 4, 5, 5)))  # moves the graph's addresses, which the next enqueue moves back
    driver.launches.clear()
    context.enqueue()
    assert _used(driver, x.address) and _used(driver, y.address)
    context.set_input("x", Tensor(driver, (1, 4, 5, 5)))
    with pytest.raises(InputError, match="out for 'y' has shape"):
        context.enqueue()
    with pytest.raises(InputError, match="there is no input 'z'; the model's are x"):
        context.set_input("z", x)
    with pytest.raises(InputError, match="enqueue takes arrays on the GPU"):
        context.set_input("x", np.zeros((1, 4, 5, 5), np.float32))


def test_a_result_lives_as_long_as_anybody_holds_it(engine: Engine, driver: FakeDriver) -> None:
    context = _context(engine)
    x = Interface(driver, (2, 4, 5, 5))
    y = context(x)
    address = y.address
    capsule = y.__dlpack__()
    del y
    gc.collect()
    assert dlpack.read(capsule).address == address
    assert context(x).address != address  # still held by the capsule
    del capsule
    gc.collect()
    assert len(context._moves._pool._foreign) == 1  # another stream may still read it


def test_memory_that_other_streams_saw_is_used_again_after_a_wait(driver: FakeDriver) -> None:
    pool = Pool(Stream(Gpu(0, driver)))
    block = pool.take(64, "a test")
    address = block.memory.address
    del block
    assert pool.take(64, "a test").memory.address == address  # its own stream keeps the order
    blocks = [pool.take(64, "a test") for _ in range(8)]
    for b in blocks:
        b.foreign = True
    addresses = {b.memory.address for b in blocks}
    del b, blocks
    gc.collect()
    driver.calls.clear()
    assert pool.take(64, "a test").memory.address in addresses
    assert "cuCtxSynchronize" in driver.calls


def test_results_of_many_sizes_share_blocks(driver: FakeDriver) -> None:
    pool = Pool(Stream(Gpu(0, driver)))
    before = len(driver.blocks)
    for n in range(1 << 12, 1 << 14):
        pool.take(n, "a test")
    assert len(driver.blocks) - before <= 17  # eight sizes a doubling
    kept = pool.take(1 << 14, "a test")
    driver.fail["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(DeviceMemoryError):
        pool.take(1 << 20, "a test")
    assert len(driver.blocks) - before == 1 and kept.memory.address in driver.blocks  # the others were freed for it


def test_capsules_nobody_takes_are_freed() -> None:
    class Owner:
        pass

    owner = Owner()
    gone = weakref.ref(owner)
    array = np.arange(6, dtype=np.float32)
    capsule = dlpack.write(array.ctypes.data, 0, "float32", (2, 3), owner)
    t = dlpack.read(capsule)
    assert (t.shape, t.strides, t.dtype, t.kind, t.index) == ((2, 3), (3, 1), "float32", dlpack.CUDA, 0)
    assert t.contiguous and t.address == array.ctypes.data
    del owner, t
    gc.collect()
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None


def test_results_say_what_they_are(engine: Engine, driver: FakeDriver) -> None:
    y = engine(Interface(driver, (2, 4, 5, 5)))
    assert (y.ndim, y.size, y.nbytes, len(y)) == (4, 16, 64, 2) and "GPU 0" in repr(y)
    assert y.numpy().shape == (2, 8, 1, 1) and np.asarray(y).dtype == np.float32
    assert y.__dlpack_device__() == (2, 0)
    with pytest.raises(BufferError, match="copy it to another device"):
        y.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="copy was asked"):
        y.__dlpack__(copy=True)
    with pytest.raises(ValueError, match="stream 0"):
        y.__dlpack__(stream=0)


def test_a_fault_is_told_ever_after(engine: Engine, driver: FakeDriver) -> None:
    x = Interface(driver, (1, 4, 5, 5))
    y = engine(x)
    driver.fail["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="running 'native'.*ILLEGAL_ADDRESS.*TEMPER_SYNC=1"):
        engine(x)
    with pytest.raises(DeviceError, match="since a kernel faulted before: running 'native'"):
        engine(x)
    with pytest.raises(DeviceError, match="the array is lost"):
        _ = y.__cuda_array_interface__


def test_with_the_knob_a_fault_names_its_layer(
    native_plan: Plan, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_SYNC", "1")
    engine = Engine(native_plan, gpu=Gpu(0, driver))
    x = np.zeros((1, 4, 5, 5), np.float32)
    engine(x)
    driver.fail["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="running 'Transpose"):
        engine(x)


def test_the_second_gpu_is_used_where_it_is_named(native_plan: Plan) -> None:
    driver = FakeDriver(devices=2)
    engine = Engine(native_plan, gpu=Gpu(1, driver))
    assert driver.calls.count("cuDevicePrimaryCtxRetain") == 1 and engine._shared is not None
    x = Tensor(driver, (1, 4, 5, 5), device=1)
    y = engine(x)
    assert isinstance(y, DeviceArray) and y.device == 1 and y.__dlpack_device__() == (2, 1)
    with pytest.raises(InputError, match="input 'x' is on GPU 0, the engine on GPU 1"):
        engine(Tensor(driver, (1, 4, 5, 5), device=0))
    driver.contexts[99] = 78  # the context of GPU 1
    assert _context(engine, stream=99).stream.number == 99
    with pytest.raises(DeviceError, match="stream 0x62 is not one of GPU 1"):
        engine.context(stream=98)
    assert gpu_number("cuda:1") == 1 and gpu_number("") == gpu_number("cuda") == 0
    with pytest.raises(ConfigError, match="cannot run on 'cuda:-1'"):
        gpu_number("cuda:-1")


def test_contexts_have_streams_of_their_own(engine: Engine) -> None:
    assert _context(engine).stream.number != _context(engine).stream.number


def test_drivers_too_old_are_refused() -> None:
    with pytest.raises(DeviceError, match="version 11.8, GPU plans need 12.0"):
        Gpu(0, FakeDriver(version=11080))
    with pytest.raises(DeviceError, match="there is no GPU 3: the driver sees 2"):
        Gpu(3, FakeDriver(devices=2))


@pytest.mark.parametrize("nbytes", [1, staging.CHUNK, 14 * staging.CHUNK + 12345])
def test_big_arrays_come_over_whole(driver: FakeDriver, nbytes: int) -> None:
    gpu = Gpu(0, driver)
    stream, chunks = Stream(gpu), staging.Staging(gpu)
    source = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    memory = gpu.allocate(nbytes, "a test")
    for _ in range(2):  # chunks are used again
        chunks.upload(memory.address, source, stream)
        back = np.zeros_like(source)
        chunks.download(back, memory.address, stream)
        np.testing.assert_array_equal(back, source)


def test_layers_are_marked_on_request(
    engine: Engine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, native_plan: Plan
) -> None:
    """With a stand-in for the nvtx package, which notes what launches happen within each range."""
    marks: list[tuple[str, int]] = []

    class Domain:
        def get_event_attributes(self, message: str) -> str:
            return message

        def push_range(self, message: str) -> None:
            marks.append((message, len(driver.launches)))

        def pop_range(self) -> None:
            name, before = marks.pop()
            marks.append((name, len(driver.launches) - before))

    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(get_domain=lambda name: Domain()))
    context = _context(engine, ranges=True)
    context(np.zeros((2, 4, 5, 5), np.float32))
    launches = [x.name for s in native_plan.programs[0] if isinstance(s, Native) for x in s.launches]
    assert marks == [(name, 1) for name in launches]
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(DeviceError, match="needs the package nvtx"):
        engine.context(ranges=True)


def test_layers_have_times(engine: Engine, driver: FakeDriver) -> None:
    """Events of the fake driver are 0.25 ms apart, whatever runs between them: 20 runs of a launch, or one in place."""
    rows = engine.profile_layers([np.zeros((2, 4, 5, 5), np.float32)], repeats=2)
    assert len(rows) == 3 and not any(r.host for r in rows)
    assert {round(r.seconds * 1e6, 1) for r in rows} <= {12.5, 250.0}


def test_memory_is_given_back_with_the_last_name(native_plan: Plan, driver: FakeDriver) -> None:
    """By reference counts alone: nobody waits for the interpreter to look for cycles."""
    gpu = Gpu(0, driver)
    x = Interface(driver, (2, 4, 5, 5))
    before = set(driver.blocks)
    gc.collect()
    gc.disable()
    try:
        engine = Engine(native_plan, gpu=gpu)
        own, y = engine.context(), engine(x)
        own(x), engine(np.zeros((1, 4, 5, 5), np.float32))
        assert set(driver.blocks) > before
        address = y.address
        del engine, own
        assert set(driver.blocks) - before == {address}  # a result outlives its engine
        driver.calls.clear()
        del y
        assert set(driver.blocks) == before
    finally:
        gc.enable()
    # in whatever thread, on whatever GPU, and whatever is being captured there
    assert driver.calls == [
        "cuCtxPushCurrent", "cuThreadExchangeStreamCaptureMode", "cuMemFree", "cuThreadExchangeStreamCaptureMode",
        "cuCtxPopCurrent", *driver.calls[5:],
    ]  # fmt: skip


def test_what_a_capture_uses_stays(native_plan: Plan, driver: FakeDriver) -> None:
    """Graphs hold addresses, and say nothing when they go."""
    x, y = Interface(driver, (2, 4, 5, 5)), Interface(driver, (2, 8, 1, 1))
    before, gpus = set(driver.blocks), list[Gpu]()
    for call in (lambda c: c(x, out=y), lambda c: (c.set_input("x", x), c.enqueue())):
        gpus.append(gpu := Gpu(0, driver))
        context = _context(Engine(native_plan, gpu=gpu), stream=4242)
        call(context)
        driver.capturing.add(4242)
        driver.calls.clear()
        call(context)
        call(context)
        driver.capturing.clear()
        used = set(driver.blocks) - before
        assert used and len(gpu.kept) == 1
        del context
        gc.collect()
        assert set(driver.blocks) - before == used and "cuModuleUnload" not in driver.calls
        before |= used


def test_short_memory_is_asked_for_again_when_garbage_is_gone(driver: FakeDriver) -> None:
    gpu = Gpu(0, driver)
    cycle: list[Any] = [gpu.allocate(64, "a test")]
    cycle.append(cycle)
    del cycle
    driver.fail["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    driver.calls.clear()
    with pytest.raises(DeviceMemoryError, match="has no room for 0.1 KiB for a test"):
        gpu.allocate(64, "a test")
    assert driver.calls.count("cuMemAlloc") == 2 and "cuMemFree" in driver.calls
    driver.fail = {"cuStreamCreate": CUresult.CUDA_ERROR_OUT_OF_MEMORY}
    with pytest.raises(DeviceMemoryError, match="end what else uses the GPU"):
        Stream(gpu)


def test_a_fault_is_known_to_other_engines(native_plan: Plan, driver: FakeDriver) -> None:
    gpu = Gpu(0, driver)
    first, second = Engine(native_plan, gpu=gpu), Engine(native_plan, gpu=gpu)
    x = np.zeros((1, 4, 5, 5), np.float32)
    driver.fail["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="running 'native'.*ILLEGAL_ADDRESS"):
        first(x)
    with pytest.raises(DeviceError, match="since a kernel faulted before: running 'native'"):
        second(x)


def test_forked_processes_are_told(engine: Engine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1, 4, 5, 5), np.float32)
    engine(x)
    monkeypatch.setattr("temper.runtime.cuda.driver._process", lambda: -1)
    driver.calls.clear()
    with pytest.raises(DeviceError, match="forked.*'spawn'"):
        engine(x)
    del engine
    gc.collect()
    assert not [c for c in driver.calls if c.startswith("cu")]  # the driver is the parent's


def test_read_only_arrays_are_read_but_not_written(engine: Engine, driver: FakeDriver) -> None:
    x, y = Interface(driver, (2, 4, 5, 5)), Interface(driver, (2, 8, 1, 1))
    for a in (x, y):
        a.__cuda_array_interface__["data"] = (a.address, True)
    engine(x)
    assert _used(driver, x.address)
    with pytest.raises(InputError, match="out for 'y' is read-only"):
        engine(x, out=y)
    locked = np.zeros((2, 4, 5, 5), np.float32)
    locked.flags.writeable = False
    engine(locked)


def test_plans_tuned_elsewhere_say_so(native_plan: Plan, driver: FakeDriver) -> None:
    gpu = Gpu(0, driver)
    assert "not timed" in Engine(native_plan, gpu=gpu).remarks[0]
    timed = {**native_plan.report, "effort": 2}
    here = replace(native_plan, report=timed, fingerprint=gpu.fingerprint)
    assert not Engine(here, gpu=gpu).remarks
    there = replace(here, fingerprint={**gpu.fingerprint, "gpu": "Other"})
    assert "tuned on Other, running on Fake H100" in Engine(there, gpu=gpu).remarks[0]


def test_kernels_that_need_more_than_the_chip_has_are_refused(native_plan: Plan, driver: FakeDriver) -> None:
    """As those of a plan of sm_80, tuned on a chip with 163 KiB, on one of sm_86 with 99."""
    code = {n: replace(f, cubin=bytes(f.cubin)) for n, f in from_archive(native_plan.kernels).items()}
    name = next(iter(code))
    kernels = to_archive({**code, name: replace(code[name], shared=300_000)})
    big = Plan(**{**vars(native_plan), "kernels": memoryview(kernels)})
    with pytest.raises(PlanError, match="uses 300000 bytes of shared memory, this GPU .* has 232448"):
        Engine(big, gpu=Gpu(0, driver))


class Torch:
    """A tensor of a stand-in for PyTorch."""

    is_cuda, requires_grad, layout, dtype, device = True, False, "strided", "f4", SimpleNamespace(index=0)

    def __init__(self, driver: FakeDriver, shape: tuple[int, ...], **other: Any) -> None:
        self.address = driver.cuMemAlloc(8192)[1]
        self.shape = shape
        self.__dict__.update(other)

    def data_ptr(self) -> int:
        return self.address

    def is_contiguous(self) -> bool:
        return True

    def is_conj(self) -> bool:
        return False

    is_neg = is_conj

    def detach(self) -> Torch:
        return self

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> Any:
        raise BufferError("not by this road")


def test_tensors_of_pytorch_are_asked_themselves(
    engine: Engine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = SimpleNamespace(cuda_stream=77)
    cuda = SimpleNamespace(current_stream=lambda device: current)
    torch = ModuleType("torch")
    torch.__dict__.update(Tensor=Torch, cuda=cuda, strided="strided", float32="f4", int64="i8")
    monkeypatch.setitem(sys.modules, "torch", torch)
    context = _context(engine, stream=4242)
    x, y = Torch(driver, (2, 4, 5, 5)), Torch(driver, (2, 8, 1, 1))
    assert context(x, out=y) is y
    assert _used(driver, x.address) and _used(driver, y.address)
    assert (4242, 77) in driver.waits  # comes after what fills it
    driver.waits.clear()
    current.cuda_stream = 4242
    context(x, out=y)
    assert not driver.waits
    quick = ModuleType("torch")
    quick.__dict__.update({**torch.__dict__, "_C": SimpleNamespace(_cuda_getCurrentRawStream=lambda index: 78)})
    monkeypatch.setitem(sys.modules, "torch", quick)
    context(x, out=y)
    assert (4242, 78) in driver.waits
    for other, words in (
        ({"dtype": "i8"}, "has dtype int64"),
        ({"device": SimpleNamespace(index=1)}, "is on GPU 1"),
        ({"is_contiguous": lambda: False}, "is not contiguous"),
        ({"requires_grad": True}, "not by this road"),
        ({"layout": "sparse"}, "not by this road"),
        ({"is_conj": lambda: True}, "not by this road"),
    ):
        with pytest.raises(InputError, match=words):
            context(Torch(driver, (2, 4, 5, 5), **other))
