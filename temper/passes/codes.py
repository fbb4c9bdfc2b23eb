"""Rewrites Q/DQ graphs so that as much as possible runs on codes: quantization moves up, dequantization moves down.

Three rewrites, each exact:

    Q(move(x)) = move(Q(x))                 moves copy values or take the largest, and rounding is monotonic
    convtranspose(x, dq(w)) = moves(conv(x, dq(w')))   as floats have it (lower.py), with the codes rearranged
    Q(f(dq(q))) = table[q]                  f elementwise, of one tensor of 8-bit codes: 256 values, made at build
"""

from __future__ import annotations

import numpy as np

from temper.ir.dims import Dim
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue, Kind
from temper.ir.ops import TABLE, make
from temper.passes.integer import MOVES
from temper.passes.integer_reading import CODES
from temper.passes.integer_weights import dequantized_weights
from temper.passes.manager import Log, Pass
from temper.passes.phases import interleaved, phase_channels, phase_weights, phases_of
from temper.reference import run

#: Steps that integer regions compute exactly on the way: no reason for a table.
_PLAIN = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min", "Relu", "LeakyRelu", "Clip", "Identity", "Cast"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
#: Steps of one table at most.
_LONGEST = 32


def _scalars(node: Node) -> bool:
    """A Q or DQ with one known scale and one known zero point."""
    parameters = [v for v in node.inputs[1:] if v is not None]
    return all(v.const is not None and v.type.count == 1 for v in parameters) and not node.attrs["block_size"]


def _makes_codes(node: Node) -> bool:
    return node.op == "QuantizeLinear" and node.output.type.dtype in CODES and _scalars(node)


# ---- quantization before moves ----


def _smaller(node: Node) -> bool:
    """The move leaves out much of its data: quantizing all of it would be work for nothing."""
    x, y = node.inputs[0], node.output
    if x is None:
        return True
    before, after = x.type.count, y.type.count
    return isinstance(before, Dim) or isinstance(after, Dim) or 2 * after < before


def _pad_code(q: Node, value: float) -> int:
    arrays = [np.asarray(value, np.float32), *(None if v is None else v.const for v in q.inputs[1:])]
    dtypes = ["float32", *(None if v is None else v.type.dtype for v in q.inputs[1:])]
    return int(run("QuantizeLinear", arrays, q.attrs, dtypes, [q.output.type.dtype])[0])


def _hoist(graph: Graph, q: Node) -> list[Node]:
    """Moves one quantization before the move it follows; the new ones, empty where it stays."""
    x = q.inputs[0]
    node = None if x is None else x.producer
    if x is None or node is None or node.op not in MOVES or node.op == "Gather" or len(node.outputs) != 1:
        return []
    if len(x.uses) != 1 or graph.is_output(x) or x.type.dtype != "float32":
        return []
    attrs: dict[str, AttrValue] = dict(node.attrs)
    if (node.op == "Resize" and attrs["mode"] != "nearest") or (node.op == "Slice" and _smaller(node)):
        return []
    if node.op == "Pad" and attrs["mode"] == "constant":
        value = attrs.get("value", 0.0)
        if not isinstance(value, (int, float)):
            return []
        attrs["value"] = _pad_code(q, value)
    made: dict[int, Node] = {}
    inputs: list[Value | None] = []
    for v in node.inputs:
        if v is None or v.type.dtype != "float32":
            inputs.append(v)
            continue
        if v.id not in made:
            own = f"{q.name}.{len(made)}" if made else q.name
            made[v.id] = make(graph, "QuantizeLinear", [v, *q.inputs[1:]], q.attrs, name=own, origin=q.origin)
        inputs.append(made[v.id].output)
    y = make(graph, node.op, inputs, attrs, name=node.name, origin=node.origin).output
    graph.replace_uses(q.output, y)
    graph.remove_node(q)
    graph.remove_node(node)
    return list(made.values())


# ---- transposed convolutions ----


def _made_of_codes(v: Value) -> bool:
    """DequantizeLinear, or moves of that."""
    while v.producer is not None and v.producer.op in MOVES and v.producer.inputs[0] is not None:
        v = v.producer.inputs[0]
    return v.producer is not None and v.producer.op == "DequantizeLinear"


