"""If, Loop, Scan and sequences whose course depends on data: steps with sub-programs, compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import temper
from temper.config import Profile
from temper.errors import InputError, ModelError, ShapeError, UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.verify import verify
from temper.plan.format import HostStep
from tests.frontends.models import NODE, model
from tests.frontends.test_onnx_data_sizes import Feeds, agrees, tactics

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.4).astype(np.float32)


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    """A branch or a loop's body; like those of real exporters, it does not state its outputs' types."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    return helper.make_graph(nodes, "b", inputs, [onnx.ValueInfoProto(name=o) for o in outputs], tensors)


def step(*carried: tuple[str, int, list[Any] | None]) -> list[onnx.ValueInfoProto]:
    return [info("i", INT64, []), info("going", BOOL, []), *(info(n, t, s) for n, t, s in carried)]


def feeds(seed: int, shift: float = 0.0, shape: tuple[int, ...] = (4, 8)) -> Feeds:
    x = np.random.default_rng(seed).standard_normal(shape) + shift
    return {"x": x.astype(np.float32)}


def scripted_branch() -> onnx.ModelProto:
    """torch.jit.script: `if x.sum() > 0: relu(a(x)) else: tanh(b(x)) * 2`, of which one branch is run."""
    then = body([NODE("Gemm", ["x", "a", "bias"], ["t"]), NODE("Relu", ["t"], ["r"])], [], ["r"])
    nodes = [NODE("Gemm", ["x", "b", "bias"], ["t2"]), NODE("Tanh", ["t2"], ["t3"]), NODE("Mul", ["t3", "two"], ["r2"])]
    other = body(nodes, [], ["r2"], {"two": np.float32(2)})
    outer = [
        NODE("ReduceSum", ["x"], ["sum"], keepdims=0),
        NODE("Greater", ["sum", "zero"], ["positive"]),
        NODE("If", ["positive"], ["r3"], then_branch=then, else_branch=other, name="choose"),
        NODE("Sigmoid", ["r3"], ["y"]),
    ]
    constants = {"a": weights(8, 8), "b": weights(8, 8, seed=1), "bias": weights(8, seed=2), "zero": np.float32(0)}
    return model(outer, {"x": ["n", 8]}, ("y",), constants)


def test_scripted_branch(timing_cache: Path) -> None:
    engine = agrees(scripted_branch(), [feeds(0, 1), feeds(1, -1)], timing_cache, profiles=[Profile.of(n=(1, 4, 8))])
    assert len(engine.plan.subs) == 2 and {s.name for s in engine.plan.subs} == {"choose/then", "choose/else"}
    for n in (1, 8):
        assert engine(np.ones((n, 8), np.float32)).shape == (n, 8)
    found = tactics(engine)
    assert all(t != "host" for name, t in found.items() if name != "choose"), found


def test_branches_of_different_sizes(timing_cache: Path) -> None:
    then = body([NODE("NonZero", ["x"], ["nz"]), NODE("Cast", ["nz"], ["r"], to=1)], [], ["r"])
    other = body([NODE("Slice", ["x", "zero", "k", "zero"], ["r2"])], [], ["r2"])
    nodes = [NODE("If", ["c"], ["s"], then_branch=then, else_branch=other), NODE("Neg", ["s"], ["y"])]
    constants = {"zero": np.array([0])}
    proto = model(nodes, {"x": [2, 8], "c": (bool, []), "k": (np.int64, [1])}, ("y",), constants)
    many = [{**feeds(3, shape=(2, 8)), "c": np.array(c), "k": np.array([k])} for c in (True, False) for k in (1, 2)]
    agrees(proto, many, timing_cache)


