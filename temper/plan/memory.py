"""Static memory planning: an arena offset for every buffer, so that buffers alive at the same time never overlap.

Greedy placement (arXiv 2001.03288: biggest first, each at the lowest place where it fits) under several orders; then
the buffers that stick out at the top are moved to the front of the order while that makes the arena smaller; few
buffers are searched exactly. Everything is deterministic.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64
#: Up to this many buffers all placement orders worth trying are searched (branch and bound).
_EXACT = 9
_ROUNDS = 400


class Span(NamedTuple):
    """A buffer's size in bytes (at a profile's maximum) and the steps it is alive from `first` to `last`, both
    included.
    """

    bytes: int
    first: int
    last: int


def lower_bound(spans: Sequence[tuple[int, int, int]]) -> int:
    """The largest number of bytes alive at one step: no arena can be smaller."""
    change: dict[int, int] = {}
    for size, first, last in spans:
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    live = peak = 0
    for step in sorted(change):
        live += change[step]
        peak = max(peak, live)
    return peak


def plan_memory(spans: Sequence[tuple[int, int, int]], *, rounds: int = _ROUNDS) -> tuple[tuple[int, ...], int]:
    """(offsets, arena bytes) of the smallest arena found for (bytes, first, last) spans; offsets are multiples of 64,
    empty buffers at 0.

    rounds: how many improved orders to try when the greedy ones miss the lower bound. ValueError for a negative size
    or lifetime.
    """
    if any(size < 0 or last < first for size, first, last in spans):
        raise ValueError("a buffer has a negative size, or ends before it begins")
    sized = [i for i, (size, _, _) in enumerate(spans) if size]
    if max((spans[i][1] for i in sized), default=0) <= min((spans[i][2] for i in sized), default=0):
        # all are alive at one step: they can only lie one after another
        ends = np.cumsum([-(-size // ALIGNMENT) * ALIGNMENT for size, _, _ in spans]).tolist()
        starts = tuple(end if span[0] else 0 for end, span in zip((0, *ends), spans, strict=False))
        return starts, max(ends, default=0)
    search = _Search([Span(*spans[i]) for i in sized], lower_bound(spans))
    search.solve(rounds)
    arena, offsets = search.best
    placed = dict(zip(sized, offsets, strict=True))
    return tuple(placed.get(i, 0) for i in range(len(spans))), arena


class _Search:
    def __init__(self, buffers: Sequence[Span], bound: int) -> None:
        self.buffers, self.bound = buffers, bound
        n = len(buffers)
        self.rivals = [
            [j for j in range(n) if j != i and buffers[j].first <= b.last and b.first <= buffers[j].last]
            for i, b in enumerate(buffers)
        ]
        self.best: tuple[int, list[int]] = (0, []) if not n else (sum(b.bytes + ALIGNMENT for b in buffers) + 1, [])
        self.order: list[int] = []

    def solve(self, rounds: int) -> None:
        n = len(self.buffers)
        for order in self._orders():
            self._try(order)
        if n and self.best[0] > self.bound and n <= _EXACT:
            self._exact([], [-1] * n, 0)
        elif n and self.best[0] > self.bound:
            self._improve(rounds)

    def _orders(self) -> list[list[int]]:
        b = self.buffers
        live: dict[int, int] = {}
        for x in b:
            for step in range(x.first, x.last + 1):
                live[step] = live.get(step, 0) + x.bytes
        pressure = [max(live[s] for s in range(x.first, x.last + 1)) for x in b]
        keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
            lambda i: (-b[i].bytes, b[i].first),
            lambda i: (-b[i].bytes * (b[i].last - b[i].first + 1), b[i].first),
            lambda i: (-pressure[i], -b[i].bytes, b[i].first),
            lambda i: (b[i].first - b[i].last, -b[i].bytes, b[i].first),
            lambda i: (b[i].first, -b[i].bytes),
            lambda i: (-pressure[i], b[i].first - b[i].last, b[i].first),
        )
        return [sorted(range(len(b)), key=lambda i: (*key(i), i)) for key in keys]

    def _place(self, i: int, offsets: Sequence[int], tight: bool) -> int:
        """Lowest offset where buffer i fits among the placed rivals; tight: the smallest gap that holds it, if one
        does.
        """
        b = self.buffers[i]
        spans: list[tuple[int, int]] = []
        for j in self.rivals[i]:
            if offsets[j] >= 0:
                insort(spans, (offsets[j], offsets[j] + self.buffers[j].bytes))
        at, found, slack = 0, -1, 0
        for start, end in spans:
            if start - at >= b.bytes and (found < 0 or start - at - b.bytes < slack):
                found, slack = at, start - at - b.bytes
                if not tight:
                    return found
            at = max(at, -(-end // ALIGNMENT) * ALIGNMENT)
        return at if found < 0 else found

    def _layout(self, order: Sequence[int], tight: bool) -> tuple[int, list[int]]:
        offsets, top = [-1] * len(self.buffers), 0
        for i in order:
            offsets[i] = self._place(i, offsets, tight)
            top = max(top, offsets[i] + self.buffers[i].bytes)
            if top >= self.best[0]:
                return top, []
        return top, offsets

    def _try(self, order: Sequence[int]) -> bool:
        better = False
        for tight in (False, True):
            top, offsets = self._layout(order, tight)
            if offsets and top < self.best[0]:
                self.best, self.order, better = (top, offsets), list(order), True
        return better

    def _improve(self, rounds: int) -> None:
        """Buffers at the top, and now and then a random one, go earlier in the order; kept when the arena shrinks."""
        chance = random.Random(0)
        for _ in range(rounds):
            if self.best[0] <= self.bound:
                return
            offsets = self.best[1]
            tops = [i for i in self.order if offsets[i] + self.buffers[i].bytes == self.best[0]]
            moved = chance.choice(tops if chance.random() < 0.6 else self.order)
            order = [i for i in self.order if i != moved]
            order.insert(chance.randrange(self.order.index(moved) + 1), moved)
            if chance.random() < 0.5:
                a, b = chance.randrange(len(order)), chance.randrange(len(order))
                order[a], order[b] = order[b], order[a]
            self._try(order)

    def _exact(self, order: list[int], offsets: list[int], top: int) -> None:
        """Some order places every buffer at its offset in an optimal layout (sort by offset); first fit then finds
        it.
        """
        if self.best[0] <= self.bound:
            return
        if len(order) == len(self.buffers):
            self.best, self.order = (top, offsets.copy()), order.copy()
            return
        lowest = max((offsets[i] for i in order), default=0)
        for i in range(len(self.buffers)):
            if offsets[i] < 0:
                at = self._place(i, offsets, tight=False)
                end = max(top, at + self.buffers[i].bytes)
                if at >= lowest and end < self.best[0]:
                    offsets[i] = at
                    self._exact([*order, i], offsets, end)
                    offsets[i] = -1
