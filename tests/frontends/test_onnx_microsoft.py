"""ONNX Runtime's own operators, as its transformer optimizer writes them, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.errors import UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph

MS = "com.microsoft"
B, S, HEADS, D = 2, 5, 3, 4
H = HEADS * D
Array = np.ndarray[Any, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed + sum(shape)).standard_normal(shape) * 0.7).astype(np.float32)


def model(
    op: str,
    inputs: Sequence[Array | None],
    constant: Mapping[int, Array],
    outputs: int | Sequence[int],
    domain: str = MS,
    **attrs: Any,
) -> onnx.ModelProto:
    """One node; operands in `constant` are initializers. outputs: how many, or which."""
    wanted = range(outputs) if isinstance(outputs, int) else outputs
    count = max(len(inputs), max(constant, default=-1) + 1)
    names = [f"i{k}" if k in constant or (k < len(inputs) and inputs[k] is not None) else "" for k in range(count)]
    results = [f"o{k}" if k in wanted else "" for k in range(max(wanted) + 1)]
    node = helper.make_node(op, names, results, domain=domain, **attrs)
    given = [
        helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for k, x in enumerate(inputs)
        if x is not None and k not in constant
    ]
    types = {n: TensorProto.FLOAT for n in results if n}
    if op == "EmbedLayerNormalization" and "o1" in types:
        types["o1"] = TensorProto.INT32
    shown = [helper.make_tensor_value_info(n, t, None) for n, t in types.items()]
    graph = helper.make_graph(
        [node], "g", given, shown, [numpy_helper.from_array(a, f"i{k}") for k, a in constant.items()]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=9
    )


def check(
    op: str, inputs: Sequence[Array | None], constant: Mapping[int, Array] | None = None, outputs: Any = 1, **attrs: Any
) -> Graph:
    """The imported graph, after comparing what it computes with ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime")
    constant = constant or {}
    m = model(op, inputs, constant, outputs, **attrs)
    feeds = {f"i{k}": x for k, x in enumerate(inputs) if x is not None and k not in constant}
    session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, feeds)
    graph = import_onnx(m)
    got = evaluate(graph, feeds)
    for y, expected in zip(got, want, strict=True):
        assert y.shape == expected.shape and y.dtype == expected.dtype
        assert np.abs(y.astype(np.float64) - expected).max() < 3e-5
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize(
    ("op", "approximate", "bias"),
    [("Gelu", "none", False), ("BiasGelu", "none", True), ("FastGelu", "tanh", False), ("FastGelu", "tanh", True)],
)
def test_gelu(op: str, approximate: str, bias: bool) -> None:
    graph = check(op, [numbers(B, S, H)], {1: numbers(H)} if bias else {})
    assert graph.nodes[-1].op == "Gelu" and graph.nodes[-1].attrs["approximate"] == approximate


def test_quick_gelu() -> None:
    check("QuickGelu", [numbers(B, S, H)], alpha=1.5)


@pytest.mark.parametrize(("ta", "tb"), [(0, 0), (1, 0), (0, 1)])
def test_fused_matmul(ta: int, tb: int) -> None:
    a = numbers(B, H, S) if ta else numbers(B, S, H)
    check("FusedMatMul", [a, numbers(B, 7, H) if tb else numbers(B, H, 7)], transA=ta, transB=tb, alpha=0.25)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "LeakyRelu"])
def test_fused_gemm(activation: str) -> None:
    parameters = {"activation_alpha": 0.3} if activation == "LeakyRelu" else {}
    constant = {1: numbers(7, H), 2: numbers(7)}
    check("FusedGemm", [numbers(S, H)], constant, alpha=0.5, transB=1, activation=activation, **parameters)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("activation", "parameters"), [("Relu", []), ("Clip", [-0.25, 0.5]), ("LeakyRelu", [0.2])])
def test_fused_conv(activation: str, parameters: list[float], added: bool) -> None:
    inputs = [numbers(1, 6, 5, 5), None, None, *([numbers(1, 4, 5, 5)] if added else [])]
    extra = {"activation_params": parameters} if parameters else {}
    constant = {1: numbers(4, 6, 3, 3), 2: numbers(4)}
    check("FusedConv", inputs, constant, pads=[1] * 4, kernel_shape=[3, 3], activation=activation, **extra)


@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(bias: bool) -> None:
    parameters = {2: numbers(H), 3: numbers(H, seed=1), **({4: numbers(H, seed=2)} if bias else {})}
    graph = check("SkipLayerNormalization", [numbers(B, S, H), numbers(B, S, H, seed=5)], parameters, (0, 3))
    assert ops(graph).count("LayerNormalization") == 1


@pytest.mark.parametrize("bias", [False, True])
def test_skip_simplified_layer_normalization(bias: bool) -> None:
    parameters = {2: numbers(H), **({3: numbers(H, seed=2)} if bias else {})}
    inputs = [numbers(B, S, H), numbers(B, S, H, seed=5)]
    graph = check("SkipSimplifiedLayerNormalization", inputs, parameters, (0, 3), epsilon=1e-6)
    assert "RMSNormalization" in ops(graph)


