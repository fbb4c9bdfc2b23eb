"""The roofline of GPU layers: the least time that a layer's bytes and operations take on the GPU a plan was built for.

Arithmetic: operations of a multiprocessor per clock by precision (NVIDIA's architecture whitepapers, dense matrices; a
multiplication and an addition are two), times multiprocessors and the clock. Memory: bus width times its clock, two
transfers a clock. Both from the driver of the GPU that the plan was timed on; plans timed on none have no roofline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from temper.plan.cubins import from_archive
from temper.plan.format import Native, Plan

#: by code level: operations per clock and multiprocessor
_PER_CLOCK: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "sm_80": {"float32": 128, "tf32": 1024, "float16": 2048, "int8": 4096},
        "sm_89": {"float32": 256, "tf32": 512, "float16": 1024, "float8": 2048, "int8": 2048},
        "sm_90": {"float32": 256, "tf32": 2048, "float16": 4096, "float8": 8192, "int8": 8192},
        "sm_100": {"float32": 256, "tf32": 4096, "float16": 8192, "float8": 16384, "int8": 16384},
    }
)


@dataclass(frozen=True)
class Roof:
    """A GPU's bytes per second, and operations per second by precision."""

    bandwidth: float
    peaks: Mapping[str, float]

    def floor(self, nbytes: float, operations: float, precision: str) -> tuple[float, str]:
        """The least seconds, and which of "memory" and "arithmetic" asks for them."""
        memory = nbytes / self.bandwidth
        peak = self.peaks.get("float16" if precision == "bfloat16" else precision) or self.peaks["float32"]
        return max((memory, "memory"), (operations / peak, "arithmetic"))


def roof_of(plan: Plan) -> Roof | None:
    """Of the GPU a plan was timed on; None if there was none, or nothing is known of it."""
    f = plan.fingerprint
    table = _PER_CLOCK.get(plan.isa)
    if table is None or not (f.get("bandwidth") and f.get("clock") and f.get("processors")):
        return None
    return Roof(float(f["bandwidth"]), {k: n * f["processors"] * f["clock"] * 1e3 for k, n in table.items()})


def multiplied_in(row: Mapping[str, Any]) -> str:
    """The precision whose peak bounds a region, from its row of the build report."""
    op, key = row["op"], row["workload"]
    if op.endswith("Int8"):
        return "int8"
    if op not in ("Conv", "MatMul", "ConvTranspose", "Attention"):
        return "float32"
    read = key.partition("->")[0]  # what it writes may be narrower
    for name in ("float8", "bfloat16", "float16"):
        if name in read:
            return name
    return "tf32" if "tf32" in key else "float32"


def kernels_of(plan: Plan) -> dict[int, list[dict[str, Any]]]:
    """By row of the build report: its kernels with registers per thread, shared memory and spilled bytes."""
    if plan.device != "cuda":
        return {}
    code = from_archive(plan.kernels)
    found: dict[int, list[dict[str, Any]]] = {}
    for launch in (x for s in sum(plan.programs, ()) if isinstance(s, Native) for x in s.launches):
        for entry in launch.entries:
            f = code[entry]
            kernel = {
                "name": f.entry,
                "threads": f.threads,
                "registers": f.registers,
                "shared": f.shared,
                "local": f.frame,
                "code": len(f.cubin),
            }
            if kernel not in found.setdefault(launch.report, []):
                found[launch.report].append(kernel)
    return found
