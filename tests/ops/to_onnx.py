"""IR to ONNX: one node as a model that ONNX Runtime or onnx.reference can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from temper.ir.types import TensorType
from temper.reference.formats import ML_DTYPES

OPSET = 23
CODES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
    "uint32": TensorProto.UINT32,
    "int64": TensorProto.INT64,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8e5m2": TensorProto.FLOAT8E5M2,
    "float8e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "float8e8m0": TensorProto.FLOAT8E8M0,
    "float4e2m1": TensorProto.FLOAT4E2M1,
    "uint4": TensorProto.UINT4,
    "int4": TensorProto.INT4,
    "uint2": TensorProto.UINT2,
    "int2": TensorProto.INT2,
}
#: the opset that has an op, or a type, newer than OPSET
_NEWER = {"BitCast": 26, "float8e8m0": 24, "uint2": 25, "int2": 25}


@dataclass
class Export:
    """Nodes and initializers collected so far; names are made unique by counting."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"_{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attrs: Any) -> str:
        names = list(outputs) if outputs is not None else [self.name()]
        self.nodes.append(helper.make_node(op, inputs, names, **attrs))
        return names[0]


@dataclass(frozen=True)
class Site:
    """One IR node to be exported: operand and result names and types."""

    op: str
    attrs: Mapping[str, Any]
    inputs: list[str]
    outputs: list[str]
    types: list[TensorType | None]
    results: list[TensorType]

    def type(self, i: int) -> TensorType:
        t = self.types[i]
        assert t is not None
        return t

    def pick(self, *names: str) -> dict[str, Any]:
        return {n: self.attrs[n] for n in names if n in self.attrs}


Rule = Callable[[Export, Site], None]


def _plain(op: str = "", *attrs: str) -> Rule:
    """The same op with the named attributes."""

    def rule(e: Export, s: Site) -> None:
        e.emit(op or s.op, s.inputs, s.outputs, **s.pick(*attrs))

    return rule


def _with_operand(attr: str, *others: str) -> Rule:
    """An integer-list attribute becomes the second operand."""

    def rule(e: Export, s: Site) -> None:
        e.emit(s.op, [s.inputs[0], e.ints(s.attrs[attr])], s.outputs, **s.pick(*others))

    return rule


def _to_first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


def _to_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]


def _spatial(*attrs: str, weights: str = "") -> Rule:
    """Channels-last data and weights are transposed in, and the result back. weights: "conv" or "transposed"."""

    def rule(e: Export, s: Site) -> None:
        picked = s.pick(*attrs)
        if not s.attrs.get("channels_last"):
            e.emit(s.op, s.inputs, s.outputs, **picked)
            return
        rank = s.type(0).rank
        inputs = [e.emit("Transpose", [s.inputs[0]], perm=_to_first(rank)), *s.inputs[1:]]
        if weights:
            last = [rank - 1, rank - 2] if weights == "conv" else [rank - 2, rank - 1]
            inputs[1] = e.emit("Transpose", [s.inputs[1]], perm=[*last, *range(rank - 2)])
        y = e.emit(s.op, inputs, **picked)
        e.emit("Transpose", [y], s.outputs, perm=_to_last(rank))

    return rule


def _clip(e: Export, s: Site) -> None:
    dtype = np.dtype(s.type(0).dtype)
    bounds = [e.constant(np.array(s.attrs[n], dtype)) if n in s.attrs else "" for n in ("min", "max")]
    e.emit("Clip", [s.inputs[0], *bounds], s.outputs)


def _cast(e: Export, s: Site) -> None:
    e.emit("Cast", s.inputs, s.outputs, to=CODES[s.attrs["to"]], **s.pick("saturate", "round_mode"))


def _bit_cast(e: Export, s: Site) -> None:
    e.emit("BitCast", s.inputs, s.outputs, to=CODES[s.attrs["to"]])


def _silu(e: Export, s: Site) -> None:
    alpha = e.constant(np.array(s.attrs.get("alpha", 1.0), np.dtype(s.type(0).dtype)))
    gate = e.emit("Sigmoid", [e.emit("Mul", [s.inputs[0], alpha])])
    e.emit("Mul", [s.inputs[0], gate], s.outputs)


def _matmul(e: Export, s: Site) -> None:
    inputs = list(s.inputs)
    for i, attr in enumerate(("transA", "transB")):
        rank = s.type(i).rank
        if s.attrs.get(attr) and rank > 1:
            inputs[i] = e.emit("Transpose", [inputs[i]], perm=[*range(rank - 2), rank - 1, rank - 2])
    e.emit("MatMul", inputs, s.outputs)


