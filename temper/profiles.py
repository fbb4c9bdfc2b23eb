"""The sizes a build is for: a model's symbols, the ranges profiles give them, and the graph of each set of sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

from temper.config import BuildConfig
from temper.errors import ConfigError, ShapeError
from temper.ir.dims import Dim
from temper.ir.evaluate import bind_attr
from temper.ir.graph import Graph
from temper.ir.ops import TABLE
from temper.ir.substitution import substituted

if TYPE_CHECKING:
    import onnx

Model = Union[str, Path, bytes, "onnx.ModelProto", Graph]

#: (min, opt, max) by symbol.
Ranges = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Sizes:
    """A model, its graph over the symbols whose sizes differ within or between profiles, and every profile's ranges of
    them. fixed: the other symbols, which have the same single size in all profiles.
    """

    model: Model
    config: BuildConfig
    graph: Graph
    ranges: tuple[Ranges, ...]
    fixed: Mapping[str, int]

    def groups(self) -> dict[tuple[tuple[str, int], ...], list[int]]:
        """Profiles by the symbols they hold at one size: (symbol, size) pairs -> numbers of the profiles."""
        out: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for i, p in enumerate(self.ranges):
            out.setdefault(tuple(sorted((s, low) for s, (low, _, high) in p.items() if low == high)), []).append(i)
        return out

    def graph_with(self, sizes: Mapping[str, int]) -> Graph:
        """A graph of its own in which these symbols are constants.

        The model is imported anew where it can be: with sizes known, branches and loops resolve that stay open else.
        """
        known = frozenset().union(*(v.type.symbols for v in self.graph.inputs))
        open_results = any(not v.type.symbols <= known for v in self.graph.outputs)
        if not sizes or isinstance(self.model, Graph) or open_results:
            # a shape that depends on data is one in every program, since the plan states the results' shapes once
            return substituted(self.graph, sizes)
        return _imported(self.model, self.config, {**self.fixed, **sizes})


def resolve_sizes(model: Model, config: BuildConfig) -> Sizes:
    """Reads the model and gives every symbol of its inputs its ranges; one without a range is 1.

    ConfigError: a profile names a symbol the model lacks. ShapeError: no input's shape gives the size of a symbol.
    """
    graph = model.copy() if isinstance(model, Graph) else _imported(model, config, {})
    symbols = sorted(frozenset().union(*(v.type.symbols for v in graph.inputs)))
    profiles = [p.ranges for p in config.profiles] or [{}]
    for p in profiles:
        if unknown := sorted(set(p) - set(symbols)):
            raise ConfigError(
                f"a profile gives a range for {', '.join(unknown)}, "
                f"but the model's dimensions are: {', '.join(symbols) or 'all static'}"
            )
    ranges = [{s: p.get(s, (1, 1, 1)) for s in symbols} for p in profiles]
    fixed = {s: ranges[0][s][0] for s in symbols if len({n for p in ranges for n in p[s]}) == 1}
    _check_bindable(graph, set(symbols) - set(fixed))
    if fixed:
        graph = substituted(graph, fixed) if isinstance(model, Graph) else _imported(model, config, fixed)
    left = tuple({s: r for s, r in p.items() if s not in fixed} for p in ranges)
    return Sizes(model, config, graph, left, fixed)


def _imported(model: str | Path | bytes | onnx.ModelProto, config: BuildConfig, dims: Mapping[str, int]) -> Graph:
    from temper.frontends.onnx import import_onnx

    return import_onnx(model, shapes=config.shapes, dims=dims)


def _check_bindable(graph: Graph, symbols: set[str]) -> None:
    """Every symbol must be a dimension of some input by itself: an expression need not determine it."""
    alone = {str(d) for v in graph.inputs for d in v.type.shape if isinstance(d, Dim)}
    if lost := sorted(symbols - alone):
        where = "; ".join(f"'{v.name}' {v.type}" for v in graph.inputs if v.type.symbols & set(lost))
        raise ShapeError(
            f"no input's shape gives the size of {', '.join(lost)} ({where}): "
            "fix it with a profile of one size, or give that input a shape"
        )


def check_profiles(graph: Graph, ranges: Sequence[Ranges]) -> None:
    """Shapes inferred with symbols must hold at both ends and at the optimum of every profile: ShapeError names the
    node where they do not."""
    for symbols in ranges:
        for end in (0, 1, 2) if symbols else ():
            _check_sizes(graph, {name: r[end] for name, r in symbols.items()})


def _check_sizes(graph: Graph, env: Mapping[str, int]) -> None:
    at = ", ".join(f"{k} = {v}" for k, v in sorted(env.items()))
    for node in graph.nodes:
        if not frozenset().union(*(o.type.symbols for o in node.outputs)) <= set(env):
            continue  # a length that depends on data: the host finds it
        attrs = {k: bind_attr(v, env) for k, v in node.attrs.items()}
        try:
            found = TABLE[node.op].infer([None if v is None else v.type.bind(env) for v in node.inputs], attrs)
        except (ShapeError, KeyError) as e:
            raise ShapeError(f"node '{node.name}' ({node.op}) does not work with {at}: {e}") from e
        want = [o.type.bind(env) for o in node.outputs]
        if list(found) != want:
            raise ShapeError(
                f"node '{node.name}' ({node.op}) gives {found[0]} with {at}, not {want[0]} as in the "
                "rest of the profile: choose a profile in which it keeps its form"
            )
        if any(d < 0 for t in want for d in t.shape if isinstance(d, int)):
            raise ShapeError(f"node '{node.name}' ({node.op}) gives {want[0]} with {at}: the size is too small for it")
