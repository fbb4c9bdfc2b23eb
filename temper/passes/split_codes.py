"""Quantizes before a Split instead of after it: quantize(split(x)[k])  =  split(quantize(x))[k].

Done where nothing else reads the parts: the kernel that computes x then stores codes of all of it instead of floats,
and each part is a view of them.
"""

from __future__ import annotations

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import only_user

_NAME = "split-codes"


def _steps(graph: Graph, last: Node) -> tuple[list[Node], Value]:
    """Elementwise steps by scalar constants that end in `last`, in order, and what they start from."""
    chain, v = [last], last.inputs[0]
    assert v is not None
    while (node := v.producer) is not None and TABLE[node.op].kind is Kind.ELEMENTWISE and only_user(v, graph) is None:
        data, rest = node.inputs[0], node.inputs[1:]
        scalars = all(r is not None and r.const is not None and r.const.size == 1 for r in rest)
        if data is None or data.const is not None or not scalars:
            break
        chain.append(node)
        v = data
    return chain[::-1], v


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op != "Saturate" or not graph.alive(node):
            continue
        steps, part = _steps(graph, node)
        split = part.producer
        if split is None or split.op != "Split" or only_user(part, graph) is not None:
            continue
        if any(o.uses or graph.is_output(o) for o in split.outputs if o is not part):
            log.did_not(_NAME, node.name, f"other parts of {split!r} are read as floats")
            continue
        data = split.inputs[0]
        for n in steps:
            data = make(graph, n.op, [data, *n.inputs[1:]], n.attrs, name=n.name, origin=n.origin).output
        made = make(graph, "Split", [data], split.attrs, name=split.name, origin=split.origin)
        graph.replace_uses(node.output, made.outputs[split.outputs.index(part)])
        log.did(_NAME, node.name)
    graph.prune()


SPLIT_CODES = Pass(_NAME, _run)