def _split(e: Export, s: Site) -> None:
    e.emit("Split", [s.inputs[0], e.ints(s.attrs["sizes"])], s.outputs, axis=s.attrs["axis"])


def _slice(e: Export, s: Site) -> None:
    starts = s.attrs["starts"]
    axes, steps = s.attrs.get("axes") or tuple(range(len(starts))), s.attrs.get("steps") or (1,) * len(starts)
    e.emit("Slice", [s.inputs[0], *map(e.ints, (starts, s.attrs["ends"], axes, steps))], s.outputs)


def _pad(e: Export, s: Site) -> None:
    inputs = [s.inputs[0], e.ints(s.attrs["pads"])]
    if s.attrs.get("mode", "constant") == "constant":
        dtype = s.type(0).dtype
        kind = np.dtype(getattr(ml_dtypes, ML_DTYPES[dtype]) if dtype in ML_DTYPES else dtype)
        inputs.append(e.constant(np.array(s.attrs.get("value", 0)).astype(kind)))
    e.emit("Pad", inputs, s.outputs, mode=s.attrs.get("mode", "constant"))


def _trilu(e: Export, s: Site) -> None:
    e.emit("Trilu", [s.inputs[0], e.constant(np.array(s.attrs.get("k", 0), np.int64))], s.outputs, **s.pick("upper"))


def _one_hot(e: Export, s: Site) -> None:
    depth = e.constant(np.array(s.attrs["depth"], np.int64))
    e.emit("OneHot", [s.inputs[0], depth, s.inputs[1]], s.outputs, **s.pick("axis"))


def _resize(e: Export, s: Site) -> None:
    roi = e.constant(np.array(s.attrs["roi"], np.float32)) if "roi" in s.attrs else ""
    scales = e.constant(np.array(s.attrs["scales"], np.float32)) if "scales" in s.attrs else ""
    inputs = [s.inputs[0], roi, scales, *([e.ints(s.attrs["sizes"])] if "sizes" in s.attrs else [])]
    names = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside")
    e.emit("Resize", inputs, s.outputs, **s.pick(*names, "extrapolation_value", "antialias"))


def _run(e: Export, s: Site) -> None:
    axis = e.constant(np.array(s.attrs["axis"], np.int64))
    e.emit(s.op, [s.inputs[0], axis], s.outputs, **s.pick("exclusive", "reverse"))


def _reduce(e: Export, s: Site) -> None:
    axes = [s.inputs[0], e.ints(s.attrs["axes"])]
    e.emit(s.op, axes, s.outputs, keepdims=s.attrs.get("keepdims", 1), noop_with_empty_axes=1)


def _top_k(e: Export, s: Site) -> None:
    e.emit("TopK", [s.inputs[0], e.ints([s.attrs["k"]])], s.outputs, **s.pick("axis", "largest", "sorted"))


def _range(e: Export, s: Site) -> None:
    dtype = np.dtype(s.attrs.get("to", "int64"))
    e.emit("Range", [e.constant(np.array(s.attrs[n], dtype)) for n in ("start", "limit", "delta")], s.outputs)


def _constant_of_shape(e: Export, s: Site) -> None:
    value = np.array([s.attrs.get("value", 0)], np.dtype(s.attrs.get("to", "float32")))
    e.emit("ConstantOfShape", [e.ints(s.attrs["shape"])], s.outputs, value=numpy_helper.from_array(value))


def _non_max_suppression(e: Export, s: Site) -> None:
    inputs = [*s.inputs, e.ints([s.attrs.get("max_output_boxes_per_class", 0)])]
    inputs.append(e.constant(np.array([s.attrs.get("iou_threshold", 0.0)], np.float32)))
    if "score_threshold" in s.attrs:
        inputs.append(e.constant(np.array([s.attrs["score_threshold"]], np.float32)))
    e.emit("NonMaxSuppression", inputs, s.outputs, **s.pick("center_point_box"))


def _quantize(e: Export, s: Site) -> None:
    to = CODES[s.attrs["to"]] if s.attrs.get("to") and len(s.inputs) < 3 else 0
    e.emit("QuantizeLinear", s.inputs, s.outputs, output_dtype=to, **s.pick("axis", "block_size", "saturate"))


def _dequantize(e: Export, s: Site) -> None:
    to = {"output_dtype": CODES[s.attrs["to"]]} if s.attrs.get("to") else {}
    e.emit("DequantizeLinear", s.inputs, s.outputs, **to, **s.pick("axis", "block_size"))


def _reshape(e: Export, s: Site) -> None:
    shape = s.attrs["shape"]
    e.emit("Reshape", [s.inputs[0], e.ints(shape)], s.outputs, allowzero=int(0 in shape))


