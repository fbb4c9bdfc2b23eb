"""Profiles: several in a plan, each with a program of its own; what sizes a model's nodes demand; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh

import temper
from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import ConfigError, InputError, ShapeError
from temper.ir.dims import Dim
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.portable import from_bytes
from temper.ir.types import TensorType
from temper.plan.file import to_bytes
from temper.plan.format import Launch, Native, Plan
from tests.test_build import block_model, image, oracle, weights

n = oh.make_node
Dims = list[int | str]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "timing.sqlite"


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, Dims], output: str, inits: list[onnx.TensorProto] | None = None
) -> onnx.ModelProto:
    infos = [oh.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
    graph = oh.make_graph(nodes, "m", infos, [oh.make_tensor_value_info(output, TensorProto.FLOAT, None)], inits or [])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=9)


def up_and_join() -> onnx.ModelProto:
    """Two strided convolutions, an upsampling, and a join with what was before: sizes must be multiples of 4."""
    nodes = [
        n("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        n("Conv", ["a", "w2"], ["b"], pads=[1, 1, 1, 1], strides=[2, 2]),
        n("Resize", ["b", "", "scales"], ["up"], mode="nearest", coordinate_transformation_mode="asymmetric"),
        n("Concat", ["up", "a"], ["y"], axis=1),
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    return model_of(
        nodes, {"x": ["N", 3, "H", "W"]}, "y", [weights("w1", 8, 3, 3, 3), weights("w2", 8, 8, 3, 3), scales]
    )


def launches(plan: Plan, profile: int) -> list[Launch]:
    program = plan.programs[plan.profiles[profile].program]
    return [x for s in program if isinstance(s, Native) for x in s.launches]


def agree(engine: temper.Engine, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Every output against ONNX Runtime's."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, want in zip(engine.run(feeds), session.run(None, feeds), strict=True):
        assert got.shape == want.shape
        # ten layers of a few hundred products each: errors of order sqrt(terms) * eps a layer
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(1e-30, float(np.abs(want).max())))


def test_every_profile_has_a_program_tuned_at_its_own_size(cache: Path) -> None:
    model = block_model("N")
    engine = temper.build(model, threads=1, effort=1, batch=[1, 3, (4, 6, 8)], cache=cache)
    plan = engine.plan
    assert [dict(p.symbols) for p in engine.profiles] == [{"N": (1, 1, 1)}, {"N": (3, 3, 3)}, {"N": (4, 6, 8)}]
    assert [p.program for p in engine.profiles] == [0, 1, 2]
    rows = plan.report["regions"]
    assert {r["profile"] for r in rows} == {0, 1, 2}
    assert not any(x.symbols for k in (0, 1) for x in launches(plan, k))  # one size: nothing is left to the run
    tuned = {tuple(r["sizes"].values()) for r in rows if r["profile"] == 2 and r["sizes"]}
    assert tuned == {(6,)}
    for batch in (1, 3, 4, 5, 8):
        x = image(batch)
        got = engine(x)
        for name, want in zip(("logits", "cat"), oracle(model, x), strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    for batch in (2, 9):
        with pytest.raises(InputError, match="N 1 to 1 .*; N 3 to 3 .*; N 4 to 8"):
            engine(image(batch))


def test_profiles_share_weights_and_kernels(cache: Path) -> None:
    model = block_model("N", 8)
    one = build_plan(model, BuildConfig(effort=0, cache=cache, profiles=(Profile.of(N=(1, 4, 8)),))).plan
    four = build_plan(
        model, BuildConfig(effort=0, cache=cache, profiles=tuple(Profile.of(N=(i, 4, 8)) for i in (1, 2, 3, 4)))
    ).plan
    assert len(four.programs) == 4
    assert bytes(four.constants) == bytes(one.constants)
    assert bytes(four.kernels) == bytes(one.kernels)
    assert to_bytes(four) == to_bytes(
        build_plan(
            model, BuildConfig(effort=0, cache=cache, profiles=tuple(Profile.of(N=(i, 4, 8)) for i in (1, 2, 3, 4)))
        ).plan
    )


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_height_and_width_vary(isa: str, cache: Path) -> None:
    from temper.compile.cc import ISAS
    from temper.runtime.machine import cpu_flags

    if not ISAS[isa].needs <= cpu_flags():
        pytest.skip(f"this CPU cannot run {isa} code")
    model = block_model("N", 20)
    for d, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("N", "", "H", "W"), strict=True):
        if name:
            d.dim_param = name
    sizes = {"N": (1, 1, 2), "H": (9, 20, 33), "W": (7, 20, 40)}
    engine = temper.build(model, threads=2, effort=0, isa=isa, profiles=[Profile.of(**sizes)], cache=cache)
    assert not [r for r in engine.report["regions"] if r["tactic"] == "host"]
    rng = np.random.default_rng(1)
    for shape in ((1, 20, 20), (1, 9, 7), (2, 33, 40), (2, 15, 22), (1, 32, 9), (1, 11, 39)):
        x = rng.standard_normal((shape[0], 3, *shape[1:])).astype(np.float32)
        agree(engine, model, {"image": x})
    with pytest.raises(InputError, match="H 9 to 33"):
        engine(np.zeros((1, 3, 34, 20), np.float32))


def test_sizes_that_a_join_demands_are_found(cache: Path) -> None:
    model = up_and_join()
    profile = Profile.of(H=(8, 16, 24), W=(4, 16, 32))
    engine = temper.build(model, threads=1, effort=0, profiles=[profile], cache=cache)
    assert [s.shape for s in engine.inputs] == [(1, 3, "4*H_4", "4*W_4")]
    assert dict(engine.profiles[0].symbols) == {"H_4": (2, 4, 6), "W_4": (1, 4, 8)}
    assert not [r for r in engine.report["regions"] if r["tactic"] == "host"]
    rng = np.random.default_rng(2)
    for h, w in ((16, 16), (8, 4), (24, 32), (12, 20)):
        agree(engine, model, {"x": rng.standard_normal((1, 3, h, w)).astype(np.float32)})
    with pytest.raises(InputError, match=r"axis 2 must be 4\*H_4 for a whole number, not 18"):
        engine(np.zeros((1, 3, 18, 16), np.float32))
    with pytest.raises(ConfigError, match="H = .*18.* must be a multiple of 4"):
        temper.build(model, effort=0, profiles=[Profile.of(H=(8, 18, 24), W=16)], cache=cache)
    one = temper.build(model, effort=0, profiles=[Profile.of(H=16, W=20)], cache=cache)
    assert [s.shape for s in one.inputs] == [(1, 3, 16, 20)]


def test_dimensions_of_different_names_that_must_be_equal_become_one(cache: Path) -> None:
    model = model_of([n("Add", ["a", "b"], ["y"])], {"a": ["M", 4], "b": ["K", 4]}, "y")
    both = Profile.of(M=(1, 2, 5), K=(1, 2, 5))
    engine = temper.build(model, effort=0, profiles=[both], cache=cache)
    a, b = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float32)
    assert (engine(a, b) == 3).all()
    with pytest.raises(InputError, match="is 3 here and 2|is 2 here and 3"):
        engine(a[:2], b)
    with pytest.raises(ConfigError, match="must be"):
        temper.build(model, effort=0, profiles=[Profile.of(M=(1, 2, 5), K=(1, 2, 6))], cache=cache)


def test_whole_shapes_as_tensorrt_states_them(cache: Path) -> None:
    model = block_model("N")
    shapes: dict[str, Any] = {"image": ((1, 3, 20, 20), (2, 3, 20, 20), (4, 3, 20, 20))}
    for options in ({"shapes": shapes}, {"profiles": [Profile.of_shapes(shapes)]}):
        engine = temper.build(model, effort=0, cache=cache, **options)
        assert dict(engine.profiles[0].symbols) == {"N": (1, 2, 4)}
    static = temper.build(model, effort=0, cache=cache, shapes={"image": (2, 3, 20, 20)})
    assert static.inputs[0].shape == (2, 3, 20, 20)
    assert temper.build(model, effort=0, cache=cache, batch=2).inputs[0].shape == (2, 3, 20, 20)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 3, 20, 20), (2, 3, 20, 20), (1, 3, 20, 20)), "axis 0: needs 0 < min <= opt <= max"),
        (((1, 3, 20, 20), (2, 3, 20, 20)), "needs .min, opt, max."),
        (((1, 3, 20), (2, 3, 20), (4, 3, 20)), "rank 3"),
        (((1, 3, 10, 20), (2, 3, 20, 20), (4, 3, 20, 20)), "axis 2: .*only open dimensions can vary"),
    ],
)
def test_contradicting_shapes_are_refused(shapes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        temper.build(block_model("N"), effort=0, shapes={"image": shapes})


def test_shapes_of_two_inputs_that_contradict_each_other() -> None:
    model = model_of([n("Add", ["a", "b"], ["y"])], {"a": ["N", 4], "b": ["N", 4]}, "y")
    with pytest.raises(ConfigError, match="make N .*but elsewhere"):
        temper.build(model, shapes={"a": ((1, 4), (2, 4), (4, 4)), "b": ((1, 4), (2, 4), (8, 4))})
    with pytest.raises(ConfigError, match="shapes are given for 'c', but the inputs are a, b"):
        temper.build(model, shapes={"c": ((1, 4), (2, 4), (4, 4))})


def test_profiles_that_cannot_be() -> None:
    for bad in ((0, 1, 2), (2, 1, 4), (1, 5, 4)):
        with pytest.raises(ConfigError, match="0 < min <= opt <= max"):
            Profile.of(N=bad)
        with pytest.raises(ConfigError, match="0 < min <= opt <= max"):
            BuildConfig(batches=(bad,))
    with pytest.raises(ConfigError, match="range for Q, but the model's dimensions are: N"):
        temper.build(block_model("N"), profiles=[Profile.of(Q=(1, 2, 3))])
    with pytest.raises(ConfigError, match="fixed first dimension"):
        temper.build(block_model(1), batch=[1, 2])


def test_a_symbol_that_no_shape_gives() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType("float32", (Dim.symbol("A") * Dim.symbol("B"), 4)))
    graph.set_outputs([make(graph, "Relu", [x]).output])
    with pytest.raises(ShapeError, match="no input's shape gives the size of A, B"):
        build_plan(graph, BuildConfig(effort=0, profiles=(Profile.of(A=(1, 2, 3), B=(1, 2, 3)),)))


def test_sizes_at_which_a_node_fails_are_found_at_build() -> None:
    model = model_of([n("Conv", ["x", "w"], ["y"])], {"x": [1, 2, "H", 8]}, "y", [weights("w", 4, 2, 5, 5)])
    with pytest.raises(ShapeError, match="H = 3"):
        temper.build(model, effort=0, profiles=[Profile.of(H=(3, 8, 9))])


def test_a_slice_that_is_longer_than_the_smallest_size(cache: Path) -> None:
    inits = [onnx.numpy_helper.from_array(np.array([v], np.int64), k) for k, v in (("s", -3), ("e", 99), ("a", 0))]
    model = model_of([n("Slice", ["x", "s", "e", "a"], ["y"])], {"x": ["N", 8]}, "y", inits)
    with pytest.raises(ShapeError, match=r"Slice.*N = 1.*choose a profile in which it keeps its form"):
        temper.build(model, effort=0, profiles=[Profile.of(N=(1, 6, 8))], cache=cache)
    engine = temper.build(model, effort=0, profiles=[Profile.of(N=(3, 6, 8))], cache=cache)
    for size in (3, 6, 8):
        x = np.arange(size * 8, dtype=np.float32).reshape(size, 8)
        np.testing.assert_array_equal(engine(x), x[-3:])


def test_a_plan_of_several_profiles_is_rebuilt_from_its_graph(cache: Path) -> None:
    config = BuildConfig(effort=0, cache=cache, portable_graph=True, batches=((1, 1, 1), (2, 4, 4)))
    plan = build_plan(block_model("N"), config).plan
    profiles = tuple(Profile.of(**p.symbols) for p in plan.profiles)
    again = build_plan(
        from_bytes(bytes(plan.graph)),
        BuildConfig(effort=0, cache=cache, portable_graph=True, profiles=profiles),
    ).plan
    assert again.profiles == plan.profiles and bytes(again.constants) == bytes(plan.constants)
    x = image(3)
    np.testing.assert_array_equal(temper.Engine(plan)(x)["cat"], temper.Engine(again)(x)["cat"])


def test_products_whose_columns_vary(cache: Path) -> None:
    model = model_of([n("MatMul", ["a", "b"], ["y"])], {"a": ["N", "S", 16], "b": ["N", 16, "S"]}, "y")
    engine = temper.build(model, effort=0, profiles=[Profile.of(N=(1, 2, 3), S=(1, 5, 40))], cache=cache)
    assert not [r for r in engine.report["regions"] if r["tactic"] == "host"]
    rng = np.random.default_rng(4)
    for batch, size in ((1, 1), (2, 5), (3, 40), (2, 17)):
        a = rng.standard_normal((batch, size, 16)).astype(np.float32)
        agree(engine, model, {"a": a, "b": np.ascontiguousarray(a.transpose(0, 2, 1))})


def test_a_row_of_a_constant_chosen_by_a_size(cache: Path) -> None:
    """Positions of a decoder step: table[P : P + 1] for P keys."""
    inits = [
        weights("table", 64, 4),
        *(onnx.numpy_helper.from_array(np.array([v], np.int64), k) for k, v in (("zero", 0), ("one", 1))),
    ]
    nodes = [
        n("Shape", ["x"], ["shape"]),
        n("Slice", ["shape", "zero", "one", "zero"], ["p"]),
        n("Add", ["p", "one"], ["q"]),
        n("Slice", ["table", "p", "q", "zero"], ["row"]),
        n("Add", ["x", "row"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["P", 4]}, "y", inits)
    engine = temper.build(model, effort=0, profiles=[Profile.of(P=(1, 7, 63))], cache=cache)
    assert not [r for r in engine.report["regions"] if r["tactic"] == "host"]
    for size in (1, 7, 30, 63):
        agree(engine, model, {"x": np.ones((size, 4), np.float32)})


def test_layers_normalised_over_a_sequence_of_any_length(cache: Path) -> None:
    nodes = [n("LayerNormalization", ["x", "g"], ["a"], axis=-1), n("Mul", ["a", "z"], ["y"])]
    gain = onnx.numpy_helper.from_array(np.linspace(0.5, 2, 24, dtype=np.float32), "g")
    model = model_of(nodes, {"x": ["N", "T", 24], "z": ["N", 1, 1]}, "y", [gain])
    sizes = (Profile.of(N=(1, 2, 3), T=(1, 5, 9)),)
    engine = temper.build(model, profiles=sizes, threads=1, effort=1, cache=cache)
    rng = np.random.default_rng(3)
    for batch, length in ((1, 1), (2, 5), (3, 8)):
        x, z = rng.standard_normal((batch, length, 24), np.float32), rng.standard_normal((batch, 1, 1), np.float32)
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        want = (x - mean) / np.sqrt(var + 1e-5) * np.linspace(0.5, 2, 24, dtype=np.float32) * z
        np.testing.assert_allclose(engine(x=x, z=z), want, rtol=1e-5, atol=1e-5)
