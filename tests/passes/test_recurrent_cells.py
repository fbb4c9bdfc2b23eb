"""LSTM cells written out by exporters become one recurrent layer, whatever the order of gates and operands."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.cleanup import CLEANUP
from temper.passes.manager import Log, run_passes
from temper.passes.recurrent_cells import RECURRENT_CELLS
from tests.frontends.models import NODE

B, F, H = 2, 3, 4


def written_out(
    steps: int,
    order: str = "ifgo",
    gate: str = "Sigmoid",
    pick: str = "gather",
    outputs: str = "y",
    feedback: bool = False,
    given: bool = False,
) -> onnx.ModelProto:
    """`steps` steps of one LSTM cell on X [steps, B, F].

    order: gates in the columns.
    pick: how a step's rows are taken.
    outputs: y (all h stacked), h and c (the last ones), or m (c between steps).
    feedback: h is added to x.
    given: the first h and c are inputs, not zeros.
    """
    rng = np.random.default_rng(0)
    constants = {
        "W": rng.standard_normal((F if not feedback else H, 4 * H)).astype(np.float32),
        "R": rng.standard_normal((H, 4 * H)).astype(np.float32),
        "b": rng.standard_normal(4 * H).astype(np.float32),
        "zero": np.array([0]),
        "pair": np.array([B, F if not feedback else H]),
    }
    if not given:
        constants |= {k: np.zeros((B, H), np.float32) for k in ("h0", "c0")}
    nodes, h, c = [], "h0", "c0"
    if pick == "split":
        nodes.append(NODE("Split", ["X"], [f"r{t}" for t in range(steps)], axis=0))
    for t in range(steps):
        if pick == "gather":
            constants[f"t{t}"] = np.array(t)
            nodes.append(NODE("Gather", ["X", f"t{t}"], [f"x{t}"], axis=0))
        else:
            nodes.append(NODE("Squeeze", [f"r{t}", "zero"], [f"x{t}"]))
        x = f"x{t}"
        if feedback:
            nodes.append(NODE("Add", [x, h], [x := f"fed{t}"]))
        nodes += [
            NODE("MatMul", [x, "W"], [f"xw{t}"]),
            NODE("MatMul", [h, "R"], [f"hr{t}"]),
            NODE("Add", [f"xw{t}", f"hr{t}"], [f"s{t}"]),
            NODE("Add", [f"s{t}", "b"], [f"z{t}"]),
            NODE("Split", [f"z{t}"], [f"{g}{t}" for g in order], axis=1),
            *(NODE(gate, [f"{g}{t}"], [f"a{g}{t}"]) for g in "ifo"),
            NODE("Tanh", [f"g{t}"], [f"ag{t}"]),
            NODE("Mul", [f"af{t}", c] if t % 2 else [c, f"af{t}"], [f"fc{t}"]),
            NODE("Mul", [f"ai{t}", f"ag{t}"], [f"ig{t}"]),
            NODE("Add", [f"fc{t}", f"ig{t}"], [f"C{t}"]),
            NODE("Tanh", [f"C{t}"], [f"tc{t}"]),
            NODE("Mul", [f"ao{t}", f"tc{t}"], [f"H{t}"]),
            NODE("Unsqueeze", [f"H{t}", "zero"], [f"u{t}"]),
        ]
        h, c = f"H{t}", f"C{t}"
    nodes.append(NODE("Concat", [f"u{t}" for t in range(steps)], ["y"], axis=0))
    names = {"y": "y", "h": h, "c": c, "m": "C0"}
    inputs = {"X": [steps, B, H if feedback else F], **({"h0": [B, H], "c0": [B, H]} if given else {})}
    graph = helper.make_graph(
        nodes,
        "written_out",
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, shape) for k, shape in inputs.items()],
        [helper.make_tensor_value_info(names[o], onnx.TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(a, k) for k, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def passed(proto: onnx.ModelProto) -> tuple[Graph, Log]:
    """The graph after the pass, which computes what it did before."""
    graph, log = import_onnx(proto), Log()
    rng = np.random.default_rng(1)
    feeds = {v.name: rng.standard_normal([int(str(d)) for d in v.type.shape]).astype(np.float32) for v in graph.inputs}
    want = evaluate(graph, feeds)
    run_passes(graph, (CLEANUP,))
    RECURRENT_CELLS.run(graph, log)
    run_passes(graph, (CLEANUP,))
    for a, b in zip(evaluate(graph, feeds), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return graph, log


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize("order", ["ifgo", "iofg", "ogif"])
@pytest.mark.parametrize("pick", ["gather", "split"])
def test_steps_become_one_layer(order: str, pick: str) -> None:
    graph, _ = passed(written_out(5, order, pick=pick))
    assert [o for o in ops(graph) if o != "Reshape"] == ["MatMul", "Add", "Recurrence"]


def test_first_states() -> None:
    (layer,) = [n for n in passed(written_out(3, given=True))[0].nodes if n.op == "Recurrence"]
    assert [v is not None for v in layer.inputs[4:6]] == [True, True]


def test_one_step() -> None:
    graph, _ = passed(written_out(1, outputs="hc", given=True))
    assert ops(graph).count("Recurrence") == 1
    assert not {"Tanh", "Sigmoid", "Split"} & set(ops(graph))


def test_last_states() -> None:
    graph, _ = passed(written_out(4, outputs="hc"))
    assert ops(graph).count("Recurrence") == 1


def test_other_activations() -> None:
    graph, _ = passed(written_out(3, gate="HardSigmoid"))
    (layer,) = [n for n in graph.nodes if n.op == "Recurrence"]
    assert layer.attrs["activations"] == "HardSigmoid Tanh Tanh"
    np.testing.assert_allclose(layer.attrs["alpha"], (0.2, 0.0, 0.0), rtol=1e-6)  # type: ignore[arg-type]


def test_states_read_elsewhere_keep_steps_apart() -> None:
    graph, log = passed(written_out(3, outputs="ym", given=True))
    assert ops(graph).count("Recurrence") == 3
    assert [(rule, "output of the model" in why) for rule, _, why in log.declined] == [("merge-steps", True)]


def test_inputs_that_follow_from_states_keep_steps_apart() -> None:
    graph, log = passed(written_out(3, feedback=True, given=True))
    assert ops(graph).count("Recurrence") == 3
    assert ["follows from" in why for _, _, why in log.declined] == [True]