def test_simplified_layer_normalization() -> None:
    check("SimplifiedLayerNormalization", [numbers(B, S, H)], {1: numbers(H)}, domain="", axis=-1, epsilon=1e-6)


@pytest.mark.parametrize("segments", [False, True])
def test_embed_layer_normalization(segments: bool) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (B, S)).astype(np.int32)
    kinds = rng.integers(0, 2, (B, S)).astype(np.int32) if segments else None
    mask = np.array([[1] * S, [1] * 3 + [0] * (S - 3)], np.int32)
    tables = {2: numbers(9, H), 3: numbers(8, H), 5: numbers(H), 6: numbers(H, seed=1)}
    if segments:
        tables[4] = numbers(2, H)
    check("EmbedLayerNormalization", [ids, kinds, None, None, None, None, None, mask], tables, 2)


def mask_of(kind: str) -> Array | None:
    lengths = np.array([S, 3], np.int32)
    raw = (np.arange(S) < lengths[:, None]).astype(np.int32)
    full = np.minimum(raw[:, None, :], np.tri(S, dtype=np.int32))
    return {"none": None, "lengths": lengths, "keys": raw, "rows": full}[kind]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", ["none", "lengths", "keys", "rows"])
def test_attention(kind: str, causal: int) -> None:
    inputs = [numbers(B, S, 10), None, None, mask_of(kind)]
    weights = {1: numbers(10, 3 * H), 2: numbers(3 * H)}
    graph = check("Attention", inputs, weights, num_heads=HEADS, unidirectional=causal)
    (node,) = (n for n in graph.nodes if n.op == "Attention")
    assert node.attrs["layout"] == "rrrr" and node.attrs["causal"] == causal


def test_attention_with_lengths_and_an_open_number_of_keys() -> None:
    weights = {1: numbers(10, 3 * H), 2: numbers(3 * H)}
    inputs = [numbers(B, S, 10), None, None, mask_of("lengths")]
    known = check("Attention", inputs, weights, num_heads=HEADS)
    m = model("Attention", inputs, weights, 1, num_heads=HEADS)
    opened = import_onnx(m, shapes={"i0": (B, "S", 10)})
    feeds = {"i0": inputs[0], "i3": inputs[3]}
    np.testing.assert_array_equal(evaluate(opened, feeds)[0], evaluate(known, feeds)[0])


def test_attention_of_other_widths_and_scale() -> None:
    sizes = [H, H, 2 * H]
    weights = {1: numbers(10, 4 * H), 2: numbers(4 * H)}
    check("Attention", [numbers(B, S, 10)], weights, num_heads=HEADS, qkv_hidden_sizes=sizes, scale=0.3)


def test_attention_with_past() -> None:
    past = numbers(2, B, HEADS, 4, D)
    weights = {1: numbers(10, 3 * H), 2: numbers(3 * H)}
    check("Attention", [numbers(B, 1, 10), None, None, None, past], weights, 2, num_heads=HEADS, unidirectional=1)


@pytest.mark.parametrize("kind", ["none", "keys", "bias"])
@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention(biased: bool, kind: str) -> None:
    q, k, v = (numbers(B, S, H, seed=i) for i in range(3))
    mask = mask_of("keys") if kind == "keys" else None
    added = numbers(1, HEADS, S, S) if kind == "bias" else None
    graph = check(
        "MultiHeadAttention", [q, k, v, None, mask, added], {3: numbers(3 * H)} if biased else {}, num_heads=HEADS
    )
    assert "Attention" in ops(graph)


def test_multi_head_attention_with_past() -> None:
    q, k, v = (numbers(B, 1, H, seed=i) for i in range(3))
    past = [numbers(B, HEADS, 4, D, seed=i) for i in (3, 4)]
    check("MultiHeadAttention", [q, k, v, None, None, None, *past], {}, 3, num_heads=HEADS)


def test_what_is_not_known_is_named() -> None:
    m = model("Attention", [numbers(B, S, 10)], {1: numbers(10, 3 * H)}, 1, num_heads=HEADS, do_rotary=1)
    with pytest.raises(UnsupportedError, match="rotary"):
        import_onnx(m)


@pytest.mark.parametrize(("bits", "zeros"), [(4, ""), (4, "codes"), (4, "numbers"), (8, "codes")])
def test_weights_in_blocks(bits: int, zeros: str) -> None:
    depth, features, block = 72, 5, 32
    blocks, rng = 3, np.random.default_rng(bits)
    codes = rng.integers(0, 256, (features, blocks, block * bits // 8)).astype(np.uint8)
    scale = rng.uniform(0.01, 0.05, features * blocks).astype(np.float32)
    constants = {1: codes, 2: scale}
    if zeros == "codes":
        constants[3] = rng.integers(0, 256, features * -(-blocks * bits // 8)).astype(np.uint8)
    elif zeros:
        constants[3] = rng.uniform(4, 12, features * blocks).astype(np.float32)
    graph = check("MatMulNBits", [numbers(B, S, depth)], constants, K=depth, N=features, bits=bits, block_size=block)
    assert ops(graph) == ["MatMul"]
