"""Which sites to keep in higher precision: the whole Pareto front between time and loss of accuracy.

For a price L of a unit of loss, the best choice minimizes time + L * loss, where time is that of every site in its
precision and of the conversions between neighbours of unlike precision, and losses of sites add up. With two precisions
and conversions that cost something, this is a minimum cut (Greig, Porteous and Seheult 1989; Kolmogorov and Zabih
2004), solved exactly. Sweeping L visits every corner of the front's convex hull: between two known corners the price at
which they tie either shows a better choice, which is a new corner, or proves that there is none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A unit of choice. seconds, loss: by precision, at least of the two that are chosen between; a precision that is
    missing cannot be had (pinned sites have one)."""

    name: str
    seconds: Mapping[str, float]
    loss: Mapping[str, float]


@dataclass(frozen=True)
class Edge:
    """Data that goes from one site to another. seconds: what its conversion costs by (precision of source, precision of
    reader); pairs left out cost nothing."""

    source: str
    reader: str
    seconds: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Choice:
    """A corner of the front. high: names of the sites in the higher precision; seconds, loss: predicted, in all."""

    high: frozenset[str]
    seconds: float
    loss: float


class Problem:
    """Sites and edges between them, with two precisions of which `low` is the faster and less exact one.

    ValueError for an edge between unknown sites, a site that has neither precision, or a conversion with a price below
    zero.
    """

    def __init__(self, sites: Iterable[Site], edges: Iterable[Edge], low: str = "int8", high: str = "float32") -> None:
        self.sites = {s.name: s for s in sites}
        self.edges = tuple(edges)
        self.low, self.high = low, high
        for s in self.sites.values():
            if low not in s.seconds and high not in s.seconds:
                raise ValueError(f"site '{s.name}' can be neither {low} nor {high}")
        for e in self.edges:
            if e.source not in self.sites or e.reader not in self.sites:
                raise ValueError(f"an edge from '{e.source}' to '{e.reader}' joins unknown sites")
            if any(c < 0 for c in e.seconds.values()):
                raise ValueError(f"the conversion from '{e.source}' to '{e.reader}' has a price below zero")

    def evaluate(self, high: Iterable[str]) -> Choice:
        """Time and loss of a given choice."""
        chosen = frozenset(high)
        precision = {n: self.high if n in chosen else self.low for n in self.sites}
        seconds = sum(s.seconds[precision[n]] for n, s in self.sites.items())
        seconds += sum(e.seconds.get((precision[e.source], precision[e.reader]), 0.0) for e in self.edges)
        return Choice(chosen, seconds, sum(s.loss.get(precision[n], 0.0) for n, s in self.sites.items()))

    def best(self, price: float) -> Choice:
        """The choice of least time + price * loss; of equals the one with the fewest sites in `high`."""
        cut = _Cut(len(self.sites) + 2)
        source, sink = len(self.sites), len(self.sites) + 1
        number = {n: i for i, n in enumerate(self.sites)}
        for n, s in self.sites.items():
            cost = {
                p: s.seconds[p] + price * s.loss.get(p, 0.0) if p in s.seconds else math.inf
                for p in (self.low, self.high)
            }
            # a site on the source's side is high: then the edge to the sink is cut
            least = min(cost.values())
            cut.add(source, number[n], cost[self.low] - least)
            cut.add(number[n], sink, cost[self.high] - least)
        for e in self.edges:
            a, b = number[e.source], number[e.reader]
            cut.add(a, b, e.seconds.get((self.high, self.low), 0.0))
            cut.add(b, a, e.seconds.get((self.low, self.high), 0.0))
        side = cut.source_side(source, sink)
        return self.evaluate(n for n, i in number.items() if i in side)

    def front(self) -> list[Choice]:
        """Corners of the convex hull of what can be had, fastest first and least loss last."""
        fastest, safest = self.best(0.0), self._safest()
        if safest.loss >= fastest.loss:
            return [fastest]
        corners = [fastest, *self._between(fastest, safest), safest]
        # two choices may tie
        kept: list[Choice] = []
        for c in corners:
            if not kept or c.loss < kept[-1].loss:
                kept.append(c)
        return kept

    def _safest(self) -> Choice:
        """Least loss, and of that the least time."""
        total = sum(max(s.seconds.values()) for s in self.sites.values())
        total += sum(max(e.seconds.values(), default=0.0) for e in self.edges)
        steps = [abs(s.loss.get(self.low, 0.0) - s.loss.get(self.high, 0.0)) for s in self.sites.values()]
        least = min((d for d in steps if d > 0), default=1.0)
        return self.best(2 * (total + 1e-12) / least)

    def _between(self, a: Choice, b: Choice) -> list[Choice]:
        """Corners between two neighbours, of which `a` is the faster one."""
        if a.loss <= b.loss or a.high == b.high:
            return []
        price = (b.seconds - a.seconds) / (a.loss - b.loss)
        if price < 0:
            return []
        c = self.best(price)
        here = a.seconds + price * a.loss
        if c.high in (a.high, b.high) or c.seconds + price * c.loss >= here - 1e-9 * abs(here):
            return []
        return [*self._between(a, c), c, *self._between(c, b)]


class _Cut:
    """A minimum cut by maximum flow (Dinic 1970): shortest augmenting paths in layers."""

    def __init__(self, nodes: int) -> None:
        self.head: list[list[int]] = [[] for _ in range(nodes)]
        self.to: list[int] = []
        self.left: list[float] = []

    def add(self, a: int, b: int, capacity: float) -> None:
        if capacity <= 0:
            return
        for start, end, c in ((a, b, capacity), (b, a, 0.0)):
            self.head[start].append(len(self.to))
            self.to.append(end)
            self.left.append(c)

    def source_side(self, source: int, sink: int) -> set[int]:
        """Nodes on the source's side of the minimum cut with the fewest of them."""
        finite = [c for c in self.left if c < math.inf]
        # flows add up with rounding: what is left of a full edge may not be exactly nothing
        self._least = 1e-12 * sum(finite)
        while True:
            level = self._levels(source)
            if level[sink] < 0:
                return {i for i, at in enumerate(level) if at >= 0}
            at = [0] * len(self.head)
            while self._augment(source, sink, level, at):
                pass

    def _levels(self, source: int) -> list[int]:
        level = [-1] * len(self.head)
        level[source] = 0
        todo = deque([source])
        while todo:
            node = todo.popleft()
            for e in self.head[node]:
                if self.left[e] > self._least and level[self.to[e]] < 0:
                    level[self.to[e]] = level[node] + 1
                    todo.append(self.to[e])
        return level

    def _augment(self, source: int, sink: int, level: Sequence[int], at: list[int]) -> bool:
        """Pushes flow along one path; False if no path is left in these layers."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self.head[node]
            while at[node] < len(edges):
                e = edges[at[node]]
                if self.left[e] > self._least and level[self.to[e]] == level[node] + 1:
                    break
                at[node] += 1
            else:
                if not path:
                    return False
                node = self.to[path.pop() ^ 1]
                at[node] += 1
                continue
            path.append(e)
            node = self.to[e]
        flow = min(self.left[e] for e in path)
        if not math.isfinite(flow):
            raise ValueError("a path of conversions that nothing limits: a site can be had in no precision")
        for e in path:
            self.left[e] -= flow
            self.left[e ^ 1] += flow
        return True
