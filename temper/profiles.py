"""The sizes a build is for: a model's symbols, the ranges of its profiles, and a graph per set of fixed sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

from temper.config import BuildConfig, Profile, Range, ShapeRange
from temper.errors import ConfigError, ShapeError, UnequalSizes
from temper.ir.dims import Dim, DimLike, evaluate, solved, substitute
from temper.ir.equations import divided, isolated
from temper.ir.evaluate import bind_attr
from temper.ir.graph import Graph
from temper.ir.ops import TABLE
from temper.ir.ops.flow import FLOW_OPS
from temper.ir.substitution import substituted
from temper.ir.types import TensorType

if TYPE_CHECKING:
    import onnx

    from temper.frontends.onnx.load import Loaded

Model = Union[str, Path, bytes, "onnx.ModelProto", "Loaded", Graph]

#: Largest multiple that a size is tried as, where nodes demand one.
_LARGEST_FACTOR = 1024

#: (min, opt, max) by symbol.
Ranges = Mapping[str, Range]


@dataclass(frozen=True)
class Sizes:
    """A model, its graph over the symbols whose sizes differ within or between profiles, and every profile's ranges of
    them.

    dims: what the other names of the model's dimensions stand for: the size they have in all profiles, or an expression
    that the model's own nodes demand (see `_imported_as_demanded`).
    """

    model: Graph | Loaded
    config: BuildConfig
    graph: Graph
    ranges: tuple[Ranges, ...]
    dims: Mapping[str, DimLike]

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
        dims = {name: substitute(d, sizes) for name, d in self.dims.items()}
        return _imported(self.model, self.config, {**sizes, **dims})


def read(model: Model) -> Graph | Loaded:
    """The model, read once for all that is made of it. Errors as for `import_onnx`."""
    from temper.frontends.onnx.load import loaded

    return model if isinstance(model, Graph) else loaded(model)


def resolve_sizes(model: Model, config: BuildConfig) -> Sizes:
    """Reads the model and gives every symbol of its inputs its ranges; one without a range is 1.

    ConfigError: a profile names a symbol the model lacks, or sizes that the model's own nodes exclude. ShapeError: no
    input's shape gives the size of a symbol.
    """
    from temper.frontends.onnx.inputs import input_types

    model = read(model)
    types = (
        {v.name: v.type for v in model.inputs} if isinstance(model, Graph) else input_types(model, config.static_shapes)
    )
    symbols = sorted(frozenset().union(*(t.symbols for t in types.values())))
    profiles = _stated(types, config)
    for p in profiles:
        if unknown := sorted(set(p) - set(symbols)):
            raise ConfigError(
                f"a profile gives a range for {', '.join(unknown)}, "
                f"but the model's dimensions are: {', '.join(symbols) or 'all static'}"
            )
    ranges: list[Ranges] = [{s: p.get(s, (1, 1, 1)) for s in symbols} for p in profiles]
    dims: dict[str, DimLike] = {s: ranges[0][s][0] for s in symbols if len({n for p in ranges for n in p[s]}) == 1}
    _check_bindable(types, set(symbols) - set(dims))
    ranges = [{s: r for s, r in p.items() if s not in dims} for p in ranges]
    if isinstance(model, Graph):
        return Sizes(model, config, substituted(model, dims), tuple(ranges), dims)
    graph, ranges = _imported_as_demanded(model, config, dims, ranges)
    return Sizes(model, config, graph, tuple(ranges), dims)


def _stated(types: Mapping[str, TensorType], config: BuildConfig) -> list[dict[str, Range]]:
    """Every profile's ranges by symbol, from what is said of symbols, of whole shapes and of the batch."""
    out: list[dict[str, Range]] = []
    for p in config.profiles or (Profile(()),):
        ranges = p.ranges
        for name, shapes in {**config.shape_ranges, **dict(p.inputs)}.items():
            _add_shapes(ranges, name, shapes, types)
        out.append(ranges)
    if config.batches:
        symbols = batch_symbols(types)
        out = [{**p, **dict.fromkeys(symbols, r)} for p in out for r in config.batches]
    return out


def _add_shapes(ranges: dict[str, Range], name: str, shapes: ShapeRange, types: Mapping[str, TensorType]) -> None:
    """Ranges of the symbols in an input's shape from its (min, opt, max) shapes."""
    if name not in types:
        raise ConfigError(f"shapes are given for '{name}', but the inputs are {', '.join(types)}")
    t = types[name]
    if len(shapes[0]) != t.rank:
        raise ConfigError(f"shapes of rank {len(shapes[0])} are given for input '{name}', which is {t}")
    for axis, (d, *sizes) in enumerate(zip(t.shape, *shapes, strict=True)):
        low, best, high = sizes
        if not isinstance(d, Dim):
            if (low, high) != (d, d):
                raise ConfigError(
                    f"shapes of input '{name}', axis {axis}: {low}, {best}, {high}, but the model has {d} there; "
                    "only open dimensions can vary"
                )
            continue
        found = [solved(d, size) for size in sizes]
        if None in found:
            continue  # an expression in other symbols: they have ranges of their own
        symbol = found[0][0]  # type: ignore[index]
        own = tuple(f[1] for f in found if f is not None)
        if ranges.setdefault(symbol, own) != own:  # type: ignore[arg-type]
            raise ConfigError(
                f"shapes of input '{name}', axis {axis}, make {symbol} {own}, but elsewhere it is {ranges[symbol]}"
            )