def greedy() -> onnx.ModelProto:
    """Decoding: a state, a token and a sequence that grows, until the token is 3 or the limit is reached."""
    nodes = [
        NODE("Gather", ["table", "token"], ["e"]),
        NODE("Concat", ["e", "h"], ["eh"], axis=1),
        NODE("Gemm", ["eh", "w", "b"], ["g"]),
        NODE("Tanh", ["g"], ["h2"]),
        NODE("MatMul", ["h2", "out"], ["logits"]),
        NODE("ArgMax", ["logits"], ["token2"], axis=1, keepdims=0),
        NODE("Concat", ["tokens", "token2"], ["tokens2"], axis=0),
        NODE("Equal", ["token2", "end"], ["ended"]),
        NODE("Squeeze", ["ended", "axis"], ["ended0"]),
        NODE("Not", ["ended0"], ["on"]),
        NODE("ReduceMax", ["logits"], ["best"], axes=[1], keepdims=0),
    ]
    carried = step(("h", FLOAT, [1, 16]), ("token", INT64, [1]), ("tokens", INT64, [None]))
    loop = body(nodes, carried, ["on", "h2", "token2", "tokens2", "best"])
    outer = [NODE("Loop", ["limit", "", "x", "first", "first"], ["h", "t", "tokens", "best"], body=loop, name="decode")]
    constants = {
        "table": weights(20, 16), "w": weights(32, 16, seed=1), "b": weights(16, seed=2),
        "out": weights(16, 20, seed=3),
        "end": np.array([3]), "axis": np.array([0]), "first": np.array([1]),
    }  # fmt: skip
    return model(outer, {"x": [1, 16], "limit": (np.int64, [])}, ("h", "tokens", "best"), constants)


def test_greedy_decoding(timing_cache: Path) -> None:
    many = [{**feeds(s, shape=(1, 16)), "limit": np.array(n)} for s in (0, 1, 2) for n in (0, 1, 30)]
    engine = agrees(greedy(), many, timing_cache)
    assert tactics(engine)["decode/body/logits"] != "host"
    names = [s.name for s in engine.plan.programs[0] if isinstance(s, HostStep)]
    assert names == ["decode"]


def beams() -> onnx.ModelProto:
    """Beam search as torch.jit.script writes it: hypotheses that grow, and a Python list of the scores of all steps."""
    nodes = [
        NODE("Gather", ["seqs", "last"], ["tokens"], axis=1),
        NODE("Gather", ["table", "tokens"], ["e"]),
        NODE("Add", ["e", "h"], ["eh"]),
        NODE("MatMul", ["eh", "w"], ["g"]),
        NODE("Tanh", ["g"], ["h2"]),
        NODE("MatMul", ["h2", "out"], ["logits"]),
        NODE("LogSoftmax", ["logits"], ["lp"], axis=1),
        NODE("Unsqueeze", ["score", "one"], ["score1"]),
        NODE("Add", ["lp", "score1"], ["total"]),
        NODE("Reshape", ["total", "minus"], ["flat"]),
        NODE("TopK", ["flat", "beams"], ["score2", "at"]),
        NODE("Div", ["at", "words"], ["source"]),
        NODE("Mod", ["at", "words"], ["word"]),
        NODE("Gather", ["seqs", "source"], ["kept"]),
        NODE("Unsqueeze", ["word", "one"], ["word1"]),
        NODE("Concat", ["kept", "word1"], ["seqs2"], axis=1),
        NODE("Gather", ["h2", "source"], ["h3"]),
        NODE("SequenceInsert", ["scores", "score2"], ["scores2"]),
        NODE("Identity", ["going"], ["on"]),
    ]
    listed = helper.make_value_info(
        "scores", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    )
    inputs = [*step(("h", FLOAT, None), ("seqs", INT64, None), ("score", FLOAT, None)), listed]
    loop = body(nodes, inputs, ["on", "h3", "seqs2", "score2", "scores2"])
    outer = [
        NODE("Expand", ["x", "size"], ["h0"]),
        NODE("SequenceEmpty", [], ["none"]),
        NODE("Loop", ["n", "", "h0", "start", "zeros", "none"], ["h", "seqs", "score", "scores"], body=loop),
        NODE("ConcatFromSequence", ["scores"], ["all"], axis=0, new_axis=1),
        NODE("SequenceLength", ["scores"], ["steps"]),
        NODE("SequenceAt", ["scores", "minus_one"], ["final"]),
    ]
    constants = {
        "table": weights(20, 16), "w": weights(16, 16, seed=1), "out": weights(16, 20, seed=3), "last": np.array(-1),
        "one": np.array([1]), "minus": np.array([-1]), "minus_one": np.array(-1), "beams": np.array([4]),
        "words": np.array(20), "size": np.array([4, 16]), "start": np.ones((4, 1), np.int64),
        "zeros": np.zeros(4, np.float32),
    }  # fmt: skip
    return model(outer, {"x": [1, 16], "n": (np.int64, [])}, ("seqs", "score", "all", "steps", "final"), constants)


def test_beam_search(timing_cache: Path) -> None:
    many = [{**feeds(s, shape=(1, 16)), "n": np.array(n)} for s in (0, 1) for n in (1, 2, 9)]
    engine = agrees(beams(), many, timing_cache)
    assert any(s.op == "SequenceInsert" for sub in engine.plan.subs for s in sub.segments if isinstance(s, HostStep))
    with pytest.raises(InputError, match="the sequence is empty"):
        engine(many[0]["x"], np.array(0))


