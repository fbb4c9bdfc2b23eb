"""Base class of CPU tactics with one plain kernel: dense tensors, nothing fused, nothing to tune or to pack."""

from __future__ import annotations

from collections.abc import Sequence

from temper.compile.cc import ISAS
from temper.tactics.base import Params, Workload
from temper.tactics.geometry import typical_count
from temper.tactics.plain import Plain


class Direct(Plain):
    """Base of tactics with one kernel per workload. Subclasses say what they decline and generate the kernel."""

    #: what an output element costs, about
    seconds = 2e-9

    def level(self, w: Workload) -> str | None:
        return None if w.isa in ISAS else f"no such CPU level: {w.isa}"

    def predict(self, w: Workload, params: Params) -> float:
        return 1e-6 + typical_count(w.outputs[0].type.shape) * self.seconds / w.threads


def array_c(values: Sequence[int | str]) -> str:
    """C initializer of an array."""
    return "{" + ", ".join(map(str, values)) + "}"