def batch_symbols(types: Mapping[str, TensorType]) -> list[str]:
    """Symbols that are the first dimension of an input. ConfigError if the model has none."""
    firsts = [t.shape[0] for t in types.values() if t.rank]
    symbols = sorted({str(d) for d in firsts if isinstance(d, Dim) and str(d).isidentifier()})
    if not symbols:
        shapes = ", ".join(f"{name}: {t}" for name, t in types.items())
        raise ConfigError(
            f"--batch: the model's inputs have a fixed first dimension ({shapes}); export it with a dynamic batch, "
            "or give whole shapes with --shape"
        )
    return symbols


def _imported(model: Loaded, config: BuildConfig, dims: Mapping[str, DimLike]) -> Graph:
    from temper.frontends.onnx import import_onnx

    return import_onnx(model, shapes=config.static_shapes, dims=dims, loop_limit=config.loop_limit)


def _imported_as_demanded(
    model: Loaded, config: BuildConfig, dims: dict[str, DimLike], ranges: list[Ranges]
) -> tuple[Graph, list[Ranges]]:
    """The graph, and the ranges in the symbols it is over. What the model's nodes demand of sizes (that two are equal,
    or that one is a multiple) is added to `dims`; ConfigError where a profile contradicts it."""
    names = {s: (s, 1) for p in ranges for s in p}  # symbol -> the model's name for it, and what it is a count of
    while True:
        try:
            return _imported(model, config, dims), ranges
        except ShapeError as e:
            unequal = _unequal(e)
            found = None if unequal is None else _demanded(unequal, names)
            if found is None:
                raise
            symbol, size, name, factor = found
            ranges = [_narrowed(p, symbol, size, names[symbol], str(e)) for p in ranges]
            for known in dims:
                dims[known] = substitute(dims[known], {symbol: size})
            if names.pop(symbol)[1] == 1:
                dims[symbol] = size
            if name:
                names[name] = (symbol if factor == 2 else name.rpartition("_")[0], factor)


def _unequal(e: BaseException | None) -> UnequalSizes | None:
    while e is not None and not isinstance(e, UnequalSizes):
        e = e.__cause__
    return e


def _demanded(e: UnequalSizes, names: Mapping[str, tuple[str, int]]) -> tuple[str, DimLike, str, int] | None:
    """(symbol, its size, new symbol in it or "", how many of it the new one counts) that brings two sizes nearer."""
    if not isinstance(e.left, int | Dim) or not isinstance(e.right, int | Dim):
        return None
    if (equal := isolated(e.left, e.right)) is not None and equal[0] in names:
        return *equal, "", 1
    for symbol in divided(e.left, e.right):
        original, factor = names.get(symbol, ("", _LARGEST_FACTOR))
        if factor < _LARGEST_FACTOR:
            new = f"{original}_{2 * factor}"
            return symbol, 2 * Dim.symbol(new), new, 2 * factor
    return None


def _narrowed(p: Ranges, symbol: str, size: DimLike, name: tuple[str, int], why: str) -> Ranges:
    """The ranges with those of `symbol` in terms of what it stands for. ConfigError if it cannot have that form."""
    rest = {s: r for s, r in p.items() if s != symbol}
    given = p[symbol]
    if isinstance(size, Dim) and not size.symbols <= set(rest):  # an even number of a new symbol
        (new,) = size.symbols
        if any(v % 2 for v in given):
            sizes, step = tuple(v * name[1] for v in given), 2 * name[1]
            raise ConfigError(f"a profile has {name[0]} = {sizes}, but it must be a multiple of {step}: {why}")
        return {**rest, new: (given[0] // 2, given[1] // 2, given[2] // 2)}
    wanted = tuple(evaluate(size, {s: r[end] for s, r in rest.items()}) for end in range(3))
    if given != wanted:
        raise ConfigError(f"a profile has {symbol} = {given}, but it must be {size} = {wanted}: {why}")
    return rest


def _check_bindable(types: Mapping[str, TensorType], symbols: set[str]) -> None:
    """Every symbol must be a dimension of some input by itself, or times a constant: else it need not follow."""
    dims = [d for t in types.values() for d in t.shape if isinstance(d, Dim)]
    alone = {found[0] for d in dims if (found := solved(d, evaluate(d, dict.fromkeys(d.symbols, 1)))) is not None}
    if lost := sorted(symbols - alone):
        where = "; ".join(f"'{name}' {t}" for name, t in types.items() if t.symbols & set(lost))
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
        if node.reads or node.binds or node.op in FLOW_OPS:
            continue
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
