"""The recipe: everything that turns a float graph into its Q/DQ form, and the patterns that pin a site's precision."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from temper.errors import ConfigError
from temper.ir.graph import Graph, Node
from temper.ir.ops import make
from temper.passes.halves import roundable, rounded
from temper.passes.manager import Log
from temper.quantize.codes import Range, insert
from temper.quantize.float8 import declines, float8_sites, narrow
from temper.quantize.float8 import insert as insert_float8
from temper.quantize.placement import Placement, Site, place_sites, sites_of

#: What a pattern may pin a site to.
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a float graph becomes integer. Names are those of `sites_of(graph)` and of the graph's tensors.

    sites: which are on.
    amax: threshold by tensor.
    ranges: least and greatest value of tensors whose codes get a zero point; they hold instead of thresholds where a
        whole group has them and can be negative.
    weight_scales: of the weights of products, float32 per output channel, instead of max |w| / 127.
    operands: constants that replace an input of a node, by (name of the node's first result, input index), whether
        sites are on or off: what equalisation and SmoothQuant rescale.
    biases: added to a product's result, float32 per output channel, where it is on.
    signed: tensors coded as int8 although they cannot be negative.
    apart: tensors with codes of their own though they are parts of others, see `narrow_parts`.
    halves: products that are off and computed in bfloat16.
    form: "int8", or "float8" where sites are products of 8-bit floats (E4M3).
    eights: products that are off and computed in 8-bit floats, with the largest magnitude of their data.
    """

    sites: frozenset[str]
    amax: Mapping[str, float]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    weight_scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    operands: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)
    biases: Mapping[str, np.ndarray] = field(default_factory=dict)
    signed: frozenset[str] = frozenset()
    halves: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    form: str = "int8"
    eights: Mapping[str, float] = field(default_factory=dict)

    def sites_in(self, graph: Graph) -> tuple[Site, ...]:
        """All sites of a float graph, on or off."""
        return sites_of(graph) if self.form == "int8" else float8_sites(graph)

    def only(self, names: Collection[str]) -> Recipe:
        """The same with exactly these sites on."""
        return replace(self, sites=frozenset(names))

    def without(self, names: Collection[str]) -> Recipe:
        """The same with these sites off."""
        return replace(self, sites=self.sites - frozenset(names))

    def placement(self, graph: Graph, sites: Iterable[Site] | None = None) -> Placement:
        """Where the codes go. sites: those of the graph, if known already."""
        found = place_sites(graph, sites_of(graph) if sites is None else sites, self.sites, self.apart)
        if not self.signed:
            return found
        groups = (replace(g, signed=g.signed or not self.signed.isdisjoint(g.tensors)) for g in found.groups)
        return replace(found, groups=tuple(groups))

    def replace_operands(self, graph: Graph) -> None:
        """Puts `operands` into the graph, those of its nodes. ConfigError for one that is not a constant, or has
        another shape."""
        nodes = {n.outputs[0].name: n for n in graph.nodes}
        for (key, i), array in self.operands.items():
            node = nodes.get(key)
            if node is None:
                continue  # of another profile's graph
            old = node.inputs[i] if i < len(node.inputs) else None
            if old is None or old.const is None or old.const.shape != array.shape:
                raise ConfigError(f"the recipe replaces input {i} of '{key}', which is not a constant of {array.shape}")
            constant = graph.add_constant(array.astype(old.const.dtype), old.name)
            graph.set_input(node, i, constant)
            if not old.uses and not graph.is_output(old):
                graph.remove_constant(old)

    def apply(self, graph: Graph, log: Log) -> None:
        """Writes the Q/DQ form into the graph in place: a pass just before "integer". Sites that the graph does not
        have are left out; the builder checks that each was somewhere."""
        self.replace_operands(graph)
        sites = self.sites_in(graph)
        for name in sorted(self.sites - {s.name for s in sites}):
            log.did_not("quantize", name, "not in the graph for these sizes: what is there instead stays in float")
        if self.form == "float8":
            chosen = [s for s in sites if s.name in self.sites]
            insert_float8(graph, chosen, self.amax)
            for s in chosen:
                log.did("quantize", s.name)
            return
        placement = self.placement(graph, sites)
        nodes = {n.outputs[0].name: n for n in graph.nodes}
        scales = {}
        for s in sites:
            if s.name not in self.sites:
                continue
            log.did("quantize", s.name)
            if s.name in self.biases:
                add_to_result(graph, nodes[s.key], self.biases[s.name])
            if s.name in self.weight_scales:
                scales[s.key] = self.weight_scales[s.name]
        insert(graph, placement, self.amax, scales, self.ranges)
        for s in sites:
            if s.name in self.halves and s.name not in self.sites and roundable(nodes[s.key]) is None:
                rounded(graph, nodes[s.key])
                log.did("round", s.name)
        eights = {s.key: self.eights[s.name] for s in sites if s.name in self.eights and s.name not in self.sites}
        narrow(graph, {key: x for key, x in eights.items() if declines(nodes[key]) is None})

    def check(self, log: Log) -> None:
        """ConfigError if a site was in none of the graphs that were quantized."""
        missing = sorted(self.sites - {name for rule, name in log.applied if rule == "quantize"})
        if missing:
            raise ConfigError(
                f"the recipe computes {', '.join(repr(m) for m in missing[:5])} in INT8, which this model lacks or "
                "which cannot be integer: calibrate this model anew"
            )