def _squeeze_excite(e: Export, s: Site) -> None:
    """The primitive ops the block stands for."""
    rank = s.type(0).rank
    x = s.inputs[0]
    if s.attrs["channels_last"]:
        x = e.emit("Transpose", [x], perm=(0, rank - 1, *range(1, rank - 1)))
    y = e.emit("ReduceMean", [x, e.ints(range(2, rank))], keepdims=0)
    biases = [*s.inputs, "", ""]
    for i, op in ((1, s.attrs["activation"]), (3, s.attrs["gate"])):
        y = e.emit("MatMul", [y, s.inputs[i]])
        if biases[i + 1]:
            y = e.emit("Add", [y, biases[i + 1]])
        if op == "Silu":
            y = e.emit("Mul", [y, e.emit("Sigmoid", [y])])
        else:
            more = {"alpha": s.attrs["gate_alpha"], "beta": s.attrs["gate_beta"]} if op == "HardSigmoid" else {}
            y = e.emit(op, [y], **more)
    shape = [int(str(d)) for d in s.results[0].shape]
    if s.attrs["apply"]:
        ones = [1] * (rank - 2)
        shape = [shape[0], *ones, shape[-1]] if s.attrs["channels_last"] else [*shape[:2], *ones]
        e.emit("Mul", [s.inputs[0], e.emit("Reshape", [y, e.ints(shape)])], s.outputs)
    else:
        e.emit("Reshape", [y, e.ints(shape)], s.outputs)


