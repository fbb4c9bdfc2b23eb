"""LSTM, GRU and RNN of ONNX, imported and evaluated with the references, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from temper.errors import ShapeError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from tests.frontends.models import NODE, run_reference

T, B, F, H = 6, 3, 5, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(
    op: str,
    given: Sequence[str] = (),
    outputs: Sequence[str] = ("y", "y_h", "y_c"),
    opset: int = 14,
    weights: bool = True,
    seed: int = 0,
    **attrs: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node and its inputs. given: optional operands among B, lengths, h, c and P. weights: W, R, B and P
    are initializers."""
    rng = np.random.default_rng(seed)
    d, g, layout = (2 if attrs.get("direction") == "bidirectional" else 1), GATES[op], attrs.get("layout", 0)

    def normal(*shape: int) -> np.ndarray:
        return (0.6 * rng.standard_normal(shape)).astype(np.float32)

    state, swap = (d, B, H), (1, 0, 2)
    operands: dict[str, np.ndarray | None] = {
        "x": 2 * normal(T, B, F),
        "W": normal(d, g * H, F),
        "R": normal(d, g * H, H),
        "B": normal(d, 2 * g * H) if "B" in given else None,
        "lengths": np.array([4, 6, 2], np.int32) if "lengths" in given else None,
        "h": normal(*state) if "h" in given else None,
        "c": normal(*state) if "c" in given else None,
        "P": normal(d, 3 * H) if "P" in given else None,
    }
    if layout:
        operands.update({k: a.transpose(swap).copy() for k in ("x", "h", "c") if (a := operands[k]) is not None})
    names = ["x", "W", "R", "B", "lengths", "h", *(["c", "P"] if op == "LSTM" else [])]
    node = NODE(op, [n if operands[n] is not None else "" for n in names], list(outputs)[: 3 if op == "LSTM" else 2])
    node.attribute.extend(helper.make_attribute(k, v) for k, v in {"hidden_size": H, **attrs}.items())
    feeds = {k: a for k, a in operands.items() if a is not None}
    constants = {k: feeds.pop(k) for k in ("W", "R", "B", "P") if weights and k in feeds}
    types = {n: onnx.TensorProto.INT32 if a.dtype == np.int32 else onnx.TensorProto.FLOAT for n, a in feeds.items()}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, types[n], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in node.output if n],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return proto, feeds


def check(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    got = evaluate(import_onnx(proto), feeds)
    for a, b in zip(got, run_reference(proto, feeds), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", [(), ("B",), ("B", "lengths"), ("B", "lengths", "h", "c", "P"), ("h", "c")])
@pytest.mark.parametrize("op", GATES)
def test_directions_and_operands(op: str, given: Sequence[str], direction: str) -> None:
    check(*recurrent(op, given, direction=direction))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_gru_resets_after_its_product(direction: str) -> None:
    check(*recurrent("GRU", ("B", "h"), direction=direction, linear_before_reset=1))


@pytest.mark.parametrize("op", GATES)
def test_weights_known_at_run_time(op: str) -> None:
    check(*recurrent(op, ("B", "h"), weights=False, direction="bidirectional"))


@pytest.mark.parametrize("outputs", [("y", "", ""), ("", "y_h", ""), ("", "", "y_c")])
def test_left_out_outputs(outputs: Sequence[str]) -> None:
    check(*recurrent("LSTM", ("B",), outputs))


def test_clip_bounds_what_goes_into_activations() -> None:
    for op in GATES:
        check(*recurrent(op, ("B", "h", "c", "P"), clip=0.3))


def test_coupled_gates() -> None:
    check(*recurrent("LSTM", ("B", "h", "c", "P"), input_forget=1))


@pytest.mark.parametrize("opset", [7, 14, 22])
def test_opsets(opset: int) -> None:
    check(*recurrent("LSTM", ("B",), opset=opset))


@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (("Affine", "HardSigmoid", "Relu"), (0.5, 0.3), (0.1, 0.4)),
        (("HardSigmoid", "LeakyRelu", "Softsign"), (0.3, 0.2), (0.4,)),
        (("Sigmoid", "ScaledTanh", "Elu"), (0.8, 0.7), (0.5,)),
        (("Sigmoid", "Softplus", "ThresholdedRelu"), (0.2,), ()),
        (("HardSigmoid", "Elu", "Tanh"), (), ()),
        (("sigmoid", "tanh", "TANH"), (), ()),
    ],
)
def test_activations(names: tuple[str, ...], alpha: tuple[float, ...], beta: tuple[float, ...]) -> None:
    more: dict[str, Any] = {"activation_alpha": alpha, "activation_beta": beta}
    for op, n in (("LSTM", 3), ("GRU", 2), ("RNN", 1)):
        if op == "RNN" and names[0].islower():
            continue  # ONNX Runtime's RNN minds the case
        check(*recurrent(op, ("B",), activations=list(names[:n]), **{k: v for k, v in more.items() if v}))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_batch_second_transposed(op: str, direction: str) -> None:
    given = ("B", "lengths", "h", "c")
    first, second = (recurrent(op, given, layout=n, direction=direction) for n in (1, 0))
    got, want = (evaluate(import_onnx(proto), feeds) for proto, feeds in (first, second))
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_array_equal(a, b.transpose(2, 0, 1, 3) if i == 0 else b.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"hidden_size": 7}, "hidden_size 7 contradicts"),
        ({"direction": "sideways"}, "direction 'sideways'"),
        ({"activations": ["Sigmoid", "Tanh"]}, "has 2 entries for 1 directions"),
        ({"activations": ["Sigmoid", "Tanh", "Wave"]}, "unknown activations"),
    ],
)
def test_contradictions_are_named(attrs: Mapping[str, Any], reason: str) -> None:
    proto, _ = recurrent("LSTM", ("B",), **attrs)
    with pytest.raises(ShapeError, match=reason):
        import_onnx(proto)
