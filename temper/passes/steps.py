"""Which steps of which sequences a graph's values are, where loops were written out step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from temper.ir.graph import Node, Value

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity"})


def seen(v: Value) -> Value:
    """What `v` renames."""
    while v.producer is not None and v.producer.op in _VIEWS and v.producer.inputs[0] is not None:
        v = v.producer.inputs[0]
    return v


def readers(v: Value) -> Iterator[Node]:
    """Nodes that read `v`, renamed or not."""
    for node in v.users:
        if node.op in _VIEWS:
            yield from readers(node.output)
        else:
            yield node


def _step_of(v: Value) -> tuple[Value, int, int] | None:
    """(X, axis, t) where `v` is step t of X [T, B, I] (axis 0) or [B, T, I] (axis 1), up to renaming."""
    v = seen(v)
    node = v.producer
    if node is None or node.inputs[0] is None or node.inputs[0].type.rank != 3:
        return None
    x, at = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if node.op == "Gather" and at is not None and at.const is not None and at.const.size == 1:
        axis = int(str(node.attrs.get("axis", 0))) % 3
        return (x, axis, int(at.const.reshape(-1)[0])) if axis < 2 else None
    if node.op == "Split":
        axis = int(str(node.attrs["axis"])) % 3
        return (x, axis, v.index) if axis < 2 and v.type.shape[axis] == 1 else None
    if node.op == "Slice":
        starts, axes = node.attrs["starts"], node.attrs.get("axes") or (0,)
        assert isinstance(starts, tuple) and isinstance(axes, tuple)
        along, start = axes[0], starts[0]
        if len(axes) == 1 and isinstance(along, int) and isinstance(start, int) and along in (0, 1):
            return (x, along, start) if v.type.shape[along] == 1 else None
    return None


def sequence(xs: Sequence[Value]) -> tuple[Value, int, bool] | None:
    """(X, axis of time, whether backwards) where the values are all steps of X in order."""
    found = [_step_of(x) for x in xs]
    first = found[0]
    if first is None or any(s is None or s[:2] != first[:2] for s in found):
        return None
    size = first[0].type.shape[first[1]]
    at = [s[2] % size for s in found if s is not None] if isinstance(size, int) else []
    if at == list(range(len(xs))) and size == len(xs):
        return first[0], first[1], False
    return (first[0], first[1], True) if at == list(range(len(xs)))[::-1] and size == len(xs) else None
