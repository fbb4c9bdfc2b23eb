"""Regions that follow each other closely enough to be one kernel: chains, priced against their links by measured time.

A link's one result is read by the next link's anchor, as its first input, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temper.ir.graph import Graph, Node, Value
from temper.passes.partition import Region
from temper.tactics.epilogue import Epilogue

#: Links of a chain.
LENGTHS = (2,)

#: Anchors that may follow an anchor.
_FOLLOWS = {"ConvInt8": frozenset({"ConvInt8", "SqueezeExcite"}), "Conv": frozenset({"SqueezeExcite"})}


@dataclass(frozen=True)
class Chain(Region):
    """Several regions as one. What its kernel reads, in order: the first link's inputs, the operands of its program
    but the first (its anchor's result), then of every further link the anchor's inputs but the first, and the operands;
    of the last link the operands are the chain's own, and its program is the chain's."""

    links: tuple[Region, ...] = ()

    @staticmethod
    def of(links: Sequence[Region]) -> Chain:
        nodes = tuple(n for r in links for n in r.nodes)
        prologue = tuple(n for r in links for n in r.prologue)
        return Chain(links[-1].anchor, nodes, links[-1].outputs, prologue, tuple(links))

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


def chains(graph: Graph, regions: Sequence[Region]) -> Iterator[tuple[Chain, tuple[int, ...]]]:
    """Chains there could be, each with the indices of its links; they overlap."""
    first_input = {
        r.anchor_inputs[0].id: i
        for i, r in enumerate(regions)
        if any(r.op in after for after in _FOLLOWS.values()) and r.anchor_inputs[0] is not None
    }
    follows = {
        i: j
        for i, r in enumerate(regions)
        if (j := _next(graph, r, first_input)) is not None and regions[j].op in _FOLLOWS[r.op]
    }
    for length in LENGTHS:
        for i in follows:
            members = [i]
            while len(members) < length and members[-1] in follows:
                members.append(follows[members[-1]])
            if len(members) == length:
                yield Chain.of([regions[k] for k in members]), tuple(members)


def _next(graph: Graph, r: Region, readers: dict[int, int]) -> int | None:
    """Index of the region that alone reads the result of `r`, as its anchor's first input."""
    if r.op not in _FOLLOWS or len(r.outputs) != 1:
        return None
    v = r.outputs[0]
    if len(v.uses) != 1 or graph.is_output(v) or v.uses[0][1] != 0:
        return None
    return readers.get(v.id)
