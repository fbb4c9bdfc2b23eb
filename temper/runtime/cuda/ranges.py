"""NVTX ranges around the launches of layers, so that Nsight Systems shows their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from temper.errors import DeviceError
from temper.plan.format import Plan
from temper.runtime.cuda.bound import Watch
from temper.runtime.cuda.launch import LaunchCall


def ranges_of(plan: Plan) -> Watch:
    """What puts a range named after its layer around every launch of a plan. DeviceError if there is no NVTX."""
    try:
        import nvtx
    except ImportError as e:
        raise DeviceError("marking layers for Nsight Systems needs the package nvtx: pip install nvtx") from e
    domain = nvtx.get_domain(f"temper {plan.report.get('model', '')}".strip())

    @contextmanager
    def around(launch: LaunchCall) -> Iterator[None]:
        domain.push_range(domain.get_event_attributes(message=launch.label))
        try:
            yield
        finally:
            domain.pop_range()

    return around