def test_tf2onnx_while(timing_cache: Path) -> None:
    """A while loop as tf2onnx writes it: the largest trip count, the condition computed before and in the body."""
    nodes = [
        NODE("MatMul", ["v", "w"], ["v1"]),
        NODE("Add", ["k", "one"], ["k2"]),
        NODE("Relu", ["v1"], ["v2"]),
        NODE("ReduceSum", ["v2"], ["norm"], keepdims=0),
        NODE("Less", ["norm", "bound"], ["small"]),
        NODE("Less", ["k2", "most"], ["few"]),
        NODE("And", ["small", "few"], ["on"]),
        NODE("Unsqueeze", ["norm", "axis"], ["shown"]),
    ]
    loop = body(nodes, step(("k", INT64, []), ("v", FLOAT, [1, 8])), ["on", "k2", "v2", "shown"])
    outer = [
        NODE("ReduceSum", ["x"], ["first"], keepdims=0),
        NODE("Less", ["first", "bound"], ["begin"]),
        NODE("Loop", ["forever", "begin", "zero", "x"], ["k", "v", "norms"], body=loop, name="while_loop"),
        NODE("Squeeze", ["norms", "axis1"], ["y"]),
    ]
    constants = {
        "w": np.abs(weights(8, 8)), "one": np.array(1), "zero": np.array(0), "bound": np.float32(500),
        "most": np.array(20), "axis": np.array([0]), "axis1": np.array([1]), "forever": np.array(2**63 - 1),
    }  # fmt: skip
    proto = model(outer, {"x": [1, 8]}, ("k", "v", "y"), constants)
    engine = agrees(proto, [feeds(s, t, (1, 8)) for s, t in ((0, 1), (1, 0), (2, 90))], timing_cache)
    assert "while_loop" in tactics(engine)


def test_nested_control_flow(timing_cache: Path) -> None:
    then = body([NODE("NonZero", ["h"], ["nz"]), NODE("Cast", ["nz"], ["f"], to=1),
                 NODE("ReduceSum", ["f"], ["s"], keepdims=0), NODE("Add", ["h", "s"], ["r"])], [], ["r"])  # fmt: skip
    other = body([NODE("MatMul", ["h", "w"], ["r2"])], [], ["r2"])
    nodes = [
        NODE("ReduceMean", ["h"], ["mean"], keepdims=0),
        NODE("Less", ["mean", "zero"], ["low"]),
        NODE("If", ["low"], ["h2"], then_branch=then, else_branch=other, name="inner"),
        NODE("ReduceMax", ["h2"], ["most"], keepdims=0),
        NODE("Less", ["most", "bound"], ["on"]),
    ]
    loop = body(nodes, step(("h", FLOAT, ["n", 8])), ["on", "h2"])
    outer_then = body([NODE("Loop", ["ten", "", "x"], ["l"], body=loop, name="loop")], [], ["l"])
    outer_else = body([NODE("Slice", ["x", "first", "k", "first"], ["l2"])], [], ["l2"])
    outer = [
        NODE("ReduceSum", ["x"], ["sum"], keepdims=0),
        NODE("Greater", ["sum", "zero"], ["p"]),
        NODE("If", ["p"], ["r3"], then_branch=outer_then, else_branch=outer_else, name="outer"),
        NODE("Exp", ["r3"], ["y"]),
    ]
    constants = {
        "w": weights(8, 8), "zero": np.float32(0), "bound": np.float32(50), "ten": np.array(10), "first": np.array([0]),
    }  # fmt: skip
    proto = model(outer, {"x": ["n", 8], "k": (np.int64, [1])}, ("y",), constants)
    many = [
        {**feeds(s, t, (n, 8)), "k": np.array([k])} for s, n in ((0, 3), (1, 7)) for t in (1, -1, 0.1) for k in (1, 2)
    ]
    engine = agrees(proto, many, timing_cache, profiles=[Profile.of(n=(1, 4, 16))])
    assert {s.name for s in engine.plan.subs} >= {
        "outer/then",
        "outer/then/loop/body",
        "outer/then/loop/body/inner/then",
    }
    verify(import_onnx(proto))


