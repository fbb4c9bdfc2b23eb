"""What tactics of one plain kernel share: dense tensors, no program behind the op, nothing to tune or to pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.tactics.base import Params, Workload
from temper.tactics.cpu.source import typical_count


class Direct:
    """Base of tactics with one kernel per workload. Subclasses say what they decline and generate the kernel."""

    name = ""
    ops: frozenset[str] = frozenset()
    #: what an output element costs, about
    seconds = 2e-9

    def declines(self, w: Workload) -> str | None:
        """Why this workload has no kernel here, operands being dense and present."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs or len(w.epilogue.operands) > 1:
            return "it computes nothing after"
        if any(s is not None and s.row_stride is not None for s in (*w.inputs, *w.outputs)):
            return "its tensors must be dense"
        return self.declines(w)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        return 1e-6 + typical_count(w.outputs[0].type.shape) * self.seconds / w.threads

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def integers(w: Workload, name: str) -> tuple[int, ...]:
    """A tuple of plain ints among the attributes."""
    value = w.attr(name)
    assert isinstance(value, tuple)
    return tuple(int(i) for i in value)


def array_c(values: Sequence[int | str]) -> str:
    """C initializer of an array."""
    return "{" + ", ".join(map(str, values)) + "}"
