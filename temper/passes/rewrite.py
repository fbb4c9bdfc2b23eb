"""Rewrite rules: a pattern, a check that answers with a reason, and a rewrite.

Rules are data; `rules_pass` applies them to a fixpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.passes.manager import Log, Pass


@dataclass(frozen=True)
class Any_:
    """Matches any value; the same name must match the same value again."""

    name: str


@dataclass(frozen=True)
class Const:
    """Matches a constant; with `near`, one whose elements all equal that number within a relative 1e-3 (exporters round
    1/6, sqrt(2) ...)."""

    name: str = ""
    near: float | None = None


@dataclass(frozen=True)
class Op:
    """Matches a node's (first) output. commutes: the operands may come in any order. bind: name under which the node's
    output is kept."""

    op: str
    args: tuple[Pattern, ...]
    commutes: bool = False
    attrs: tuple[tuple[str, object], ...] = ()
    bind: str = ""


Pattern = Any_ | Const | Op
Match = dict[str, Value]

_COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min"})


def op(name: str, *args: Pattern, bind: str = "", **attrs: object) -> Op:
    """Pattern of a node; Add, Mul, Max and Min match their operands in either order."""
    return Op(name, args, name in _COMMUTATIVE, tuple(sorted(attrs.items())), bind)


def match(pattern: Pattern, value: Value, found: Match | None = None) -> Match | None:
    """Bindings under which `pattern` matches `value`, or None."""
    found = dict(found or {})
    if isinstance(pattern, Any_):
        if pattern.name in found:
            return found if found[pattern.name] is value else None
        return {**found, pattern.name: value}
    if isinstance(pattern, Const):
        if value.const is None:
            return None
        if pattern.near is not None and not _near(value.const, pattern.near):
            return None
        return {**found, pattern.name: value} if pattern.name else found
    node = value.producer
    if node is None or node.op != pattern.op or value.index != 0:
        return None
    if any(not _equal(node.attrs.get(k), v) for k, v in pattern.attrs):
        return None
    inputs = [v for v in node.inputs if v is not None]
    if len(inputs) != len(pattern.args):
        return None
    if pattern.bind:
        found[pattern.bind] = value
    for order in permutations(inputs) if pattern.commutes else [tuple(inputs)]:
        trial: Match | None = found
        for p, v in zip(pattern.args, order, strict=True):
            trial = match(p, v, trial)
            if trial is None:
                break
        if trial is not None:
            return trial
    return None


def _near(array: np.ndarray, number: float) -> bool:
    return (
        array.size > 0
        and array.dtype.kind in "fiu"
        and bool(np.all(np.abs(array - number) <= 1e-3 * max(abs(number), 1e-6)))
    )


def _equal(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-3 * max(abs(b), 1e-6)
    return a == b


@dataclass(frozen=True)
class Rule:
    """One rewrite. The docstring of `rewrite` states the algebra.

    when: part of the pattern that structure cannot state (a rank, an unchanged type); False is no match and no event.
    check: None when legal, else the reason it is not.
    rewrite: adds nodes and returns the value that replaces the matched one.
    """

    name: str
    pattern: Pattern
    rewrite: Callable[[Graph, Match], Value]
    check: Callable[[Graph, Match], str | None] = lambda graph, m: None
    when: Callable[[Match], bool] = lambda m: True


def only_user(value: Value, graph: Graph) -> str | None:
    """Reason why a producer cannot be changed for one reader: it has others."""
    if graph.is_output(value):
        return f"{value!r} is an output of the model"
    if len(value.uses) != 1:
        return f"{value!r} has {len(value.uses)} readers"
    return None


def apply_rules(graph: Graph, rules: Sequence[Rule], log: Log) -> int:
    """Applies `rules` wherever they match until none does; returns how many times."""
    by_op: Mapping[str, list[Rule]] = {}
    index: dict[str, list[Rule]] = {}
    for rule in rules:
        assert isinstance(rule.pattern, Op), f"{rule.name}: a rule's pattern starts with an op"
        index.setdefault(rule.pattern.op, []).append(rule)
    by_op = index
    count, changed = 0, True
    while changed:
        changed = False
        for node in graph.nodes:
            if not graph.alive(node):
                continue
            for rule in by_op.get(node.op, ()):
                if _try(graph, rule, node, log):
                    count, changed = count + 1, True
                    break
        graph.prune()
    return count


def _try(graph: Graph, rule: Rule, node: Node, log: Log) -> bool:
    out = node.outputs[0]
    if not out.uses and not graph.is_output(out):
        return False
    found = match(rule.pattern, out)
    if found is None or not rule.when(found):
        return False
    reason = "disabled" if rule.name in log.disabled else rule.check(graph, found)
    if reason is not None:
        log.did_not(rule.name, node.name, reason)
        return False
    new = rule.rewrite(graph, found)
    if new.type != out.type:  # a constant of the pattern broadcasts the data
        graph.prune()
        log.did_not(rule.name, node.name, f"the result is {out.type}, the replacement would be {new.type}")
        return False
    if new.producer is not None:
        tail = (f"rule:{rule.name}",)
        new.producer.origin = (*dict.fromkeys((*(node.origin or (node.name,)), *new.producer.origin)), *tail)
    graph.replace_uses(out, new)
    log.did(rule.name, node.name)
    return True


def rules_pass(name: str, rules: Sequence[Rule]) -> Pass:
    """A pass that applies rules to a fixpoint."""

    def run(graph: Graph, log: Log) -> None:
        apply_rules(graph, rules, log)

    return Pass(name, run)