def add_to_result(graph: Graph, node: Node, shift: np.ndarray) -> None:
    """Adds a constant per output channel to a product's result: in its bias, or in the constant added after it."""
    dtype = np.float32
    if node.op == "Conv":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and bias.const is not None:
            total = (bias.const.astype(np.float64) + shift).astype(dtype)
            graph.set_input(node, 2, graph.add_constant(total, f"{node.name}.corrected"))
            return
    y = node.output
    user, i = y.uses[0] if len(y.uses) == 1 and not graph.is_output(y) else (None, 0)
    added = user.inputs[1 - i] if user is not None and user.op == "Add" else None
    old = added.const if added is not None else None
    if user is not None and old is not None and old.size == shift.size and old.shape[-1:] == shift.shape:
        total = (old.astype(np.float64) + shift).astype(dtype)
        graph.set_input(user, 1 - i, graph.add_constant(total, f"{node.name}.corrected"))
        return
    constant = graph.add_constant(shift.astype(dtype), f"{node.name}.shift")
    readers = list(y.uses)
    origin = (*node.origin, "rule:bias")
    corrected = make(graph, "Add", [y, constant], {}, name=f"{node.name}.corrected", origin=origin).output
    for reader, k in readers:
        graph.set_input(reader, k, corrected)
    graph.outputs = [corrected if v is y else v for v in graph.outputs]


@dataclass(frozen=True)
class Pins:
    """Sites that patterns pin.

    fp32, bf16, fp16, fp8: off, and computed so.
    low: on, whatever they cost.
    idle: patterns that match only nodes which are float anyway.
    """

    fp32: frozenset[str]
    bf16: frozenset[str]
    fp16: frozenset[str]
    low: frozenset[str]
    idle: tuple[str, ...]
    fp8: frozenset[str] = frozenset()

    @property
    def off(self) -> frozenset[str]:
        """Sites that are not on whatever that costs."""
        return self.fp32 | self.halves | self.fp8

    @property
    def halves(self) -> frozenset[str]:
        """Sites in a half type."""
        return self.bf16 | self.fp16

    @property
    def every(self) -> frozenset[str]:
        return self.off | self.low


def pinned(
    graph: Graph, patterns: Iterable[str], sites: Iterable[Site] | None = None, form: str = "int8"
) -> Pins:
    """Sites of a float graph by patterns such as '/head/*=fp32', with the wildcards of a shell; the last that matches a
    site decides. form: of what is on, as a recipe has it.

    ConfigError: a precision there is not, or a pattern that matches no node; the message lists names near it.
    """
    known = {s.key: s.name for s in (sites_of(graph) if sites is None else sites)}
    nodes = graph.nodes
    decided: dict[str, str] = {}
    idle = []
    for text in patterns:
        pattern, equals, precision = text.rpartition("=")
        if not equals or precision not in PRECISIONS:
            raise ConfigError(
                f"'{text}' does not say what to keep: write PATTERN=PRECISION, for example '/head/*=fp32'; "
                f"the precisions are {', '.join(PRECISIONS)}"
            )
        found = [n for n in nodes if any(fnmatchcase(name, pattern) for name in n.names)]
        if not found:
            names = list(dict.fromkeys(name for n in nodes for name in n.names))
            raise ConfigError(f"'{pattern}' matches no layer of the model; {_near(pattern, names)}")
        matched = [known[n.outputs[0].name] for n in found if n.outputs[0].name in known]
        decided.update(dict.fromkeys(matched, precision))
        if not matched:
            idle.append(text)
    fp32, bf16, fp16, int8, fp8 = (frozenset(s for s, p in decided.items() if p == which) for which in PRECISIONS)
    if form == "float8":
        return Pins(fp32, bf16, fp16, int8 | fp8, tuple(idle))
    return Pins(fp32, bf16, fp16, int8, tuple(idle), fp8)


def _near(pattern: str, names: list[str]) -> str:
    plain = pattern.replace("*", "").replace("?", "")
    inside = [n for n in names if plain and plain.strip("/").lower() in n.lower()]
    close = inside[:5] or difflib.get_close_matches(plain, names, 5, 0.3) or names[:5]
    return f"names near it: {', '.join(close)}"