def _attention(e: Export, s: Site) -> None:
    """Products, softmax and the moves between rows and heads, as exporters write attention."""
    heads, groups, layout = s.attrs["heads"], s.attrs["kv_heads"], s.attrs["layout"]
    split: list[str] = []
    sizes: list[tuple[int, ...]] = []
    for i, n in enumerate((heads, groups, groups)):
        shape, x = tuple(int(str(d)) for d in s.type(i).shape), s.inputs[i]
        if layout[i] == "r":
            shape = (shape[0], shape[1], n, shape[2] // n)
            x = e.emit("Transpose", [e.emit("Reshape", [x, e.ints(shape)])], perm=(0, 2, 1, 3))
            shape = (shape[0], n, shape[1], shape[3])
        if n != heads:
            wide = (shape[0], n, heads // n, *shape[2:])
            x = e.emit("Expand", [e.emit("Unsqueeze", [x, e.ints((2,))]), e.ints(wide)])
            x = e.emit("Reshape", [x, e.ints((shape[0], heads, *shape[2:]))])
        split.append(x)
        sizes.append(shape)
    scores = e.emit("MatMul", [split[0], e.emit("Transpose", [split[1]], perm=(0, 1, 3, 2))])
    scores = e.emit("Mul", [scores, e.constant(np.asarray(s.attrs["scale"], np.float32))])
    if len(s.inputs) > 3:
        scores = e.emit("Add", [scores, s.inputs[3]])
    if s.attrs["causal"]:
        n, t = sizes[0][2], sizes[1][2]
        seen = np.arange(t) <= np.arange(n)[:, None] + (t - n)
        scores = e.emit("Add", [scores, e.constant(np.where(seen, 0, -np.inf).astype(np.float32))])
    p = e.emit("Softmax", [scores], axis=-1)
    if s.attrs["safe"]:
        p = e.emit("Where", [e.emit("IsNaN", [p]), e.constant(np.zeros((), np.float32)), p])
    if layout[3] == "h":
        e.emit("MatMul", [p, split[2]], s.outputs)
        return
    y = e.emit("Transpose", [e.emit("MatMul", [p, split[2]])], perm=(0, 2, 1, 3))
    e.emit("Reshape", [y, e.ints([int(str(d)) for d in s.results[0].shape])], s.outputs)


def _recurrence(e: Export, s: Site) -> None:
    """The whole layer with input weights that pick each direction's gates out of the operand."""
    cell, first = s.attrs["cell"], s.attrs["batch_first"]
    d, wide, hidden = (int(str(n)) for n in s.type(1).shape)
    x = e.emit("Transpose", [s.inputs[0]], perm=(1, 0, 2)) if first else s.inputs[0]
    pick = np.eye(d * wide, dtype=np.float32).reshape(d, wide, d * wide)
    given = [*s.inputs, *[""] * (7 - len(s.inputs))]
    bias = ""
    if given[2]:
        bias = e.emit("Concat", [e.constant(np.zeros((d, wide + 2 * hidden), np.float32)), given[2]], axis=1)
    states = [given[4], *([given[5], given[6]] if cell == "lstm" else [])]
    attrs = s.pick("direction", *(["linear_before_reset"] if cell == "gru" else []))
    if cell == "lstm":
        attrs["input_forget"] = s.attrs["input_forget"]
    if s.attrs["clip"]:
        attrs["clip"] = s.attrs["clip"]
    names, extra = s.attrs["activations"].split(), {}
    for k, takers in (("alpha", _TAKE_ALPHA), ("beta", _TAKE_BETA)):
        values = [v for n, v in zip(names, s.attrs[k], strict=True) if n in takers]
        if values:
            extra[f"activation_{k}"] = values
    inputs = [x, e.constant(pick), s.inputs[1], bias, given[3], *states]
    y = f"{s.outputs[0]}.layer"
    e.emit(cell.upper(), inputs, [y, *s.outputs[1:]], hidden_size=hidden, activations=names, **attrs, **extra)
    y = e.emit("Transpose", [y], perm=(2, 0, 1, 3) if first else (0, 2, 1, 3))
    e.emit("Reshape", [y, e.ints([int(str(n)) for n in s.results[0].shape])], s.outputs[:1])


_TAKE_ALPHA = frozenset({"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"})
_TAKE_BETA = frozenset({"Affine", "ScaledTanh", "HardSigmoid"})


def _int8(e: Export, s: Site) -> None:
    """The integer product with a zero point, and the bias added to it; weights beyond int8 as the sum of two."""
    dtype, rank = s.type(0).dtype, s.type(0).rank
    zero = s.inputs[3] if len(s.inputs) > 3 else e.constant(np.asarray(s.attrs["zero_point"], dtype))
    weights = [s.inputs[1]]
    if s.type(1).dtype == "int16":
        w = e.emit("Cast", weights, to=TensorProto.INT32)
        near = e.emit("Clip", [w, *(e.constant(np.array(n, np.int32)) for n in (-127, 127))])
        weights = [e.emit("Cast", [v], to=TensorProto.INT8) for v in (near, e.emit("Sub", [w, near]))]
    terms = list(s.inputs[2:3])
    for w in weights:
        if s.op == "MatMulInt8":
            terms.append(e.emit("MatMulInteger", [s.inputs[0], w, zero]))
            continue
        x = e.emit("Transpose", [s.inputs[0]], perm=_to_first(rank))
        w = e.emit("Transpose", [w], perm=(rank - 1, rank - 2, *range(rank - 2)))
        terms.append(e.emit("Transpose", [e.emit("ConvInteger", [x, w, zero], **s.pick(*_CONV))], perm=_to_last(rank)))
    while len(terms) > 2:
        terms[:2] = [e.emit("Add", terms[:2])]
    e.emit("Add" if len(terms) > 1 else "Identity", terms, s.outputs)


def _bfloat16(e: Export, s: Site) -> None:
    """The product of the widened operands."""
    wide = [e.emit("Cast", [v], to=TensorProto.FLOAT) for v in s.inputs[:2]]
    if s.op == "MatMulBfloat16":
        e.emit("MatMul", wide, s.outputs)
        return
    rank = s.type(0).rank
    x = e.emit("Transpose", [wide[0]], perm=_to_first(rank))
    w = e.emit("Transpose", [wide[1]], perm=(rank - 1, rank - 2, *range(rank - 2)))
    y = e.emit("Conv", [x, w, *s.inputs[2:]], **s.pick(*_CONV))
    e.emit("Transpose", [y], s.outputs, perm=_to_last(rank))


def _saturate(e: Export, s: Site) -> None:
    zero = e.constant(np.asarray(s.attrs["zero_point"], s.attrs["to"]))
    e.emit("QuantizeLinear", [s.inputs[0], e.constant(np.ones((), np.float32)), zero], s.outputs)


def _fake_quantize(e: Export, s: Site) -> None:
    x, scale, low = s.inputs
    code = e.emit("Round", [e.emit("Div", [x, scale])])
    high = e.emit("Add", [low, e.constant(np.array(255, np.float32))])
    back = e.emit("Mul", [e.emit("Min", [e.emit("Max", [code, low]), high]), scale])
    e.emit("Where", [e.emit("Greater", [scale, e.constant(np.zeros((), np.float32))]), back, x], s.outputs)


def _lookup(e: Export, s: Site) -> None:
    index = e.emit("Mod", [e.emit("Cast", [s.inputs[0]], to=TensorProto.INT32), e.constant(np.array(256, np.int32))])
    e.emit("Gather", [s.inputs[1], index], s.outputs)


def _dft(e: Export, s: Site) -> None:
    length, axis = (e.constant(np.array(s.attrs[n], np.int64)) for n in ("length", "axis"))
    e.emit("DFT", [s.inputs[0], length, axis], s.outputs, **s.pick("inverse", "onesided"))


def _col2im(e: Export, s: Site) -> None:
    shapes = (e.ints(s.attrs[n]) for n in ("image_shape", "block_shape"))
    e.emit("Col2Im", [s.inputs[0], *shapes], s.outputs, **s.pick("strides", "pads", "dilations"))


_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
_CONV = ("strides", "pads", "dilations", "group")
_RULES: Mapping[str, Rule] = {
    "Clip": _clip,
    "Cast": _cast,
    "BitCast": _bit_cast,
    "Silu": _silu,
    "SqueezeExcite": _squeeze_excite,
    "Attention": _attention,
    "Recurrence": _recurrence,
    "ConvBfloat16": _bfloat16,
    "MatMulBfloat16": _bfloat16,
    "ConvInt8": _int8,
    "MatMulInt8": _int8,
    "Saturate": _saturate,
    "Lookup": _lookup,
    "FakeQuantize": _fake_quantize,
    "MatMul": _matmul,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Trilu": _trilu,
    "OneHot": _one_hot,
    "Resize": _resize,
    "CumSum": _run,
    "CumProd": _run,
    "TopK": _top_k,
    "DFT": _dft,
    "Col2Im": _col2im,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "NonMaxSuppression": _non_max_suppression,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _spatial(*_CONV, weights="conv"),
    "ConvInteger": _spatial(*_CONV, weights="conv"),
    "ConvTranspose": _spatial(*_CONV, "output_padding", weights="transposed"),
    "MaxPool": _spatial(*_WINDOW),
    "MaxPoolIndices": _plain("MaxPool", *_WINDOW, "storage_order"),
    "AveragePool": _spatial(*_WINDOW, "count_include_pad"),
    "LpPool": _spatial(*_WINDOW, "p"),
    "BatchNormalization": _spatial("epsilon"),
    "InstanceNormalization": _spatial("epsilon"),
    "GroupNormalization": _spatial("epsilon", "num_groups"),
    "LRN": _spatial("size", "alpha", "beta", "bias"),
    "DepthToSpace": _spatial("blocksize", "mode"),
    "SpaceToDepth": _spatial("blocksize"),
    "LayerNormalization": _plain("", "axis", "epsilon"),
    "RMSNormalization": _plain("", "axis", "epsilon"),
    "Reshape": _reshape,
    "Expand": _with_operand("shape"),
    "Tile": _with_operand("repeats"),
    "Squeeze": _with_operand("axes"),
    "Unsqueeze": _with_operand("axes"),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"), _reduce
    ),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), _reduce),
}
#: attributes that only Temper has
_OURS = frozenset({"channels_last", "count"})


