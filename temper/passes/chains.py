"""Chains: consecutive regions that one kernel may compute, if measured faster than its links apart.

A link has one result, which is read by the next link's anchor, as its first input, and by nothing else; that of the
last link but one may be read by others too: then the chain keeps it, as its second result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from temper.ir.graph import Graph, Node, Value
from temper.passes.manager import Log
from temper.passes.region import Region
from temper.passes.rising import falls
from temper.tactics.epilogue import Epilogue

#: Anchors that may follow an anchor.
_FOLLOWS = {
    "ConvInt8": frozenset({"ConvInt8", "SqueezeExcite", "MaxPool"}),
    "Conv": frozenset({"SqueezeExcite", "MaxPool"}),
    "Transpose": frozenset({"ConvInt8", "Conv"}),
}

#: Anchors of chains of more than two links.
_LONGER = (("Transpose", "ConvInt8", "MaxPool"), ("Transpose", "Conv", "MaxPool"))

#: Anchors whose result a chain may keep, and that may be the only links of such a chain.
_KEPT = frozenset({"ConvInt8"})


@dataclass(frozen=True)
class Chain(Region):
    """Several regions as one. What its kernel reads, in order: the first link's inputs, the operands of its program
    but the first (its anchor's result), then of every further link the anchor's inputs but the first, and the operands;
    of the last link the operands are the chain's own, and its program is the chain's."""

    links: tuple[Region, ...] = ()

    @staticmethod
    def of(links: Sequence[Region], keeps: bool = False) -> Chain:
        nodes = tuple(n for r in links for n in r.nodes)
        prologue = tuple(n for r in links for n in r.prologue)
        outputs = links[-1].outputs + links[-2].outputs * keeps
        return Chain(links[-1].anchor, nodes, outputs, prologue, tuple(links))

    @property
    def keeps(self) -> bool:
        """What the last link reads is a result."""
        return len(self.outputs) > len(self.links[-1].outputs)

    @property
    def op(self) -> str:
        return "Chain"

    @property
    def program(self) -> tuple[Node, ...]:
        return self.links[-1].program

    @property
    def anchor_inputs(self) -> tuple[Value | None, ...]:
        found: list[Value | None] = [self.links[0].anchor_inputs[0]]
        for i, r in enumerate(self.links):
            found += r.anchor_inputs[1:]
            if i + 1 < len(self.links):
                found += r.operands[1:]
        return tuple(found)

    @property
    def widened(self) -> tuple[int, ...]:
        return ()

    @property
    def operands(self) -> tuple[Value, ...]:
        return self.links[-1].operands

    @property
    def epilogue(self) -> Epilogue:
        return self.links[-1].epilogue

    def splits(self) -> tuple[tuple[Region, ...], ...]:
        return (self.links,)


def chains(graph: Graph, regions: Sequence[Region], log: Log | None = None) -> Iterator[tuple[Chain, tuple[int, ...]]]:
    """Chains there could be, each with the indices of its links; they overlap.

    A maximum follows only programs that never fall where their anchor's result rises, and has such a one itself, so
    that its kernel may take it before them: the workload of a chain does not tell. log: is told of those left out.
    """
    readers: dict[int, list[int]] = {}
    for i, r in enumerate(regions):
        if any(r.op in after for after in _FOLLOWS.values()) and r.anchor_inputs[0] is not None:
            readers.setdefault(r.anchor_inputs[0].id, []).append(i)
    follows = {}
    for i, r in enumerate(regions):
        j = _next(graph, r, readers)
        if j is None or regions[j].op not in _FOLLOWS[r.op]:
            continue
        reason = falls(r) or falls(regions[j]) if regions[j].op == "MaxPool" else None
        if reason is None:
            follows[i] = j
        elif log is not None:
            log.did_not("chain", regions[j].name, f"the maximum stays behind {r.name}: {reason}")
    for i, j in follows.items():
        yield Chain.of([regions[i], regions[j]]), (i, j)
        k = follows.get(j)
        if k is not None and (regions[i].op, regions[j].op, regions[k].op) in _LONGER:
            yield Chain.of([regions[i], regions[j], regions[k]]), (i, j, k)
    before = {j: i for i, j in follows.items()}
    for i, r in enumerate(regions):
        if r.op not in _KEPT or len(r.outputs) != 1 or len(r.outputs[0].uses) < 2 or graph.is_output(r.outputs[0]):
            continue
        for j in readers.get(r.outputs[0].id, ()):
            # what the last link reads besides must not come of what is kept
            if regions[j].op not in _KEPT or any(v.const is None for v in regions[j].inputs if v is not r.outputs[0]):
                continue
            yield Chain.of([r, regions[j]], keeps=True), (i, j)
            if (h := before.get(i)) is not None and regions[h].op in _KEPT:
                yield Chain.of([regions[h], r, regions[j]], keeps=True), (h, i, j)


def _next(graph: Graph, r: Region, readers: Mapping[int, Sequence[int]]) -> int | None:
    """Index of the region that alone reads the result of `r`, as its anchor's first input."""
    if r.op not in _FOLLOWS or len(r.outputs) != 1:
        return None
    v = r.outputs[0]
    if len(v.uses) != 1 or graph.is_output(v) or v.uses[0][1] != 0:
        return None
    return readers.get(v.id, [None])[-1]
