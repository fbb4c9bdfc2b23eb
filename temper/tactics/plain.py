"""Base class of tactics with one plain kernel, on every device: dense tensors, nothing fused, tuned or packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.tactics.base import Params, Workload


class Plain:
    """Base of such tactics of a device."""

    name = ""
    ops: frozenset[str] = frozenset()

    def level(self, w: Workload) -> str | None:
        """Why the device's code level has no kernels for this workload."""
        raise NotImplementedError

    def declines(self, w: Workload) -> str | None:
        """Why this workload has no kernel here, operands being dense and present."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if (reason := self.level(w)) is not None:
            return reason
        if w.epilogue.instrs or len(w.epilogue.operands) > 1 or w.widened:
            return "it computes nothing before or after"
        if any(s is not None and s.row_stride is not None for s in (*w.inputs, *w.outputs)):
            return "its tensors must be dense"
        return self.declines(w)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def boxes_decline(w: Workload) -> str | None:
    """Why BoxesKept has no kernel for these boxes and scores."""
    boxes, scores = w.inputs[0], w.inputs[1]
    assert boxes is not None and scores is not None
    if boxes.type.dtype != "float32" or scores.type.dtype != "float32":
        return f"computes float32 only, not {boxes.type.dtype}"
    return None if boxes.type.static and scores.type.static else "the number of boxes is not known at build"
