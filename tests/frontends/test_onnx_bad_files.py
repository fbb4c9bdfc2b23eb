"""Damaged and adversarial ONNX files: each ends in a TemperError that says what and where."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from temper.errors import ModelError, ShapeError, TemperError, UnsupportedError, VerificationError
from temper.frontends.onnx import import_onnx
from temper.frontends.onnx.problems import UnsupportedNodesError
from tests.frontends.models import FLOAT, INPUT, NODE, model


def small() -> ModelProto:
    """Conv, Relu, Add, Mul on one image; weights in raw and typed fields."""
    rng = np.random.default_rng(0)
    proto = model(
        [
            NODE("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
            NODE("Relu", ["a"], ["b"], name="relu"),
            NODE("Add", ["b", "s"], ["c"], name="add"),
            NODE("Mul", ["c", "k"], ["y"], name="mul"),
        ],
        {"x": ["batch", 2, 5, 5]},
        constants={
            "w": rng.standard_normal((3, 2, 3, 3), np.float32),
            "s": rng.standard_normal((3, 1, 1), np.float32),
        },
    )
    proto.graph.initializer.append(helper.make_tensor("k", FLOAT, [1], [0.5]))
    return proto


def refused(proto: ModelProto, kind: type[TemperError], *words: str, **options: object) -> None:
    with pytest.raises(kind) as caught:
        import_onnx(proto.SerializeToString(), **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_the_small_model_is_legal() -> None:
    assert len(import_onnx(small()).nodes) == 4


# ---- the file ----


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothere\.onnx.*No such file"):
        import_onnx(tmp_path / "nothere.onnx")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        import_onnx(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.onnx.*empty"):
        import_onnx(path)


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n" * 9, b"PK\x03\x04" * 20, b"<html></html>", b"\xff" * 64, b"\0" * 64]
)
def test_other_files(data: bytes) -> None:
    with pytest.raises(ModelError):
        import_onnx(data)


def test_not_a_model() -> None:
    with pytest.raises(ModelError, match="not int"):
        import_onnx(3)


def test_truncated_at_every_byte() -> None:
    data = small().SerializeToString()
    for length in range(len(data)):
        with pytest.raises(TemperError):
            import_onnx(data[:length])


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes(seed: int) -> None:
    """Any damage is either harmless or a TemperError; other exceptions fail the test."""
    data = small().SerializeToString()
    rng = random.Random(seed)
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            import_onnx(bytes(damaged))
        except TemperError as e:
            assert str(e)


def varied() -> ModelProto:
    """Shape arithmetic, windows, slices and reductions, to be altered field by field."""
    nodes = [
        NODE("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2], dilations=[1, 1], group=1),
        NODE("MaxPool", ["a"], ["b"], name="pool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1),
        NODE("Pad", ["b", "pads"], ["c"], name="pad", mode="constant"),
        NODE("Slice", ["c", "starts", "ends", "axes"], ["d"], name="slice"),
        NODE("Shape", ["d"], ["shape"], name="shape"),
        NODE("Gather", ["shape", "index"], ["n"], name="gather", axis=0),
        NODE("Concat", ["n", "rest"], ["target"], name="concat", axis=0),
        NODE("Reshape", ["d", "target"], ["e"], name="reshape"),
        NODE("Split", ["e", "sizes"], ["f", "g"], name="split", axis=1),
        NODE("ReduceSum", ["g", "axes1"], ["h"], name="sum", keepdims=1),
        NODE("Mul", ["f", "h"], ["i"], name="mul"),
        NODE("Transpose", ["i"], ["j"], name="transpose", perm=[1, 0]),
        NODE("Softmax", ["j"], ["y"], name="softmax", axis=0),
    ]
    constants = {
        "w": np.ones((3, 2, 3, 3), np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
        "starts": np.array([0, 1]),
        "ends": np.array([2, 9]),
        "axes": np.array([1, 2]),
        "axes1": np.array([1]),
        "index": np.array([0]),
        "rest": np.array([-1]),
        "sizes": np.array([12, 12]),
    }
    return model(nodes, {"x": [2, 2, 6, 6]}, constants=constants)


@pytest.mark.parametrize("seed", range(10))
def test_altered_fields(seed: int) -> None:
    """Legal protobuf with absurd numbers: import or TemperError, quickly and without large allocations."""
    rng = random.Random(seed)
    absurd = (0, 1, -1, 2, -2, 7, 100, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**9)
    original = varied()
    assert len(import_onnx(original).nodes) == 10
    for _ in range(40):
        proto = ModelProto()
        proto.CopyFrom(original)
        for _ in range(rng.choice((1, 1, 2, 3))):
            node = rng.choice(proto.graph.node)
            match rng.randrange(4):
                case 0:
                    attributes = [a for a in node.attribute if a.ints] or [
                        a for n in proto.graph.node for a in n.attribute if a.ints
                    ]
                    attribute = rng.choice(attributes)
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(absurd)
                case 1:
                    tensor = rng.choice([t for t in proto.graph.initializer if t.data_type == TensorProto.INT64])
                    values = numpy_helper.to_array(tensor).copy()
                    values.reshape(-1)[rng.randrange(values.size)] = rng.choice(absurd)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
                case 2:
                    rng.choice(proto.graph.input[0].type.tensor_type.shape.dim).dim_value = rng.choice(absurd)
                case _:
                    node.input[rng.randrange(len(node.input))] = rng.choice(proto.graph.node).output[0]
        try:
            import_onnx(proto)
        except TemperError as e:
            assert not isinstance(e, VerificationError), str(e)


def test_name_that_is_not_text() -> None:
    data = small().SerializeToString().replace(b"relu", b"re\xff\xfe")
    with pytest.raises(ModelError, match="UTF-8"):
        import_onnx(data)


# ---- the graph ----


def test_cycle() -> None:
    proto = model(
        [
            NODE("Add", ["x", "c"], ["a"], name="first"),
            NODE("Relu", ["a"], ["c"], name="second"),
            NODE("Relu", ["c"], ["y"]),
        ],
        {"x": [1]},
    )
    refused(proto, ModelError, "cycle", "'first'", "'second'")


def test_node_that_reads_itself() -> None:
    refused(model([NODE("Relu", ["y"], ["y"], name="me")], {"x": [1]}), ModelError, "cycle", "'me'")


def test_missing_input() -> None:
    proto = model([NODE("Add", ["x", "ghost"], ["y"], name="add")], {"x": [1]})
    refused(proto, ModelError, "'ghost'", "'add'")


def test_output_nobody_defines() -> None:
    refused(model([NODE("Relu", ["x"], ["z"])], {"x": [1]}), ModelError, "output 'y'")


def test_no_outputs() -> None:
    refused(model([NODE("Relu", ["x"], ["z"])], {"x": [1]}, outputs=()), ModelError, "no outputs")


def test_output_listed_twice() -> None:
    refused(model([NODE("Relu", ["x"], ["y"])], {"x": [1]}, outputs=("y", "y")), ModelError, "'y' is listed twice")


def test_value_defined_twice() -> None:
    nodes = [NODE("Relu", ["x"], ["y"], name="one"), NODE("Neg", ["x"], ["y"], name="two")]
    refused(model(nodes, {"x": [1]}), ModelError, "'y'", "twice", "'two'")


def test_node_redefines_an_input() -> None:
    refused(
        model([NODE("Relu", ["x"], ["x"], name="n"), NODE("Relu", ["x"], ["y"])], {"x": [1]}),
        ModelError,
        "'x'",
        "twice",
    )


def test_duplicate_initializer() -> None:
    proto = small()
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, ModelError, "'w' is defined twice")


def test_duplicate_input() -> None:
    proto = small()
    proto.graph.input.append(proto.graph.input[0])
    refused(proto, ModelError, "'x'", "twice")


def test_nodes_out_of_order_are_sorted() -> None:
    proto = small()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert import_onnx(proto).hash() == import_onnx(small()).hash()


def test_no_graph() -> None:
    refused(ModelProto(ir_version=8, producer_name="nobody"), ModelError, "no graph")


# ---- opsets and domains ----


def test_opset_missing() -> None:
    proto = small()
    del proto.opset_import[:]
    refused(proto, ModelError, "opset_import is missing")


@pytest.mark.parametrize("op, attrs", [("Reshape", {"shape": [2, 2]}), ("Cast", {"to": "FLOAT"}), ("Selu", {})])
def test_early_version_that_differs(op: str, attrs: dict[str, Any]) -> None:
    proto = model([helper.make_node(op, ["x"], ["y"], **attrs)], {"x": [4]}, opset_imports=[helper.make_opsetid("", 1)])
    refused(proto, UnsupportedError, "opset 1", "version 1", "convert")


def test_early_version_that_does_not_differ() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], consumed_inputs=[0])
    graph = import_onnx(model([node], {"x": [4]}, opset_imports=[helper.make_opsetid("", 1)]))
    assert [n.op for n in graph.nodes] == ["Relu"]


def test_opset_too_new() -> None:
    proto = small()
    proto.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    refused(proto, UnsupportedError, "newer", "upgrade")


@pytest.mark.parametrize("version", [0, -3])
def test_opset_that_cannot_exist(version: int) -> None:
    proto = small()
    proto.opset_import[0].version = version
    refused(proto, ModelError, "opset version")


def test_opset_stated_twice() -> None:
    proto = small()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(proto, ModelError, "17", "13")


def test_all_unsupported_nodes_are_listed() -> None:
    nodes = [
        NODE("Frobnicate", ["x"], ["a"], name="n1", domain="com.example"),
        NODE("NonZero", ["x"], ["b"], name="n2"),
        NODE("NoSuchOp", ["x"], ["c"], name="n3"),
        NODE("Frobnicate", ["c"], ["d"], name="n4", domain="com.example"),
        NODE("Sum", ["a", "b", "d"], ["y"], name="fine"),
    ]
    proto = model(nodes, {"x": [4]}, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 2)])
    with pytest.raises(UnsupportedNodesError) as caught:
        import_onnx(proto, dynamic=False)
    assert {p.node for p in caught.value.problems} == {"n1", "n2", "n3", "n4"}
    assert {(p.domain, p.opset) for p in caught.value.problems if p.op == "Frobnicate"} == {("com.example", 2)}
    for word in ("Frobnicate", "'n1', 'n4'", "com.example", "NoSuchOp", "'n2'", "opset 17"):
        assert word in str(caught.value)


def test_domain_without_opset_import() -> None:
    proto = model([NODE("Gadget", ["x"], ["y"], name="g", domain="org.gadgets")], {"x": [1]})
    refused(proto, UnsupportedError, "org.gadgets", "'g'", "opset imports")


def test_nodes_no_output_needs_are_not_demanded() -> None:
    proto = model([NODE("Frobnicate", ["x"], ["z"], domain="com.example"), NODE("Relu", ["x"], ["y"])], {"x": [1]})
    assert [n.op for n in import_onnx(proto).nodes] == ["Relu"]


# ---- nodes: counts, attributes, types ----


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (NODE("Add", ["x"], ["y"], name="n"), ("'n'", "1 inputs")),
        (NODE("Relu", ["x"], ["y", "z"], name="n"), ("'n'", "2 outputs")),
        (NODE("Add", ["x", ""], ["y"], name="n"), ("'n'", "input 1", "empty")),
        (NODE("Relu", ["x"], ["y"], name="n", alpha=2.0), ("'n'", "alpha")),
        (NODE("LeakyRelu", ["x"], ["y"], name="n", alpha="much"), ("'n'", "alpha", "FLOAT")),
        (NODE("Cast", ["x"], ["y"], name="n"), ("'n'", "'to'", "missing")),
        (NODE("Cast", ["x"], ["y"], name="n", to=99), ("'n'", "'to'", "99")),
        (NODE("Concat", ["x", "x"], ["y"], name="n"), ("'n'", "axis")),
    ],
)
def test_malformed_node(node: onnx.NodeProto, words: tuple[str, ...]) -> None:
    refused(model([node], {"x": [4]}), ModelError, *words)


def test_attribute_stated_twice() -> None:
    node = NODE("LeakyRelu", ["x"], ["y"], name="n", alpha=0.5)
    node.attribute.append(node.attribute[0])
    refused(model([node], {"x": [4]}), ModelError, "'n'", "alpha", "twice")


def test_attribute_without_its_field() -> None:
    node = NODE("LeakyRelu", ["x"], ["y"], name="n", alpha=0.5)
    node.attribute[0].ints.extend([1, 2])
    refused(model([node], {"x": [4]}), ModelError, "'n'", "alpha", "ints")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (NODE("Add", ["x", "i"], ["y"], name="n"), ("'n'", "input 1", "int64", "float32")),
        (NODE("Sigmoid", ["i"], ["y"], name="n"), ("'n'", "input 0", "int64")),
        (NODE("Add", ["x", "v"], ["y"], name="n"), ("'n'", "broadcast")),
        (NODE("Concat", ["x", "v"], ["y"], name="n", axis=3), ("'n'", "axis 3")),
        (NODE("Transpose", ["x"], ["y"], name="n", perm=[0, 0]), ("'n'", "perm")),
        (NODE("Reshape", ["x", "i"], ["y"], name="n"), ("'n'",)),
        (NODE("MatMul", ["x", "v"], ["y"], name="n"), ("'n'", "4")),
        (NODE("Softmax", ["x"], ["y"], name="n", axis=7), ("'n'", "axis 7")),
        (NODE("Conv", ["x", "x"], ["y"], name="n"), ("'n'",)),
        (NODE("Conv", ["image", "w"], ["y"], name="n"), ("'n'", "channels")),
        (NODE("Conv", ["image", "w"], ["y"], name="n", strides=[0, 1]), ("'n'", "strides")),
        (NODE("Conv", ["image", "w"], ["y"], name="n", kernel_shape=[2, 2]), ("'n'", "kernel_shape")),
        (NODE("Conv", ["image", "w"], ["y"], name="n", pads=[1, 1]), ("'n'", "pads")),
    ],
)
def test_operands_that_do_not_fit(node: onnx.NodeProto, words: tuple[str, ...]) -> None:
    constants = {"i": np.array([5, 7]), "v": np.zeros(5, np.float32), "w": np.zeros((4, 3, 3, 3), np.float32)}
    proto = model([node], {"x": [3, 4], "image": [1, 2, 8, 8]}, constants=constants)
    refused(proto, ShapeError, *words)


@pytest.mark.parametrize("op", ["MaxPool", "Conv"])
def test_absurd_padding_of_constants_is_not_computed(op: str) -> None:
    far = 2**31 - 1
    attrs = {"pads": [far, far, far, far], "strides": [far, far]}
    nodes = [
        NODE("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], **attrs)
        if op == "MaxPool"
        else NODE("Conv", ["c", "c"], ["p"], **attrs),
        NODE("Add", ["x", "p"], ["y"]),
    ]
    proto = model(nodes, {"x": [1]}, constants={"c": np.ones((1, 1, 2, 2), np.float32)})
    assert [n.op for n in import_onnx(proto).nodes] == [op, "Add"]


def test_negative_result_size() -> None:
    node = NODE("Resize", ["x", "", "", "s"], ["y"], name="n")
    proto = model([node], {"x": [1, 1, 2, 2]}, constants={"s": np.array([1, 1, -2, 2])})
    refused(proto, ShapeError, "'n'", "-2")


# ---- tensors ----


def with_tensor(change: Callable[[TensorProto], None]) -> ModelProto:
    """Adds a constant [2, 3] in raw data that `change` has damaged."""
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "bad")
    change(tensor)
    proto = model([NODE("Add", ["x", "bad"], ["y"], name="add")], {"x": [2, 3]})
    proto.graph.initializer.append(tensor)
    return proto


def _typed(t: TensorProto) -> None:
    t.float_data.extend([1.0] * 6)


def _typed_only(t: TensorProto) -> None:
    t.ClearField("raw_data")
    t.int64_data.extend([1] * 6)


def _short(t: TensorProto) -> None:
    t.ClearField("raw_data")
    t.float_data.extend([1.0] * 5)


def _dims(*dims: int) -> Callable[[TensorProto], None]:
    def change(t: TensorProto) -> None:
        del t.dims[:]
        t.dims.extend(dims)

    return change


def _set(**fields: object) -> Callable[[TensorProto], None]:
    def change(t: TensorProto) -> None:
        for name, value in fields.items():
            setattr(t, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_typed, "raw_data"),
        (_typed_only, "int64_data"),
        (_short, "5"),
        (_dims(2, 4), "32 bytes"),
        (_dims(2, 2), "16 bytes"),
        (_dims(-2, -3), "negative"),
        (_dims(1 << 40, 1 << 40), "bytes"),
        (_dims(0, 1 << 62, 1 << 62), "24"),
        (_dims(*[1] * 40), "40 dimensions"),
        (_set(data_type=0), "element type"),
        (_set(data_type=77), "77"),
        (_set(data_type=TensorProto.DOUBLE), "48 bytes"),
        (_set(data_type=TensorProto.STRING), "string"),
        (_set(raw_data=b""), "0"),
        (_set(data_location=TensorProto.EXTERNAL), "external"),
    ],
)
def test_damaged_tensor(change: Callable[[TensorProto], None], word: str) -> None:
    refused(with_tensor(change), ModelError, "'bad'", word)


def test_unsupported_element_type() -> None:
    refused(with_tensor(_set(data_type=TensorProto.FLOAT6E2M3)), UnsupportedError, "'bad'", "float6e2m3")


@pytest.mark.parametrize("dtype, bits", [("INT4", 4), ("UINT2", 2), ("FLOAT4E2M1", 4), ("FLOAT8E5M2", 8)])
def test_packed_tensor_of_another_length(dtype: str, bits: int) -> None:
    need = -(-5 * bits // 8)
    for given in (need - 1, need + 1):
        for how in ({"raw_data": b"\1" * given}, {"int32_data": [1] * given}):
            tensor = TensorProto(name="bad", data_type=TensorProto.DataType.Value(dtype), dims=[5], **how)
            proto = model([NODE("Cast", ["bad"], ["y"], to=1)], {})
            proto.graph.initializer.append(tensor)
            refused(proto, ModelError, "'bad'", f"{need} bytes")


def test_packed_byte_out_of_range() -> None:
    tensor = TensorProto(name="bad", data_type=TensorProto.INT4, dims=[3], int32_data=[1, 256])
    proto = model([NODE("Cast", ["bad"], ["y"], to=1)], {})
    proto.graph.initializer.append(tensor)
    refused(proto, ModelError, "'bad'", "int32_data")


def test_empty_tensor_with_overflowing_dimensions() -> None:
    refused(with_tensor(lambda t: (_dims(0, 1 << 62, 1 << 62)(t), t.ClearField("raw_data"))), ModelError, "too large")


def test_values_outside_the_type() -> None:
    tensor = TensorProto(name="bad", data_type=TensorProto.INT8, dims=[2], int32_data=[1, 300])
    proto = model([NODE("Add", ["x", "bad"], ["y"])], {"x": (np.int8, [2])})
    proto.graph.initializer.append(tensor)
    refused(proto, ModelError, "'bad'", "range of int8")


def test_absurd_sparse_size() -> None:
    proto = small()
    values = helper.make_tensor("huge", FLOAT, [1], [1.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 50]))
    refused(proto, UnsupportedError, "'huge'", "too many")


@pytest.mark.parametrize("at", [-1, 6])
def test_sparse_index_outside(at: int) -> None:
    proto = small()
    values = helper.make_tensor("s", FLOAT, [1], [1.0])
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [at]), [2, 3])
    )
    proto.graph.initializer.remove(proto.graph.initializer[1])
    refused(proto, ModelError, "'s'", "outside")


# ---- inputs ----


def _input(dims: list[object]) -> ModelProto:
    return model([NODE("Relu", ["x"], ["y"])], {"x": dims})


def test_negative_input_dimension() -> None:
    refused(_input([-1, 3]), ModelError, "'x'", "dimension 0", "-1")


def test_huge_input_dimensions_allocate_nothing() -> None:
    graph = import_onnx(_input([1 << 40, 1 << 40, 3]))
    assert graph.inputs[0].type.count == 3 << 80


def test_input_without_shape() -> None:
    proto = _input([1])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refused(proto, UnsupportedError, "'x'", "shapes=")
    assert import_onnx(proto, shapes={"x": (2, "n")}).inputs[0].type.rank == 2


def test_input_without_type() -> None:
    proto = _input([1])
    proto.graph.input[0].ClearField("type")
    refused(proto, ModelError, "'x'", "no type")


def test_sequence_input() -> None:
    proto = _input([1])
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = FLOAT
    refused(proto, UnsupportedError, "'x'", "is a sequence", dynamic=False)
    refused(proto, UnsupportedError, "'y'", "input 0 is a sequence")


def test_shape_for_an_unknown_input() -> None:
    refused(_input([1]), ModelError, "'z'", "'x'", shapes={"z": (1,)})


def test_value_info_that_contradicts() -> None:
    proto = small()
    proto.graph.value_info.append(INPUT("b", FLOAT, ["batch", 4, 5, 5]))
    refused(proto, ModelError, "'b'", "4")
    assert len(import_onnx(proto, check_value_info=False).nodes) == 4
    proto.graph.value_info[0].CopyFrom(INPUT("b", TensorProto.INT64, None))
    refused(proto, ModelError, "'b'", "int64")


# ---- external data ----


def external(folder: Path, *, location: str = "weights.bin", **entries: object) -> Path:
    """A model whose constant of 24 bytes is in another file; the 32 bytes of weights.bin hold 0, 1, .. 7."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    proto = model([NODE("Add", ["x", "w"], ["y"], name="add")], {"x": [2, 3]})
    proto.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(np.arange(8, dtype="<f4").tobytes())
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    graph = import_onnx(external(tmp_path, offset=8, length=24))
    (w,) = graph.constants
    assert w.const is not None and w.const.tolist() == [[2, 3, 4], [5, 6, 7]]


