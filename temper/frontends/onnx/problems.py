"""Nodes that cannot be imported, and the error that lists them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from temper.errors import UnsupportedError


@dataclass(frozen=True)
class Problem:
    """One node that cannot be imported. needs: the model's inputs whose values, if known, would let it be imported."""

    op: str
    domain: str
    opset: int
    node: str
    reason: str
    needs: tuple[str, ...] = ()


class UnsupportedNodesError(UnsupportedError):
    """Every node of a model that Temper cannot import, with reasons; `problems` holds them as data."""

    def __init__(self, label: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        groups: dict[tuple[str, str, int, str], list[str]] = {}
        for p in problems:
            groups.setdefault((p.op, p.domain, p.opset, p.reason), []).append(f"'{p.node}'")
        lines = [
            f"  {op} (domain '{domain or 'ai.onnx'}', opset {opset}): {reason}; nodes {', '.join(nodes)}"
            for (op, domain, opset, reason), nodes in groups.items()
        ]
        count = f"{len(problems)} node{'s are' if len(problems) > 1 else ' is'}"
        super().__init__(f"{label}: {count} not supported:\n" + "\n".join(lines))