@pytest.mark.parametrize("back", [0, 1])
def test_long_scan(back: int, timing_cache: Path) -> None:
    nodes = [
        NODE("MatMul", ["s", "w"], ["a"]),
        NODE("Add", ["a", "e"], ["b"]),
        NODE("Tanh", ["b"], ["s2"]),
        NODE("Mul", ["s2", "e"], ["y"]),
    ]
    inner = body(nodes, [info("s", FLOAT, [2, 8]), info("e", FLOAT, [2, 8])], ["s2", "y"])
    scan = NODE(
        "Scan", ["start", "x"], ["last", "ys"], body=inner, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[back], scan_output_axes=[1], scan_output_directions=[back], name="scan",
    )  # fmt: skip
    proto = model([scan], {"start": [2, 8], "x": [2, "t", 8]}, ("last", "ys"), {"w": weights(8, 8)})
    many = [{"start": weights(2, 8), "x": weights(2, t, 8, seed=t)} for t in (1, 7, 40)]
    engine = agrees(proto, many, timing_cache, profiles=[Profile.of(t=(1, 16, 64))])
    assert engine.outputs[1].shape == (2, "t", 8) and len(engine.plan.subs) == 1


def test_a_known_long_loop_is_a_step(timing_cache: Path) -> None:
    nodes = [NODE("MatMul", ["h", "w"], ["h1"]), NODE("Tanh", ["h1"], ["h2"]), NODE("Identity", ["going"], ["on"])]
    loop = body(nodes, step(("h", FLOAT, [1, 8])), ["on", "h2", "h1"])
    constants = {"w": weights(8, 8), "n": np.array(3000), "yes": np.array(True)}
    proto = model([NODE("Loop", ["n", "yes", "x"], ["h", "all"], body=loop)], {"x": [1, 8]}, ("h", "all"), constants)
    engine = agrees(proto, [feeds(0, shape=(1, 8))], timing_cache)
    assert engine.outputs[1].shape == (3000, 1, 8) and len(engine.report["regions"]) < 10