def _transposed(graph: Graph, node: Node, log: Log) -> None:
    x, v = node.inputs[0], node.inputs[1]
    if x is None or v is None or not _made_of_codes(x):
        return
    found, axes, bias = dequantized_weights(v, -1), phases_of(node), _bias_parts(node)
    reason = next((r for r in (found, axes, bias) if isinstance(r, str)), None)
    if reason is not None or isinstance(found, str) or isinstance(axes, str) or isinstance(bias, str):
        log.did_not("integer product", node.name, str(reason))
        return
    (codes, scale), group = found, int(str(node.attrs["group"]))

    def by_phase(a: np.ndarray) -> np.ndarray:
        return phase_channels(np.broadcast_to(a, (group * codes.shape[-1],)), group, axes)

    def dq(array: np.ndarray, scales: np.ndarray, label: str) -> Value:
        constants = [graph.add_constant(a, f"{node.name}.{label}") for a in (array, scales.astype(np.float32))]
        return make(graph, "DequantizeLinear", constants, {"axis": array.ndim - 1}, name=f"{node.name}.{label}").output

    # a scale per output channel of a group is the same in every group
    each = np.tile(np.broadcast_to(scale, codes.shape[-1:]), group)
    weights: list[Value | None] = [dq(phase_weights(codes, group, axes), by_phase(each), "weights")]
    if isinstance(bias, np.ndarray):
        weights.append(graph.add_constant(by_phase(bias), f"{node.name}.bias"))
    elif bias is not None:
        weights.append(dq(by_phase(bias[0]), by_phase(bias[1]), "bias"))
    graph.replace_uses(node.output, interleaved(graph, node, x, weights, axes))
    graph.remove_node(node)
    log.did("conv-transpose", node.name)


def _bias_parts(node: Node) -> np.ndarray | tuple[np.ndarray, np.ndarray] | str | None:
    """Float biases, or int32 codes of biases with their scale; None if there are none, or why they are neither."""
    v = node.inputs[2] if len(node.inputs) > 2 else None
    if v is None or v.const is not None:
        return None if v is None else v.const
    source = v.producer
    if source is None or source.op != "DequantizeLinear" or (len(source.inputs) > 2 and source.inputs[2] is not None):
        return "its bias is neither constant nor codes without a zero point"
    codes, scale = source.inputs[0], source.inputs[1]
    if codes is None or scale is None or codes.const is None or scale.const is None:
        return "its bias is not constant"
    return codes.const, scale.const.reshape(-1) if scale.const.size > 1 else scale.const.reshape(())


# ---- tables ----


def _steps(q: Node) -> tuple[Value, list[Node]] | None:
    """The codes, and in order the steps, that `q` is a function of; None if it is of other things too, or if all steps
    are such that integer regions compute them exactly."""
    steps: dict[int, Node] = {}
    sources: dict[int, Value] = {}

    def visit(node: Node) -> bool:
        """False where `node` is not a function of codes alone."""
        if node.id in steps:
            return True
        definition, first = TABLE[node.op], node.inputs[0] if node.inputs else None
        if node.op == "Lookup":
            assert first is not None
            sources[first.id] = first
            steps[node.id] = node
            return len(sources) == 1
        quantization = node.op in ("QuantizeLinear", "DequantizeLinear")
        if definition.kind is not Kind.ELEMENTWISE or not definition.deterministic or len(steps) >= _LONGEST:
            return False
        if (quantization and not _scalars(node)) or node.output.type.shape != q.output.type.shape:
            return False
        for v in node.inputs:
            if v is None or (v.const is not None and v.type.count == 1):
                continue
            tabulated = v.producer is not None and v.producer.op == "Lookup"
            if node.op == "DequantizeLinear" and v.type.dtype in CODES and v.const is None and not tabulated:
                sources[v.id] = v
                if len(sources) > 1:
                    return False
            elif v.producer is None or not visit(v.producer):
                return False
        steps[node.id] = node
        return True

    if not visit(q) or len(sources) != 1 or all(n.op in _PLAIN for n in steps.values()):
        return None
    return next(iter(sources.values())), list(steps.values())


def _tabulated(graph: Graph, q: Node) -> bool:
    found = _steps(q)
    if found is None:
        return False
    source, steps = found
    arrays: dict[int, np.ndarray] = {source.id: np.arange(256, dtype=np.uint8).view(source.type.dtype)}
    for node in steps:
        inputs = [None if v is None else arrays[v.id] if v.id in arrays else _constant(v) for v in node.inputs]
        dtypes = [None if v is None else v.type.dtype for v in node.inputs]
        (arrays[node.output.id],) = run(node.op, inputs, node.attrs, dtypes, [node.output.type.dtype])
    table = graph.add_constant(np.ascontiguousarray(arrays[q.output.id]), f"{q.name}.table")
    origin = tuple(dict.fromkeys(o for n in steps for o in (n.origin or (n.name,))))
    y = make(graph, "Lookup", [source, table], {}, name=q.name, origin=(*origin, "rule:table"))
    graph.replace_uses(q.output, y.output)
    graph.remove_node(q)
    return True


def _constant(v: Value) -> np.ndarray | None:
    return v.const if v.const is None or v.type.count != 1 else v.const.reshape(())


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op == "ConvTranspose" and node.attrs["channels_last"]:
            _transposed(graph, node, log)
    left = [n for n in graph.nodes if _makes_codes(n)]
    while left:
        node = left.pop()
        if new := _hoist(graph, node):
            log.did("quantize before moving", node.name)
            left += new
    for node in graph.nodes:
        if graph.alive(node) and _makes_codes(node) and _tabulated(graph, node):
            log.did("table", node.name)
    graph.prune()


CODES_EARLY = Pass("codes", _run)
