"""From an ONNX model to answers: what a user of `temper.build` sees, on small networks, against ONNX Runtime and the
references."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx import helper as oh

import temper
from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import ConfigError, InputError, ShapeError
from temper.plan.file import to_bytes


def weights(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(
        (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32), name
    )


def block_model(batch: int | str = 1, size: int = 20) -> onnx.ModelProto:
    """Residual block with squeeze-excite, depthwise, split, concat, pooling and a classifier."""
    n = oh.make_node
    nodes = [
        n("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        n("HardSigmoid", ["c1"], ["hs"], alpha=1 / 6, beta=0.5),
        n("Mul", ["c1", "hs"], ["a1"]),
        n("Conv", ["a1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=24),
        n("Relu", ["c2"], ["a2"]),
        n("GlobalAveragePool", ["a2"], ["g"]),
        n("Conv", ["g", "w3"], ["s1"]),
        n("Relu", ["s1"], ["s2"]),
        n("Conv", ["s2", "w4"], ["s3"]),
        n("Sigmoid", ["s3"], ["s4"]),
        n("Mul", ["a2", "s4"], ["m"]),
        n("Conv", ["m", "w5"], ["c3"]),
        n("Add", ["c3", "a1"], ["r"]),
        n("Relu", ["r"], ["r2"]),
        n("Split", ["r2"], ["p0", "p1"], axis=1, num_outputs=2),
        n("Conv", ["p1", "w6"], ["q"], pads=[1, 1, 1, 1]),
        n("Concat", ["p0", "p1", "q"], ["cat"], axis=1),
        n("MaxPool", ["cat"], ["mp"], kernel_shape=[2, 2], strides=[2, 2]),
        n("GlobalAveragePool", ["mp"], ["gap"]),
        n("Flatten", ["gap"], ["f"]),
        n("Gemm", ["f", "wf", "bf"], ["logits"], transB=1),
    ]
    inits = [
        weights("w1", 24, 3, 3, 3),
        weights("b1", 24),
        weights("w2", 24, 1, 3, 3),
        weights("w3", 6, 24, 1, 1),
        weights("w4", 24, 6, 1, 1),
        weights("w5", 24, 24, 1, 1),
        weights("w6", 12, 12, 3, 3),
        weights("wf", 10, 36),
        weights("bf", 10),
    ]
    graph = oh.make_graph(
        nodes,
        "block",
        [oh.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [
            oh.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10]),
            oh.make_tensor_value_info("cat", TensorProto.FLOAT, None),
        ],
        inits,
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "timing.sqlite"


def image(batch: int, size: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, size, size)).astype(np.float32)


def oracle(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": x})


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_every_code_level_agrees_with_onnx_runtime(isa: str, cache: Path) -> None:
    from temper.compile.cc import ISAS
    from temper.runtime.machine import cpu_flags

    if not ISAS[isa].needs <= cpu_flags():
        pytest.skip(f"this CPU cannot run {isa} code")
    model = block_model()
    engine = temper.build(model, threads=1, effort=0, isa=isa, cache=cache)
    assert not [r for r in engine.report["regions"] if r["tactic"] == "host"]
    x = image(1)
    got = engine(x)
    assert isinstance(got, dict)
    for name, want in zip(("logits", "cat"), oracle(model, x), strict=True):
        assert got[name].shape == want.shape
        # about ten layers of at most 216 products each: errors of order sqrt(terms) * eps per layer
        np.testing.assert_allclose(
            got[name], want, rtol=1e-4, atol=10 * 2 * np.sqrt(216) * np.finfo(np.float32).eps * np.abs(want).max()
        )


def test_batch_is_a_range(cache: Path) -> None:
    model = block_model("N")
    engine = temper.build(model, threads=2, effort=0, profiles=[Profile.of(N=(1, 3, 5))], cache=cache)
    for batch in (1, 2, 5):
        x = image(batch)
        got = engine(x)
        for name, want in zip(("logits", "cat"), oracle(model, x), strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
        for i in range(batch):  # an image's result does not depend on its neighbours
            np.testing.assert_array_equal(engine(x[i : i + 1])["cat"][0], got["cat"][i])
    with pytest.raises(InputError, match="N 1 to 5"):
        engine(image(6))


def test_same_cache_gives_the_same_plan_and_needs_no_compiling(cache: Path) -> None:
    config = BuildConfig(threads=1, effort=1, cache=cache)
    first = build_plan(block_model(), config)
    stages: list[str] = []
    second = build_plan(block_model(), config, progress=lambda stage, done, total: stages.append(stage))
    assert to_bytes(first.plan) == to_bytes(second.plan)
    assert second.seconds["cache_misses"] == 0 and "compile" not in stages and "time" not in stages


def test_results_are_bitwise_equal_across_threads_contexts_and_runs(cache: Path) -> None:
    plan = build_plan(
        block_model("N"), BuildConfig(threads=2, effort=0, profiles=(Profile.of(N=(1, 4, 4)),), cache=cache)
    ).plan
    plans = [temper.Engine(plan, threads=t) for t in (1, 2, 3)]
    x = image(4)
    want = plans[0](x)["logits"]
    for engine in plans:
        contexts = [engine.context() for _ in range(4)]
        results: list[list[np.ndarray]] = [[] for _ in contexts]
        workers = [
            threading.Thread(target=lambda c=c, r=r: [r.append(c(x)["logits"]) for _ in range(20)])
            for c, r in zip(contexts, results, strict=True)
        ]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        assert all(np.array_equal(y, want) for r in results for y in r) and all(len(r) == 20 for r in results)


def test_saved_plan_answers_the_same(cache: Path, tmp_path: Path) -> None:
    engine = temper.build(block_model(), threads=1, effort=0, cache=cache, output=tmp_path / "m.plan")
    np.testing.assert_array_equal(temper.load(tmp_path / "m.plan")(image(1))["logits"], engine(image(1))["logits"])


def test_arena_is_close_to_the_lower_bound(cache: Path) -> None:
    memory = temper.build(block_model(size=64), threads=1, effort=0, cache=cache).report["memory"][0]
    assert memory["arena"] <= 1.05 * memory["lower_bound"]


def test_outputs_that_are_inputs_constants_or_repeated(cache: Path) -> None:
    n = oh.make_node
    graph = oh.make_graph(
        [
            n("Identity", ["image"], ["same"]),
            n("Constant", [], ["k"], value=numpy_helper.from_array(np.arange(4, dtype=np.float32))),
            n("Relu", ["image"], ["r"]),
            n("Identity", ["r"], ["r_again"]),
            n("Reshape", ["r", "s"], ["flat"]),
        ],
        "odd",
        [oh.make_tensor_value_info("image", TensorProto.FLOAT, [2, 6])],
        [oh.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in ("same", "k", "r", "r_again", "flat")],
        [numpy_helper.from_array(np.array([3, 4]), "s")],
    )
    x = np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32)
    got = temper.build(
        oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8), threads=1, effort=0, cache=cache
    )(x)
    want = {
        "same": x,
        "k": np.arange(4, dtype=np.float32),
        "r": np.maximum(x, 0),
        "r_again": np.maximum(x, 0),
        "flat": np.maximum(x, 0).reshape(3, 4),
    }
    assert list(got) == list(want)
    for name, y in want.items():
        np.testing.assert_array_equal(got[name], y)


def test_unknown_profile_dimension_is_named(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"M.*N"):
        temper.build(block_model("N"), profiles=[Profile.of(M=(1, 1, 2))], effort=0, cache=cache)


def test_output_folder_is_checked_before_the_build(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        temper.build(block_model(), output=tmp_path / "nowhere" / "m.plan", cache=cache)


def test_portable_graph_rebuilds(cache: Path) -> None:
    from temper.ir.portable import from_bytes

    plan = build_plan(block_model(), BuildConfig(effort=0, cache=cache, portable_graph=True)).plan
    again = build_plan(from_bytes(plan.graph), BuildConfig(effort=0, cache=cache, portable_graph=True)).plan
    assert bytes(plan.constants) == bytes(again.constants) and bytes(plan.kernels) == bytes(again.kernels)
    np.testing.assert_array_equal(temper.Engine(plan)(image(1))["logits"], temper.Engine(again)(image(1))["logits"])


def test_a_model_without_any_kernel_builds(cache: Path) -> None:
    nodes = [oh.make_node("Equal", ["a", "b"], ["y"])]
    texts = [oh.make_tensor_value_info(n, TensorProto.STRING, [3]) for n in "ab"]
    graph = oh.make_graph(nodes, "g", texts, [oh.make_tensor_value_info("y", TensorProto.BOOL, [3])])
    engine = temper.build(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 19)]), effort=0, cache=cache)
    a, b = np.array(["x", "y", "z"], object), np.array(["x", "", "z"], object)
    assert engine(a, b).tolist() == [True, False, True]


def test_bfloat16_on_the_host_and_in_kernels(cache: Path) -> None:
    nodes = [oh.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), oh.make_node("Softplus", ["t"], ["y"])]
    graph = oh.make_graph(
        nodes,
        "half",
        [oh.make_tensor_value_info("x", TensorProto.BFLOAT16, [3, 5])],
        [oh.make_tensor_value_info("y", TensorProto.BFLOAT16, [5, 3])],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 22)], ir_version=10)
    engine = temper.build(model, threads=1, effort=0, cache=cache)
    x = (np.random.default_rng(5).standard_normal((3, 5)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    got = engine(x)
    assert isinstance(got, np.ndarray)
    wide = (x.T.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose((got.astype(np.uint32) << 16).view(np.float32), np.log1p(np.exp(wide)), rtol=2**-8)


def test_a_profile_too_small_for_a_slice_is_refused(cache: Path) -> None:
    graph = oh.make_graph(
        [oh.make_node("Slice", ["x", "s", "e"], ["y"])],
        "slice",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([-5]), "s"), numpy_helper.from_array(np.array([2**31 - 1]), "e")],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    engine = temper.build(model, threads=1, effort=0, profiles=[Profile.of(N=(5, 6, 9))], cache=cache)
    x = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    np.testing.assert_array_equal(engine(x), x[-5:])
    with pytest.raises(ShapeError, match="N = 3"):
        temper.build(model, threads=1, effort=0, profiles=[Profile.of(N=(3, 6, 9))], cache=cache)