def test_scan_of_opset_8() -> None:
    """Two samples of three and two elements: running sums, zeros after the end."""
    nodes = [NODE("Add", ["s", "e"], ["s2"]), NODE("Identity", ["s2"], ["y"])]
    inner = helper.make_graph(
        nodes, "b", [info("s", FLOAT, [2]), info("e", FLOAT, [2])], [info("s2", FLOAT, [2]), info("y", FLOAT, [2])]
    )
    scan = NODE("Scan", ["lengths", "start", "x"], ["last", "ys"], body=inner, num_scan_inputs=1)
    constants = {"lengths": np.array([3, 2])}
    proto = model([scan], {"start": [2, 2], "x": [2, 3, 2]}, ("last", "ys"), constants, opset=8)
    x, start = weights(2, 3, 2), weights(2, 2, seed=1)
    from temper.ir.evaluate import evaluate

    last, ys = evaluate(import_onnx(proto), {"start": start, "x": x})
    sums = start[:, None] + np.cumsum(x, 1)
    np.testing.assert_allclose(ys[0], sums[0], rtol=1e-6)
    np.testing.assert_allclose(ys[1], [*sums[1, :2], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(last, [sums[0, 2], sums[1, 1]], rtol=1e-6)


def test_sequences_whose_length_depends_on_data(timing_cache: Path) -> None:
    nodes = [
        NODE("SplitToSequence", ["x", "sizes"], ["s"], axis=1),
        NODE("SequenceAt", ["s", "at"], ["part"]),
        NODE("SequenceErase", ["s", "at"], ["rest"]),
        NODE("SequenceInsert", ["rest", "part", "zero"], ["moved"]),
        NODE("ConcatFromSequence", ["moved"], ["y"], axis=1),
        NODE("SequenceLength", ["moved"], ["n"]),
        NODE("Relu", ["part"], ["z"]),
    ]
    inputs = {"x": [3, 6], "sizes": (np.int64, [3]), "at": (np.int64, [])}
    proto = model(nodes, inputs, ("y", "n", "z"), {"zero": np.array(0)})
    many = [
        {**feeds(0, shape=(3, 6)), "sizes": np.array(s), "at": np.array(at)}
        for s in ([2, 1, 3], [4, 1, 1])
        for at in (0, 2, -2)
    ]
    engine = agrees(proto, many, timing_cache)
    with pytest.raises(InputError, match="position 3 is out of range for a sequence of 3"):
        engine({**many[0], "at": np.array(3)})
    with pytest.raises(InputError, match=r"parts \[5, 5, 5\] of an axis of 6"):
        engine({**many[0], "sizes": np.array([5, 5, 5])})


def test_a_loop_beyond_its_bound(timing_cache: Path) -> None:
    nodes = [
        NODE("Add", ["h", "h"], ["h2"]),
        NODE("ReduceMax", ["h2"], ["m"], keepdims=0),
        NODE("Equal", ["m", "m"], ["on"]),
    ]
    loop = body(nodes, step(("h", FLOAT, [1, 8])), ["on", "h2"])
    proto = model([NODE("Loop", ["", "", "x"], ["y"], body=loop, name="forever")], {"x": [1, 8]})
    engine = temper.build(proto, threads=1, effort=0, cache=timing_cache, loop_limit=50)
    with pytest.raises(InputError, match="the loop 'forever' is still going after 50 steps"):
        engine(np.ones((1, 8), np.float32))
    assert np.isnan(engine(np.full((1, 8), np.nan, np.float32))).all(), "the engine works on after an error"


def test_loops_that_contradict_themselves() -> None:
    def looped(nodes: list[onnx.NodeProto], carried: list[Any], results: list[str]) -> onnx.ModelProto:
        loop = body(nodes, step(("h", FLOAT, carried)), ["going", *results])
        return model([NODE("Loop", ["n", "", "x"], ["y"], body=loop, name="odd")], {"x": [1, 8], "n": (np.int64, [])})

    with pytest.raises(UnsupportedError, match=r"carried value 'x' is float32\[1, 8\], and float32\[8\] after a step"):
        import_onnx(looped([NODE("Squeeze", ["h"], ["h2"])], [1, 8], ["h2"]))
    with pytest.raises(UnsupportedError, match=r"float32\[1, 8\], and int64"):
        import_onnx(looped([NODE("Cast", ["h"], ["h2"], to=INT64)], [1, 8], ["h2"]))
    with pytest.raises(ModelError, match="the body gives 1 values, but 1 are carried"):
        import_onnx(looped([NODE("Neg", ["h"], ["h2"])], [1, 8], []))
    with pytest.raises(ShapeError, match=r"8 against 9"):
        import_onnx(looped([NODE("Add", ["h", "nine"], ["h2"]), NODE("RandomNormal", [], ["nine"], shape=[1, 9])],
                           [1, 8], ["h2"]))  # fmt: skip


def test_unknown_operators_in_branches_are_listed() -> None:
    branch = [body([NODE("Odd", ["x"], ["r"], domain="acme", name=f"n{k}")], [], ["r"]) for k in (0, 1)]
    outer = [
        NODE("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        NODE("Odd", ["x"], ["z"], domain="acme"),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    proto = model(outer, {"x": [2], "c": (bool, [])}, ("y", "z"), opset_imports=opsets)
    with pytest.raises(UnsupportedError, match=r"Odd \(domain 'acme', opset 1\)") as e:
        import_onnx(proto)
    assert "'z'" in str(e.value) and "/n0'" in str(e.value) and "/n1'" in str(e.value)


def listed(name: str, shape: list[Any] | None) -> onnx.ValueInfoProto:
    element = helper.make_tensor_type_proto(FLOAT, shape)
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


def test_sequences_as_inputs_and_outputs_of_an_engine(timing_cache: Path) -> None:
    """Lists of arrays of any length; an output that is a sequence is a tuple of arrays."""
    nodes = [
        NODE("SequenceAt", ["s", "first"], ["a"]),
        NODE("Exp", ["a"], ["e"]),
        NODE("SequenceInsert", ["s", "e"], ["t"]),
        NODE("ConcatFromSequence", ["t"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes, "g", [listed("s", [None, 3])], [listed("t", None), info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array(0), "first")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = temper.build(proto, threads=1, effort=0, cache=timing_cache)
    parts = [weights(n, 3, seed=n) for n in (2, 1, 4)]
    for given in (parts, parts[:1], tuple(parts[1:])):
        found = engine(list(given))
        want = [*given, np.exp(given[0])]
        assert isinstance(found["t"], tuple) and len(found["t"]) == len(want)
        for a, b in zip(found["t"], want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        np.testing.assert_allclose(found["y"], np.concatenate(want), rtol=1e-6)
    with pytest.raises(InputError, match="'s' is a ndarray, expected a list of numpy arrays"):
        engine(parts[0])
    with pytest.raises(InputError, match=r"reads float64\(2, 3\) from a sequence, expected float32"):
        engine([parts[0].astype(np.float64)])
    with pytest.raises(InputError, match="position 0 is out of range for a sequence of 0"):
        engine([])
