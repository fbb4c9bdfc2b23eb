"""Summaries of many calls' latencies, as trtexec defines them.

Percentile p: the largest latency when the slowest (100 - p) % are left out; median: mean of the two middle ones for
even counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """Latencies in seconds by call, wall seconds they took together, and Python-side seconds of a call (None: has host
    steps).
    """

    latencies: tuple[float, ...]
    wall: float
    enqueue: float | None


def percentile(ordered: Sequence[float], p: int) -> float:
    """trtexec's: the slowest (100 - p) % of the calls, rounded down, are left out."""
    excluded = (100 - p) * len(ordered) // 100
    return ordered[max(len(ordered) - 1 - excluded, 0)]


def median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def metrics(m: Measured) -> dict[str, Any]:
    """JSON-able: throughput in calls per second, times in milliseconds."""
    ordered = sorted(m.latencies)
    latency = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": sum(ordered) / len(ordered),
        "median": median(ordered),
        **{f"p{p}": percentile(ordered, p) for p in (90, 95, 99)},
    }
    return {
        "calls": len(ordered),
        "wall_s": m.wall,
        "throughput_qps": len(ordered) / m.wall,
        "latency_ms": {k: 1e3 * v for k, v in latency.items()},
        "enqueue_ms": None if m.enqueue is None else 1e3 * m.enqueue,
    }
