"""GPU plans whose sizes depend on data or whose nodes hold programs, and nets with host steps between kernels: run by a
driver that computes with the references, and compared with the CPU's engine."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import InputError, TemperError
from temper.plan.file import from_bytes, to_bytes
from temper.plan.format import HostStep, Native, Plan
from temper.runtime.cuda.driver import Gpu
from temper.runtime.engine import Engine
from tests.runtime.cuda.emulate import Emulator, recording
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
    with pytest.raises(TemperError, match="depend on data"):
        b.engine.context().enqueue()  # type: ignore[attr-defined]
