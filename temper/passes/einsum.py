"""Float32 Einsum becomes transposes, matrix products and sums, for which there are fast kernels.

Runs before the idioms, which then recognise attention that was written with Einsum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from temper.ir.dims import DimLike, product
from temper.ir.graph import Graph, Value
from temper.ir.ops.contraction import einsum_terms
from temper.passes.manager import Log, Pass
from temper.passes.parts import Parts, replace_each


@dataclass(frozen=True)
class Term:
    """A value and a label for each of its axes."""

    value: Value
    labels: tuple[str, ...]

    def sizes(self, labels: Sequence[str]) -> tuple[DimLike, ...]:
        return tuple(self.value.type.shape[self.labels.index(x)] for x in labels)


def _ordered(p: Parts, t: Term, labels: Sequence[str]) -> Term:
    """The term with its axes in the order of `labels`, which are its own."""
    perm = tuple(t.labels.index(x) for x in labels)
    value = t.value if perm == tuple(range(len(perm))) else p("Transpose", t.value, perm=perm)
    return Term(value, tuple(labels))


def _summed(p: Parts, t: Term, keep: Collection[str]) -> Term:
    """The term summed over what is not in `keep`."""
    axes = tuple(a for a, x in enumerate(t.labels) if x not in keep)
    if not axes:
        return t
    return Term(p("ReduceSum", t.value, axes=axes, keepdims=0), tuple(x for x in t.labels if x in keep))


def _without_ones(p: Parts, t: Term, other: Term) -> Term:
    """The term without the axes of size 1 that are broadcast against the other's."""
    shape = t.value.type.shape
    left = [a for a, x in enumerate(t.labels) if not (shape[a] == 1 and x in other.labels and other.sizes([x]) != (1,))]
    return Term(p.reshape(t.value, [shape[a] for a in left]), tuple(t.labels[a] for a in left))


def _pair(p: Parts, a: Term, b: Term, keep: Collection[str]) -> Term:
    """sum over what is not in `keep` of a b.

    With labels (batch in both, left in a, right in b, depth in both and not kept) that is the matrix product of
    [batch.., left, depth] and [batch.., depth, right]; without depth it is a product with broadcasting.
    """
    a, b = _without_ones(p, a, b), _without_ones(p, b, a)
    both = [x for x in a.labels if x in b.labels]
    batch, depth = [x for x in both if x in keep], [x for x in both if x not in keep]
    left, right = [x for x in a.labels if x not in both], [x for x in b.labels if x not in both]
    labels = (*batch, *left, *right)
    sizes = (*a.sizes(batch), *a.sizes(left), *b.sizes(right))
    first, second = _ordered(p, a, [*batch, *left, *depth]), _ordered(p, b, [*batch, *depth, *right])
    if depth:
        lead, k = a.sizes(batch), product(a.sizes(depth))
        x = p.reshape(first.value, (*lead, product(a.sizes(left)), k))
        y = p.reshape(second.value, (*lead, k, product(b.sizes(right))))
        return Term(p.reshape(p("MatMul", x, y), sizes), labels)
    x = p.reshape(first.value, (*a.sizes(batch), *a.sizes(left), *(1 for _ in right)))
    y = p.reshape(second.value, (*a.sizes(batch), *(1 for _ in left), *b.sizes(right)))
    return Term(p("Mul", x, y), labels)


def _lower(p: Parts) -> Value | str:
    values = [v for v in p.node.inputs if v is not None]
    if values[0].type.dtype != "float32":
        return f"a kernel for {values[0].type.dtype} adds its products as they are"
    _, operands, out = einsum_terms([v.type for v in values], p.node.attrs)
    if any(len(set(labels)) < len(labels) for labels in operands):
        return "a label names two axes of one operand"
    terms = [Term(v, tuple(labels)) for v, labels in zip(values, operands, strict=True)]
    total = _summed(p, terms[0], {*out, *(x for t in terms[1:] for x in t.labels)})
    for i, t in enumerate(terms[1:], 2):
        later = {*out, *(x for u in terms[i:] for x in u.labels)}
        total = _pair(p, total, _summed(p, t, {*later, *total.labels}), later)
        total = _summed(p, total, later)
    y = _ordered(p, total, out).value
    if y.type != p.node.output.type or y.id in {v.id for v in values}:
        return "it broadcasts or copies a single operand"
    return y


def _run(graph: Graph, log: Log) -> None:
    replace_each(graph, log, "einsum", lambda node: _lower(Parts(graph, node)) if node.op == "Einsum" else None)


EINSUM = Pass("einsum", _run)