def export_node(e: Export, site: Site) -> None:
    """Appends the ONNX nodes of one IR node."""
    rule = _RULES.get(site.op)
    if rule is not None:
        rule(e, site)
    else:
        e.emit(
            site.op, site.inputs, site.outputs, **{k: v for k, v in site.attrs.items() if k not in _OURS and v != ()}
        )


#: ops whose newest version ONNX Runtime does not have
_OLDER = {"MaxRoiPool": 21}


def _model(e: Export, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    opset = min((_OLDER.get(n.op_type, OPSET) for n in e.nodes), default=OPSET)
    graph = helper.make_graph(e.nodes, "case", inputs, outputs, e.constants)
    codes = {CODES[name]: opset for name, opset in _NEWER.items() if name in CODES}
    types = [codes.get(v.type.tensor_type.elem_type, 0) for v in (*inputs, *outputs)]
    opset = max([opset, *types, *(_NEWER.get(n.op_type, 0) for n in e.nodes)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset < 25 else 13)


def _info(name: str, t: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, CODES[t.dtype], [d if isinstance(d, int) else str(d) for d in t.shape])


def node_model(
    op: str, attrs: Mapping[str, Any], types: Sequence[TensorType | None], results: Sequence[TensorType]
) -> onnx.ModelProto:
    """A model of one IR node: inputs x0, x1 .. (absent operands left out) and outputs y0, y1 .."""
    e = Export()
    names = ["" if t is None else f"x{i}" for i, t in enumerate(types)]
    outs = [f"y{i}" for i in range(len(results))]
    export_node(e, Site(op, attrs, names, outs, list(types), list(results)))
    infos = [_info(n, t) for n, t in zip(names, types, strict=True) if t is not None]
    return _model(e, infos, [_info(n, t) for n, t in zip(outs, results, strict=True)])
