"""Shapes of a plan's inputs: the sizes that follow from them, and the profile that serves these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log2

from temper.errors import InputError
from temper.ir.dims import Dim, parse_dim, solved
from temper.plan.format import Binding, Profile, value_of

Shapes = tuple[tuple[int, ...], ...]


def shape_text(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def solve(inputs: Sequence[Binding], shapes: Shapes) -> dict[str, int]:
    """Values of the symbols from input shapes. InputError names input, axis, expected and got."""
    env: dict[str, int] = {}
    source: dict[str, str] = {}
    for b, shape in zip(inputs, shapes, strict=True):
        want = f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}"
        if len(shape) != len(b.shape):
            raise InputError(f"{want}: rank {len(shape)} instead of {len(b.shape)}")
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and d.isidentifier():
                if env.setdefault(d, size) != size:
                    raise InputError(f"{want}: {d} is {size} here and {env[d]} in input '{source[d]}'")
                source.setdefault(d, b.name)
            elif isinstance(d, int) and d != size:
                raise InputError(f"{want}: axis {axis} must be {d}, not {size}")
    for b, shape in zip(inputs, shapes, strict=True):
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and not d.isidentifier():
                _solve_expression(b, shape, axis, d, size, env)
    for b, shape in zip(inputs, shapes, strict=True):
        for axis, (d, size) in enumerate(zip(b.shape, shape, strict=True)):
            if isinstance(d, str) and not d.isidentifier() and (value := value_of(d, env)) != size:
                raise InputError(
                    f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}: "
                    f"axis {axis} must be "
                    f"{d} = {value}, not {size}"
                )
    return env


def _solve_expression(b: Binding, shape: tuple[int, ...], axis: int, d: str, size: int, env: dict[str, int]) -> None:
    """Binds the symbol of a dimension such as 32 * H. InputError if no whole number gives this size."""
    expression = parse_dim(d)
    assert isinstance(expression, Dim)
    if expression.symbols <= env.keys():
        return
    if (found := solved(expression, size)) is None:
        raise InputError(
            f"input '{b.name}' has shape {shape_text(shape)}, expected {shape_text(b.shape)}: "
            f"axis {axis} must be {d} for a whole number, not {size}"
        )
    env[found[0]] = found[1]


def choose_profile(profiles: Sequence[Profile], env: Mapping[str, int]) -> int:
    """Index of the profile that holds `env` and whose optimum is nearest. InputError lists the profiles if none
    does.
    """

    def distance(p: Profile) -> float:
        total = 0.0
        for name, (low, opt, high) in p.symbols.items():
            size = env.get(name, opt)
            if not low <= size <= high:
                return inf
            total += abs(log2(max(size, 1) / max(opt, 1)))
        return total

    best = min(range(len(profiles)), key=lambda i: distance(profiles[i]))
    if distance(profiles[best]) == inf:
        ranges = "; ".join(
            ", ".join(f"{n} {low} to {high} (best {opt})" for n, (low, opt, high) in sorted(p.symbols.items()))
            for p in profiles
        )
        got = ", ".join(f"{n} = {v}" for n, v in sorted(env.items()))
        raise InputError(
            f"no profile of this plan holds {got}; it was built for {ranges}. "
            "Build with a profile that includes this size"
        )
    return best
