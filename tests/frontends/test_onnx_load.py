"""A model that was read once is imported as often as it is needed, without reading its tensors again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.helper as oh
import onnx.numpy_helper as onp
from onnx import TensorProto

from temper.frontends.onnx import import_onnx
from temper.frontends.onnx.load import load_model, loaded
from tests.conftest import small_model


def test_imports_of_one_reading_are_equal_and_share_constants(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString())
    want, read = import_onnx(path), loaded(path)
    assert loaded(read) is read and load_model(read) == (read.proto, tmp_path.resolve(), "m.onnx")
    path.unlink()
    first, second = import_onnx(read), import_onnx(read)
    assert first.hash() == second.hash() == want.hash()
    pairs = [(a, b) for a, b in zip(first.values, second.values, strict=True) if a.name in read.tensors]
    assert len(pairs) > 5 and all(np.shares_memory(a.const, b.const) for a, b in pairs)  # type: ignore[arg-type]


def test_a_branch_has_initializers_of_its_own() -> None:
    """Both branches call theirs by one name."""

    def branch(name: str, value: float) -> TensorProto:
        node = oh.make_node("Add", ["x", "own"], [name])
        own = onp.from_array(np.full(4, value, np.float32), "own")
        return oh.make_graph([node], name, [], [oh.make_tensor_value_info(name, TensorProto.FLOAT, (4,))], [own])

    graph = oh.make_graph(
        [
            oh.make_node("Add", ["x", "other"], ["z"]),
            oh.make_node("If", ["c"], ["y"], then_branch=branch("a", 1.0), else_branch=branch("b", 2.0)),
        ],
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, (4,)), oh.make_tensor_value_info("c", TensorProto.BOOL, ())],
        [oh.make_tensor_value_info(n, TensorProto.FLOAT, (4,)) for n in ("y", "z")],
        [onp.from_array(np.full(4, 3.0, np.float32), "other")],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    read = loaded(model)
    assert import_onnx(read).hash() == import_onnx(read).hash() == import_onnx(model).hash()
    assert list(read.tensors) == ["other"]
