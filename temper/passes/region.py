"""A region: what one kernel computes, an anchor with its prologue and program, or a pointwise chain alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from temper.dtypes import NARROW_FLOATS
from temper.ir.dims import DimLike
from temper.ir.graph import Node, Value
from temper.tactics.epilogue import LIMITS, Attr, Epilogue, Instr, Operand


@dataclass(frozen=True)
class Region:
    """A part of a graph that one kernel computes.

    anchor: the node that the region is built around; None for a pointwise chain.
    nodes: in topological order; the anchor, if any, comes first, and the others are its elementwise program.
    inputs: values read from outside, by the anchor and then by the program, without repetition.
    outputs: values that are read outside.
    prologue: conversions to float32 of what the anchor reads, which its kernel makes as it loads. They are not among
        `nodes`, and the anchor's inputs are what they convert.
    """

    anchor: Node | None
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    prologue: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        return (self.anchor or next((n for n in self.nodes if not widens(n)), self.nodes[0])).name

    @property
    def op(self) -> str:
        return self.anchor.op if self.anchor is not None else "Pointwise"

    @property
    def origin(self) -> tuple[str, ...]:
        """Names of the source nodes this region stands for."""
        names = (o for n in self.nodes for o in (n.origin or (n.name,)) if not o.startswith("rule:"))
        return tuple(dict.fromkeys(names))

    @property
    def program(self) -> tuple[Node, ...]:
        """The elementwise nodes."""
        return self.nodes if self.anchor is None else self.nodes[1:]

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The prologue and `nodes`."""
        return (*self.prologue, *self.nodes)

    @property
    def anchor_inputs(self) -> tuple[Value | None, ...]:
        if self.anchor is None:
            return ()
        source = {n.output.id: n.inputs[0] for n in self.prologue}
        return tuple(v if v is None or v.id not in source else source[v.id] for v in self.anchor.inputs)

    @property
    def widened(self) -> tuple[int, ...]:
        """The anchor's inputs that the prologue converts."""
        if self.anchor is None:
            return ()
        made = {n.output.id for n in self.prologue}
        return tuple(i for i, v in enumerate(self.anchor.inputs) if v is not None and v.id in made)

    @cached_property
    def operands(self) -> tuple[Value, ...]:
        """Values the program reads, numbered as in `epilogue`: with an anchor, operand 0 is its output."""
        inside = {o.id for n in self.nodes for o in n.outputs}
        found: dict[int, Value] = {}
        if self.anchor is not None:
            found[self.anchor.outputs[0].id] = self.anchor.outputs[0]
        for n in self.program:
            for v in n.inputs:
                if v is not None and v.id not in inside:
                    found.setdefault(v.id, v)
        return tuple(found.values())

    @property
    def inputs(self) -> tuple[Value, ...]:
        first = [v for v in self.anchor_inputs if v is not None]
        rest = self.operands[1:] if self.anchor is not None else self.operands
        return tuple({v.id: v for v in (*first, *rest)}.values())

    @cached_property
    def epilogue(self) -> Epilogue:
        """The program as data; the identity for an anchor with several results, which never has a program."""
        if self.anchor is not None and len(self.anchor.outputs) > 1:
            return Epilogue.identity(self.outputs[0].type.dtype, self.outputs[0].type.rank)
        shape = self.outputs[0].type.shape
        number = {v.id: i for i, v in enumerate(self.operands)}
        operands = tuple(
            Operand(v.type.dtype, _mask(v.type.shape, shape), limit=_limit(v), short=_short(v)) for v in self.operands
        )
        instrs: list[Instr] = []
        for n in self.program:
            args = tuple(number[v.id] for v in n.inputs if v is not None)
            attrs = tuple((k, _plain(v)) for k, v in sorted(n.attrs.items()))
            instrs.append(Instr(n.op, args, n.output.type.dtype, attrs))
            number[n.output.id] = len(operands) + len(instrs) - 1
        return Epilogue(operands, tuple(instrs), tuple(number[v.id] for v in self.outputs))

    def splits(self) -> tuple[tuple[Region, ...], ...]:
        """Ways to take it apart, the one that keeps most together first; none where there is nothing to split.

        The first region of each is the anchor's: without its prologue, without its program, or alone.
        """
        if self.anchor is None:
            apart = tuple(Region(None, (n,), (n.output,)) for n in self.nodes)
            return (apart,) if len(self.nodes) > 1 else ()
        casts = tuple(Region(None, (n,), (n.output,)) for n in self.prologue)
        bare = Region(self.anchor, (self.anchor,), tuple(self.anchor.outputs))
        ways: list[tuple[Region, ...]] = []
        if casts:
            ways.append((replace(self, prologue=()), *casts))
        if self.program:
            rest = Region(None, self.program, tuple(v for v in self.outputs if v is not self.anchor.outputs[0]))
            if casts:
                ways.append((replace(bare, prologue=self.prologue), rest))
            ways.append((bare, rest, *casts))
        return tuple(ways)


def _limit(v: Value) -> float:
    """As Operand has it."""
    if v.const is None or v.type.dtype not in ("float32", "int32"):
        return math.inf
    largest = np.abs(v.const.astype(np.float64)).max(initial=0)
    return next((x for x in LIMITS if largest <= x), math.inf)


def _short(v: Value) -> bool:
    """As Operand has it."""
    if v.const is None or v.type.dtype != "float32":
        return False
    return bool((np.isfinite(v.const) & (np.ascontiguousarray(v.const).view(np.uint32) & 255 == 0)).all())


def _plain(value: object) -> Attr:
    if isinstance(value, (int, float, str, tuple)):
        return value
    raise TypeError(f"an elementwise op's attribute cannot be {value!r}")


def _mask(shape: tuple[DimLike, ...], out: tuple[DimLike, ...]) -> tuple[bool, ...]:
    """Which axes of `out` the operand has. An axis of size 1 on both sides counts as absent unless the shapes are
    equal."""
    padded = (1,) * (len(out) - len(shape)) + tuple(shape)
    return tuple(padded == out or (a == b and b != 1) for a, b in zip(padded, out, strict=True))


def widens(node: Node, narrow: frozenset[str] = NARROW_FLOATS) -> bool:
    """A conversion of one of these types to float32."""
    source = node.inputs[0] if node.op == "Cast" else None
    return source is not None and source.type.dtype in narrow and node.output.type.dtype == "float32"
