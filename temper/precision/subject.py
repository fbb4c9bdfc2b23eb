"""The model that an INT8 build works on: its float graph, the sites in it, and the user's pins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import escape

from temper.builder import float_graph
from temper.config import BuildConfig, Profile, Range
from temper.ir.graph import Graph
from temper.passes.halves import roundable
from temper.passes.integer import MOVES
from temper.passes.narrow import STORED
from temper.profiles import Model, resolve_sizes
from temper.quantize.float8 import DTYPE, declines, float8_sites
from temper.quantize.placement import Site, quantizable, sites_of
from temper.quantize.recipe import Pins, pinned
from temper.target import Target, target_of


@dataclass(frozen=True, eq=False)
class Subject:
    """model: as it was given.
    parsed: read once for all.
    graph: the float graph of the first profile.
    ranges: of the symbols that are open in it, one a profile that it serves.
    """

    model: Model
    parsed: Model
    config: BuildConfig
    graph: Graph
    ranges: tuple[Mapping[str, Range], ...]
    sites: tuple[Site, ...]
    pins: Pins

    @staticmethod
    def of(model: Model, config: BuildConfig, keep: Sequence[str] = (), form: str = "int8") -> Subject:
        """form: of what sites are when they are on, as a recipe has it. ConfigError for a pattern in `keep` that
        matches nothing."""
        sizes = resolve_sizes(model, config)
        graph = float_graph(sizes, config)
        members = next(iter(sizes.groups().values()))
        symbols = frozenset().union(*(v.type.symbols for v in graph.inputs))
        ranges = tuple({s: r for s, r in sizes.ranges[i].items() if s in symbols} for i in members)
        sites = sites_of(graph) if form == "int8" else float8_sites(graph)
        found = Subject(model, sizes.model, config, graph, ranges, sites, pinned(graph, keep, sites, form))
        return replace(found, ranges=ranges[:1]) if found.several else found

    @property
    def note(self) -> str:
        """What a user who gives data of other sizes should know: dimensions that are open in the model and fixed at 1
        because no profile says otherwise; "" if there are none."""
        sizes = resolve_sizes(self.parsed, self.config)
        stated = {s for p in self.config.profiles for s in p.ranges}
        left = sorted(s for s, d in sizes.dims.items() if d == 1 and s not in stated)
        if not left:
            return ""
        example = ",".join(f"{s}=1:8:16" for s in left)
        return f"the model's {', '.join(left)} are open, and 1 without a profile: --profile {example} states ranges"

    @property
    def tensors(self) -> tuple[str, ...]:
        """Those that carry codes in some choice of sites: what a site reads, and what moves bring it from."""
        found: dict[str, None] = {}
        nodes = {n.outputs[0].name: n for n in self.graph.nodes}
        todo = [v for s in self.sites for v in (nodes[s.key].inputs[i] for i in s.inputs) if v is not None]
        while todo:
            v = todo.pop()
            if v.const is not None or v.name in found or v.type.dtype != "float32":
                continue
            found[v.name] = None
            if v.producer is not None and v.producer.op in MOVES:
                todo += [u for u in v.producer.inputs if u is not None]
        return tuple(found)

    @property
    def read(self) -> frozenset[str]:
        """Those that carry codes when every site is on that is not pinned to float."""
        return frozenset(t for s in self.sites if s.name not in self.pins.off for t in s.tensors)

    @property
    def on(self) -> frozenset[str]:
        """Sites that are not pinned to a float type."""
        return frozenset(s.name for s in self.sites) - self.pins.off

    @cached_property
    def target(self) -> Target:
        return target_of(self.config)

    @property
    def absent(self) -> bool:
        """The target is a GPU that is not here: the CPU computes what is to be found out, and nothing is timed."""
        return self.target.name != "cpu" and not self.target.present

    @property
    def half(self) -> str:
        """The type that what is not INT8 is computed in where float32 is not asked for."""
        return STORED[self.config.precision] if self.target.widens else "bfloat16"

    @property
    def several(self) -> bool:
        """The plan has profiles besides the one that a GPU's engines are looked at in, as each takes tuning."""
        return self.target.widens and max(len(self.config.profiles), 1) * max(len(self.config.batches), 1) > 1

    @property
    def here(self) -> BuildConfig:
        """The configuration of engines that are looked at on this machine."""
        config = self.config
        if self.several:
            config = replace(config, profiles=config.profiles[:1], batches=config.batches[:1])
        return replace(config, device="cpu", precision="fp32", isa="") if self.absent else config

    @property
    def one(self) -> BuildConfig:
        """The configuration of the target's engines that times are taken of: as the plan's, of one profile."""
        here = replace(self.here, device=self.config.device, precision=self.config.precision, isa=self.config.isa)
        return self.held_wide(here)

    @property
    def exact(self) -> BuildConfig:
        """The configuration of the float32 engine that others are compared with, which on a GPU is not tuned."""
        if not self.target.widens:
            return self.here
        return replace(self.here, precision="fp32", tf32=False, effort=0)

    @property
    def chosen(self) -> BuildConfig:
        """The configuration of the plan that is made: what is pinned to float32 stays so, on a GPU too."""
        return self.held_wide(self.config)

    def held_wide(self, config: BuildConfig) -> BuildConfig:
        """`config`, with the layers named that are pinned to float32."""
        keys = {s.name: s.key for s in self.sites}
        pinned = sorted(escape(keys[name]) for name in self.pins.fp32)
        return replace(config, wide=(*config.wide, *pinned)) if config.precision != "fp32" else config

    @property
    def halves(self) -> frozenset[str]:
        """Sites that are computed in `half` where they are not INT8, but for those pinned to float32: on a GPU all, on
        a CPU products, where its code level multiplies bfloat16."""
        if self.target.widens:
            every = frozenset(s.name for s in self.sites)
            return frozenset() if self.half == "float32" else every - self.pins.fp32
        if not self.target.multiplies("bfloat16"):
            return frozenset()
        nodes = {n.outputs[0].name: n for n in self.graph.nodes}
        able = (s.name for s in self.sites if s.product and roundable(nodes[s.key]) is None)
        return frozenset(able) - self.pins.fp32

    @cached_property
    def eights(self) -> frozenset[str]:
        """Sites that can be products of 8-bit floats (E4M3) where they are not on."""
        if not self.target.multiplies(DTYPE):
            return frozenset()
        nodes = {n.outputs[0].name: n for n in self.graph.nodes}
        return frozenset(s.name for s in self.sites if s.product and declines(nodes[s.key]) is None) - self.pins.fp32

    @property
    def optimum(self) -> dict[str, int]:
        """Sizes of the open symbols that the first profile is tuned at."""
        return {s: r[1] for s, r in (self.ranges[0] if self.ranges else {}).items()}

    @property
    def plain(self) -> BuildConfig:
        """The configuration for builds from the float graph: one profile that holds all sizes of those it serves."""
        joined = {}
        for symbol, (_, best, _) in (self.ranges[0] if self.ranges else {}).items():
            every = [r[symbol] for r in self.ranges]
            joined[symbol] = (min(r[0] for r in every), best, max(r[2] for r in every))
        profiles = (Profile.of(**joined),) if joined else ()
        plain = replace(self.exact, wide=(), profiles=profiles, batches=(), shapes={}, portable_graph=False)
        return replace(plain, stop_after="", disable=())

    def why_not(self) -> dict[str, list[str]]:
        """Products that cannot be INT8, by the reason."""
        found: dict[str, list[str]] = {}
        for n in self.graph.nodes:
            if n.op in ("Conv", "MatMul") and (reason := quantizable(n)) is not None:
                found.setdefault(reason, []).append(n.name)
        return found
