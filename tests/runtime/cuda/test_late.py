"""GPU plans whose sizes depend on data or whose nodes hold programs, and nets with host steps between kernels: run by a
driver that computes with the references, and compared with the CPU's engine."""

from __future__ import annotations

import ctypes
import importlib.util

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import DeviceError, InputError, TemperError
from temper.plan.file import from_bytes, to_bytes
from temper.plan.format import HostStep, Native, Plan
from temper.runtime.cuda.arrays import DeviceArray
from temper.runtime.cuda.driver import Gpu
from temper.runtime.engine import Engine
from tests.runtime.cuda.emulate import Emulator, recording
from tests.runtime.cuda.fake import CUresult, FakeDriver, Interface
from tests.runtime.cuda.nets import NETS, model

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)


class Built:
    """A net for both devices."""

    def __init__(self, name: str) -> None:
        proto, self.feeds = NETS[name]
        data = model(proto)
        profiles = (Profile.of(N=(1, 2, 4)),) if name == "mixed" else ()
        with recording() as known:
            made = build_plan(data, BuildConfig(device="cuda:sm_90", effort=0, threads=1, profiles=profiles)).plan
        self.plan: Plan = from_bytes(to_bytes(made))
        self.driver = Emulator(known=known)
        self.engine = Engine(self.plan, gpu=Gpu(0, self.driver))
        self.cpu = Engine(build_plan(data, BuildConfig(effort=0, threads=1, profiles=profiles)).plan)


@pytest.fixture(scope="module", params=list(NETS))
def built(request: pytest.FixtureRequest) -> Built:
    return Built(request.param)


def test_results_are_the_cpus(built: Built) -> None:
    for feeds in built.feeds:
        got, want = built.engine.run(feeds), built.cpu.run(feeds)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert built.driver.launches, "nothing ran on the device"


def test_every_host_step_tells_why(built: Built) -> None:
    hosted = [s for p in built.plan.programs for s in p if isinstance(s, HostStep)]
    hosted += [s for unit in built.plan.subs for p in unit.programs for s in p if isinstance(s, HostStep)]
    assert hosted and all(s.reason for s in hosted)
    assert any(isinstance(s, Native) and s.launches for p in built.plan.programs for s in p)


def test_layers_are_timed(built: Built) -> None:
    rows = built.engine.profile_layers(built.feeds[0], 2)
    assert any(r.host for r in rows) and any(not r.host for r in rows) and all(r.seconds >= 0 for r in rows)


def test_results_go_where_they_are_asked_for() -> None:
    b = Built("selected")
    feeds = b.feeds[0]
    want = b.cpu.run(feeds)
    out = [np.empty_like(a) for a in want]
    got = b.engine.run(feeds, out)
    assert got[0] is out[0] and got[1] is out[1]
    np.testing.assert_allclose(out[0], want[0], rtol=2e-5)
    with pytest.raises(InputError, match="out for 'y' has shape"):
        b.engine.run(feeds, [np.empty(want[0].size + 1, np.float32), out[1]])
    with pytest.raises(TemperError, match="depend on data.*cannot be enqueued"):
        b.engine.context().enqueue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["selected", "detected", "branched"])
def test_arrays_on_the_gpu_stay_there(name: str) -> None:
    b = Built(name)
    for feeds in b.feeds:
        given = {k: placed(b.driver, x) for k, x in feeds.items()}
        b.driver.calls.clear()
        got, want = b.engine.run(given), b.cpu.run(feeds)
        for y, a in zip(got, want, strict=True):
            assert isinstance(y, DeviceArray) and y.shape == a.shape and y.dtype == a.dtype
            np.testing.assert_allclose(y.numpy(), a, rtol=2e-5, atol=1e-6)


def test_arrays_are_written_where_they_are_asked_for() -> None:
    b = Built("selected")
    feeds = b.feeds[0]
    want = b.cpu.run(feeds)
    out = [placed(b.driver, np.zeros_like(a)) for a in want]
    assert b.engine.run({"x": placed(b.driver, feeds["x"])}, out) == out
    for y, a in zip(out, want, strict=True):
        np.testing.assert_allclose(memory_of(y, a), a, rtol=2e-5, atol=1e-6)
    with pytest.raises(InputError, match="out for 'y' has shape"):
        b.engine.run(feeds, [placed(b.driver, np.zeros(want[0].size + 1, np.float32)), None])
    aside = Interface(b.driver, feeds["x"].shape, skew=4)
    with pytest.raises(InputError, match="out for 's' does not start at a multiple of 16"):
        b.engine.run(feeds, [None, Interface(b.driver, want[1].shape, skew=4)])
    ctypes.memmove(aside.address, feeds["x"].ctypes.data, feeds["x"].nbytes)
    np.testing.assert_allclose(b.engine.run({"x": aside})[0], want[0], rtol=2e-5)  # misaligned: copied


def test_launches_of_known_sizes_are_graphs() -> None:
    """From the second run on; arrays may move in between."""
    b = Built("selected")
    for feeds in (*b.feeds, *b.feeds):
        b.driver.calls.clear()
        got = b.engine.run({"x": placed(b.driver, feeds["x"])})
        np.testing.assert_allclose(np.asarray(got[1]), b.cpu.run(feeds)[1], rtol=2e-5, atol=1e-6)
    assert "cuGraphLaunch" in b.driver.calls and "cuGraphInstantiate" not in b.driver.calls
    assert "cuGraphExecKernelNodeSetParams" in b.driver.calls


def test_faults_and_captures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_SYNC", "1")
    b = Built("selected")
    context = b.engine.context(stream=4242)
    context(b.feeds[0])
    b.driver.capturing.add(4242)
    with pytest.raises(TemperError, match="depend on data.*capture"):
        context(b.feeds[0])
    b.driver.capturing.clear()
    b.driver.fail["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="running 'a':"):
        context(b.feeds[0])


def placed(driver: FakeDriver, array: np.ndarray) -> Interface:
    """A copy on the fake GPU."""
    made = Interface(driver, array.shape, array.dtype.str)
    source = np.ascontiguousarray(array)
    ctypes.memmove(made.address, source.ctypes.data, source.nbytes)
    return made


def memory_of(x: Interface, like: np.ndarray) -> np.ndarray:
    """What is in an array of the fake GPU."""
    out = np.empty_like(like, order="C")
    ctypes.memmove(out.ctypes.data, x.address, out.nbytes)
    return out
