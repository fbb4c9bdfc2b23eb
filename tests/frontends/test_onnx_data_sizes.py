"""Models whose sizes depend on data: imported with symbols, run as host steps with generated code between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ValueInfoProto, helper

import temper
from temper.errors import InputError
from temper.frontends.onnx import import_onnx
from temper.frontends.onnx.problems import UnsupportedNodesError
from temper.ir.evaluate import evaluate
from temper.ir.text import constants_of, parse, to_text
from temper.plan import file as plan_file
from temper.plan.format import HostStep
from temper.runtime.trace import trace
from tests.frontends.models import NODE, model

Feeds = dict[str, np.ndarray]


def agrees(proto: Any, many: list[Feeds], timing_cache: Path, **options: Any) -> temper.Engine:
    """The reference and an engine (read back from its file's bytes) against ONNX Runtime."""
    graph = import_onnx(proto)
    again = parse(to_text(graph), constants_of(graph))
    assert again.hash() == graph.hash()
    built = temper.build(proto, threads=1, effort=0, cache=timing_cache, **options)
    engine = temper.Engine.from_bytes(plan_file.to_bytes(built.plan))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for feeds in many:
        want = session.run(None, feeds)
        for results in (evaluate(again, feeds), engine.run(feeds), engine.run(feeds)):
            for y, w in zip(results, want, strict=True):
                assert y.shape == w.shape and y.dtype == w.dtype
                np.testing.assert_allclose(y, w, rtol=1e-5, atol=1e-6)
    return engine


def tactics(engine: temper.Engine) -> Mapping[str, str]:
    return {r["name"]: r["tactic"] for r in engine.report["regions"]}


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def detector() -> Any:
    """What PyTorch's exporters write for a detector's last part: boxes and classes picked by NMS's indices."""
    nodes = [
        NODE("Sigmoid", ["logits"], ["scores"]),
        NODE("Transpose", ["scores"], ["scores_t"], perm=[0, 2, 1]),
        NODE("NonMaxSuppression", ["boxes", "scores_t", "most", "iou", "low"], ["selected"]),
        NODE("Gather", ["selected", "two"], ["box_at"], axis=1),
        NODE("Squeeze", ["box_at", "axis1"], ["at"]),
        NODE("Gather", ["boxes", "at"], ["picked"], axis=1),
        NODE("Slice", ["selected", "zero", "two_v", "axis1"], ["class_box"]),
        NODE("Cast", ["selected"], ["selected_f"], to=1),
        NODE("Mul", ["selected_f", "tenth"], ["shown"]),
        NODE("Concat", ["zero_col", "selected"], ["triples"], axis=0),
        NODE("Gather", ["selected", "order"], ["triple"], axis=1),
        NODE("GatherND", ["scores_t", "triple"], ["score"]),
        NODE("Unsqueeze", ["score", "axis1"], ["score_col"]),
        NODE("Squeeze", ["picked", "zero"], ["rows"]),
        NODE("Concat", ["rows", "score_col"], ["detections"], axis=1),
        NODE("MatMul", ["detections", "w"], ["embedded"]),
        NODE("Relu", ["embedded"], ["features"]),
    ]
    constants = {
        "most": np.array([5]), "iou": np.float32([0.5]), "low": np.float32([0.3]), "two": np.array([2]),
        "axis1": np.array([1]), "zero": np.array([0]), "two_v": np.array([2]), "tenth": np.float32(0.1),
        "zero_col": np.zeros((1, 3), np.int64), "order": np.array([0, 1, 2]),
        "w": _rng(3).standard_normal((5, 16)).astype(np.float32),
    }  # fmt: skip
    shapes = {"boxes": [1, 40, 4], "logits": [1, 40, 3]}
    return model(nodes, shapes, ("detections", "class_box", "shown", "triples", "features"), constants)


def _boxes(seed: int, shift: float = 0.0) -> Feeds:
    rng = _rng(seed)
    corner, size = rng.uniform(0, 20, (1, 40, 2)), rng.uniform(1, 6, (1, 40, 2))
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    return {"boxes": boxes, "logits": (rng.standard_normal((1, 40, 3)) + shift).astype(np.float32)}


def test_what_follows_a_non_maximum_suppression_is_generated_code(timing_cache: Path) -> None:
    many = [_boxes(0), _boxes(1), _boxes(2, -1.5), _boxes(3, -50), _boxes(4, 50)]
    engine = agrees(detector(), many, timing_cache)
    found = tactics(engine)
    for name in ("picked", "embedded", "triple", "score"):
        assert found[name] != "host", name
    steps = [s for s in engine.plan.programs[0] if isinstance(s, HostStep)]
    assert {s.op: s.reason for s in steps} == {"Sizes": "it finds sizes in data"}
    assert found["selected"] == "cpu.boxes_kept"
    assert engine.outputs[0].shape == (engine.outputs[1].shape[0], 5)
    times = engine.profile_layers(_boxes(0), repeats=2)
    assert len(times) == len(engine.report["regions"])
    rows = {n: t for step in trace(engine, _boxes(0)) for n, t in step.tensors.items()}
    np.testing.assert_array_equal(rows["features"], engine.run(_boxes(0))[4])


def test_thresholds_may_be_inputs(timing_cache: Path) -> None:
    node = NODE("NonMaxSuppression", ["boxes", "scores", "", "iou"], ["y"])
    shapes = {"boxes": [1, 10, 4], "scores": [1, 2, 10], "iou": [1]}
    many = []
    for iou in (0.1, 0.9):
        found = _boxes(5)
        many.append(
            {"boxes": found["boxes"][:, :10], "scores": np.ones((1, 2, 10), np.float32), "iou": np.float32([iou])}
        )
    agrees(model([node], shapes), many, timing_cache)


def test_masks(timing_cache: Path) -> None:
    """x[mask], computed with, and written back: two masks of one value have one size."""
    nodes = [
        NODE("Greater", ["x", "zero"], ["mask"]),
        NODE("NonZero", ["mask"], ["n"]),
        NODE("Transpose", ["n"], ["at"], perm=[1, 0]),
        NODE("NonZero", ["mask"], ["n2"]),
        NODE("Transpose", ["n2"], ["at2"], perm=[1, 0]),
        NODE("GatherND", ["x", "at"], ["picked"]),
        NODE("GatherND", ["b", "at2"], ["other"]),
        NODE("Add", ["picked", "other"], ["sum"]),
        NODE("ScatterND", ["x", "at", "sum"], ["y"]),
        NODE("Compress", ["x", "flags"], ["z"], axis=1),
        NODE("ReduceSum", ["z"], ["total"], keepdims=0),
        NODE("Unique", ["labels"], ["u", "", "inverse", "counts"]),
        NODE("Gather", ["table", "u"], ["rows"]),
    ]
    constants = {"zero": np.float32(0), "table": _rng(1).standard_normal((9, 4)).astype(np.float32)}
    shapes = {"x": [6, 7], "b": [6, 7], "flags": (bool, [7]), "labels": (np.int64, [12])}
    proto = model(nodes, shapes, ("y", "z", "total", "u", "inverse", "counts", "rows"), constants)
    many = []
    for seed, shift in ((0, 0), (1, 1), (2, -9), (3, 9)):
        rng = _rng(seed)
        x = (rng.standard_normal((6, 7)) + shift).astype(np.float32)
        flags = rng.uniform(size=7) > 0.1 * (shift + 5)
        many.append({"x": x, "b": x * 2, "flags": flags, "labels": rng.integers(0, 9, 12)})
    engine = agrees(proto, many, timing_cache)
    found = list(tactics(engine).values())
    assert found.count("cpu.positions") == 2, "the mask of both NonZero, and the flags"
    assert tactics(engine)["sum"] != "host"


def test_branches_capture_values_of_such_sizes(timing_cache: Path) -> None:
    """What torchvision's detectors write before they suppress boxes: nothing is left of nothing."""
    then = [
        NODE("Unsqueeze", ["picked", "last"], ["column"]),
        NODE("Mul", ["column", "row"], ["both"]),
        NODE("ReduceSum", ["both", "last"], ["t"], keepdims=0),
    ]
    other = [NODE("Add", ["picked", "two"], ["e"])]
    branch = {
        "then_branch": helper.make_graph(then, "then", [], [ValueInfoProto(name="t")]),
        "else_branch": helper.make_graph(other, "else", [], [ValueInfoProto(name="e")]),
    }
    nodes = [
        NODE("Greater", ["x", "zero"], ["mask"]),
        NODE("NonZero", ["mask"], ["n"]),
        NODE("Squeeze", ["n", "axis"], ["at"]),
        NODE("Gather", ["x", "at"], ["first"]),
        NODE("Less", ["x", "two"], ["small"]),
        NODE("NonZero", ["small"], ["n2"]),
        NODE("Squeeze", ["n2", "axis"], ["at2"]),
        NODE("Gather", ["x", "at2"], ["second"]),
        NODE("Concat", ["first", "second"], ["picked"], axis=0),
        NODE("Size", ["picked"], ["count"]),
        NODE("Greater", ["count", "three"], ["many"]),
        NODE("If", ["many"], ["y"], **branch),
    ]
    constants = {"zero": np.float32(0), "two": np.float32(2), "three": np.int64(3), "axis": np.array([0])}
    constants |= {"last": np.array([1]), "row": np.float32([[1, 0.5]])}
    proto = model(nodes, {"x": [9]}, ("y",), constants)
    many = [{"x": (_rng(k).standard_normal(9) + shift).astype(np.float32)} for k, shift in enumerate((0, 1, -1, -9, 9))]
    agrees(proto, many, timing_cache)


SHAPES: dict[str, tuple[Callable[[], Any], list[Feeds]]] = {
    "reshape": (
        lambda: model(
            [NODE("Reshape", ["x", "s"], ["r"]), NODE("Neg", ["r"], ["y"])], {"x": [4, 6], "s": (np.int64, [3])}
        ),
        [{"x": np.ones((4, 6), np.float32), "s": np.array(s)} for s in ([2, 3, 4], [0, -1, 2], [24, 1, 1])],
    ),
    "reshape with a part known": (
        lambda: model(
            [
                NODE("ReduceMax", ["k"], ["m"], keepdims=0),
                NODE("Unsqueeze", ["m", "zero"], ["m1"]),
                NODE("Concat", ["m1", "rest"], ["s"], axis=0),
                NODE("Reshape", ["x", "s"], ["y"]),
            ],
            {"x": [4, 6], "k": (np.int64, [5])},
            constants={"zero": np.array([0]), "rest": np.array([-1, 3])},
        ),
        [{"x": np.ones((4, 6), np.float32), "k": np.array([k, 1, 1, 0, 1])} for k in (1, 2, 8)],
    ),
    "slice": (
        lambda: model(
            [NODE("Slice", ["x", "a", "b", "axes", "steps"], ["s"]), NODE("Exp", ["s"], ["y"])],
            {"x": [5, 9], "a": (np.int64, [2]), "b": (np.int64, [2])},
            constants={"axes": np.array([1, 0]), "steps": np.array([2, 1])},
        ),
        [
            {"x": _rng(0).standard_normal((5, 9)).astype(np.float32), "a": np.array(a), "b": np.array(b)}
            for a, b in (([1, 0], [8, 3]), ([-4, -2], [99, 2**62]), ([5, 3], [2, 4]), ([-99, 1], [-1, -1]))
        ],
    ),
    "expand, tile and fill": (
        lambda: model(
            [
                NODE("Expand", ["x", "n"], ["e"]),
                NODE("ConstantOfShape", ["n"], ["c"]),
                NODE("Tile", ["x", "n"], ["t"]),
                NODE("Add", ["e", "e"], ["e2"]),
            ],
            {"x": [1, 3], "n": (np.int64, [2])},
            ("e2", "t"),
        ),
        [{"x": np.float32([[1, 2, 3]]), "n": np.array(n)} for n in ([4, 3], [1, 1], [2, 3])],
    ),
    "range": (
        lambda: model(
            [NODE("Range", ["a", "b", "c"], ["r"]), NODE("Mul", ["r", "r"], ["y"])],
            {"a": [], "b": [], "c": []},
        ),
        [
            {k: np.array(v, np.float32) for k, v in zip("abc", t, strict=True)}
            for t in ((0, 3, 1), (5, -2, -1.5), (1, 1, 1))
        ],
    ),
    "top k": (
        lambda: model([NODE("TopK", ["x", "k"], ["v", "y"])], {"x": [3, 9], "k": (np.int64, [1])}, ("v", "y")),
        [{"x": _rng(2).standard_normal((3, 9)).astype(np.float32), "k": np.array([k])} for k in (1, 4, 9)],
    ),
    "shapes that only the data relate": (
        lambda: model(
            [
                NODE("NonZero", ["a"], ["i"]),
                NODE("NonZero", ["b"], ["j"]),
                NODE("Add", ["i", "j"], ["y"]),
                NODE("Concat", ["i", "j"], ["z"], axis=1),
                NODE("Slice", ["i", "minus_two", "far", "one"], ["w"]),
            ],
            {"a": [6], "b": [6]},
            ("y", "z", "w"),
            {"minus_two": np.array([-2]), "far": np.array([2**63 - 1]), "one": np.array([1])},
        ),
        [
            {"a": np.float32([1, 0, 1, 1, 0, 0]), "b": np.float32([0, 1, 1, 1, 0, 0])},
            {"a": np.float32([1, 0, 1, 1, 0, 0]), "b": np.float32([0, 0, 0, 1, 0, 0])},
            {"a": np.float32([0, 0, 0, 1, 0, 0]), "b": np.float32([0, 0, 0, 1, 0, 0])},
        ],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_from_data(name: str, timing_cache: Path) -> None:
    make, many = SHAPES[name]
    agrees(make(), many, timing_cache)


def test_data_that_contradict_a_shape(timing_cache: Path) -> None:
    proto = SHAPES["reshape"][0]()
    engine = temper.build(proto, threads=1, effort=0, cache=timing_cache)
    x = np.ones((4, 6), np.float32)
    with pytest.raises(InputError, match=r"\[4, 6\] cannot be reshaped to \[5, -1, 1\]"):
        engine(x, np.array([5, -1, 1]))
    proto = SHAPES["top k"][0]()
    engine = temper.build(proto, threads=1, effort=0, cache=timing_cache)
    with pytest.raises(InputError, match="v.*TopK"):
        engine(np.ones((3, 9), np.float32), np.array([10]))
    assert engine(np.ones((3, 9), np.float32), np.array([1]))["y"].tolist() == [[0]] * 3


def test_out_arrays_of_sizes_found_in_the_data(timing_cache: Path) -> None:
    engine = temper.build(detector(), threads=1, effort=0, cache=timing_cache)
    feeds = _boxes(0)
    want = engine.run(feeds)
    out = [np.zeros_like(w) for w in want]
    for y, w, o in zip(engine.run(feeds, out=out), want, out, strict=True):
        assert y is o
        np.testing.assert_array_equal(o, w)
    out[0] = np.zeros((len(want[0]) + 1, 5), np.float32)
    with pytest.raises(InputError, match="out for 'detections' has shape"):
        engine.run(feeds, out=out)


def test_what_depends_on_data_can_be_refused() -> None:
    with pytest.raises(UnsupportedNodesError, match="NonMaxSuppression.*depends on the data"):
        import_onnx(detector(), dynamic=False)
    with pytest.raises(UnsupportedNodesError, match="Reshape") as e:
        import_onnx(SHAPES["reshape"][0](), dynamic=False)
    assert e.value.problems[0].needs == ("s",)
