"""Elementwise steps between an input of the graph and its Transpose change places with it, for GPUs.

A Transpose's kernel can fuse what follows it but not what comes before, which would be a kernel of its own that reads
and writes a whole batch of images once more.
"""

from __future__ import annotations

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass


def _run(graph: Graph, log: Log) -> None:
    for node in list(graph.nodes):
        if node.op != "Transpose":
            continue
        source, steps = _steps(graph, node)
        if not steps or source.producer is not None:
            continue
        value = make(graph, "Transpose", [source], node.attrs, name=node.name, origin=node.origin).output
        for step in steps:
            inputs = [value if v is not None and v.const is None else v for v in step.inputs]
            value = make(graph, step.op, inputs, step.attrs, name=step.name, origin=step.origin).output
        graph.replace_uses(node.output, value)
        for old in (node, *reversed(steps)):
            graph.remove_node(old)
        log.did("transpose inputs", node.name)


def _steps(graph: Graph, node: Node) -> tuple[Value, list[Node]]:
    """What the Transpose's data is made of by steps that nothing else reads, and those steps in order: each has one
    operand that varies, and numbers."""
    value = node.inputs[0]
    assert value is not None
    steps: list[Node] = []
    while (step := value.producer) is not None:
        varying = [v for v in step.inputs if v is not None and v.const is None]
        numbers = [v for v in step.inputs if v is not None and v.const is not None]
        if (
            TABLE[step.op].kind is not Kind.ELEMENTWISE
            or len(step.outputs) != 1
            or len(varying) != 1
            or varying[0].type.shape != value.type.shape
            or any(v.type.count != 1 or v.type.rank > value.type.rank for v in numbers)
            or len(value.uses) != 1
            or graph.is_output(value)
        ):
            break
        steps.insert(0, step)
        value = varying[0]
    return value, steps


TRANSPOSE_INPUTS = Pass("transpose-inputs", _run)