def test_external_data_in_a_subfolder(tmp_path: Path) -> None:
    path = external(tmp_path, location="sub/w.bin")
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "sub" / "w.bin")
    assert import_onnx(path).constants[0].const is not None


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"location": "../weights.bin"}, "'..'"),
        ({"location": "a/../../weights.bin"}, "'..'"),
        ({"location": "..\\weights.bin"}, "'..'"),
        ({"location": "/etc/passwd"}, "absolute"),
        ({"location": "C:\\weights.bin"}, "absolute"),
        ({"location": ""}, "names no file"),
        ({"location": "a\0b"}, "names no file"),
        ({"location": "nothere.bin"}, "cannot be read"),
        ({"location": "."}, "names no file"),
        ({"location": "x" * 5000}, "cannot be read"),
        ({"offset": 16}, "which has 32"),
        ({"offset": 1 << 62}, "which has 32"),
        ({"offset": -8}, "'-8'"),
        ({"length": -24}, "'-24'"),
        ({"offset": "eight"}, "'eight'"),
        ({"offset": "9" * 4000}, "not a non-negative number"),
        ({"length": 25}, "25"),
        ({"length": 1 << 60}, "24 bytes"),
        ({"checksum": "0" * 40}, "SHA-1"),
    ],
)
def test_external_data_refused(tmp_path: Path, entries: dict[str, object], word: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    path = external(tmp_path / "model", **entries)
    with pytest.raises(ModelError) as caught:
        import_onnx(path)
    assert word in str(caught.value) and "'w'" in str(caught.value)


def test_external_data_through_a_symbolic_link(tmp_path: Path) -> None:
    outside = tmp_path / "secret.bin"
    outside.write_bytes(b"\0" * 64)
    path = external(tmp_path / "model", location="link.bin")
    (tmp_path / "model" / "link.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="symbolic link"):
        import_onnx(path)


def test_external_data_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.bin").write_bytes(b"\0" * 64)
    path = external(tmp_path / "model", location="sub/w.bin")
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ModelError, match="symbolic link"):
        import_onnx(path)


def test_external_data_through_a_hard_link(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    path = external(tmp_path / "model", location="hard.bin")
    os.link(tmp_path / "secret.bin", tmp_path / "model" / "hard.bin")
    with pytest.raises(ModelError, match="2 hard links"):
        import_onnx(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_external_data_in_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = external(tmp_path / "model", location="pipe")
    os.mkfifo(tmp_path / "model" / "pipe")
    with pytest.raises(ModelError, match="regular file"):
        import_onnx(path)


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    data = external(tmp_path).read_bytes()
    with pytest.raises(ModelError, match="folder="):
        import_onnx(data)
    assert import_onnx(data, folder=tmp_path).constants


# ---- functions ----


def _function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(
        "local", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    )


def _with_functions(*functions: onnx.FunctionProto) -> ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    node = NODE("F0", ["x"], ["y"], name="call", domain="local")
    return model([node], {"x": [4]}, opset_imports=imports, functions=list(functions))


def test_function_that_calls_itself() -> None:
    refused(
        _with_functions(_function("F0", [NODE("F0", ["a"], ["b"], domain="local")])), ModelError, "calls itself", "F0"
    )


def test_functions_that_call_each_other() -> None:
    first = _function("F0", [NODE("F1", ["a"], ["b"], domain="local")])
    second = _function("F1", [NODE("F0", ["a"], ["b"], domain="local")])
    refused(_with_functions(first, second), ModelError, "calls itself")


def test_functions_that_multiply_without_end() -> None:
    """30 levels, each calling the next ten times: 10**30 nodes, were they all inlined."""
    levels = 30
    functions = []
    for k in range(levels):
        calls = [
            NODE(f"F{k + 1}", [f"v{i}" if i else "a"], [f"v{i + 1}" if i < 9 else "b"], domain="local")
            for i in range(10)
        ]
        functions.append(_function(f"F{k}", calls))
    functions.append(_function(f"F{levels}", [NODE("Relu", ["a"], ["b"])]))
    refused(_with_functions(*functions), ModelError, "after inlining")


def test_function_nested_too_deep() -> None:
    functions = [_function(f"F{k}", [NODE(f"F{k + 1}", ["a"], ["b"], domain="local")]) for k in range(500)]
    functions.append(_function("F500", [NODE("Relu", ["a"], ["b"])]))
    refused(_with_functions(*functions), ModelError, "deep")
