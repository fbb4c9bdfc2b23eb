"""Checks a candidate once against the numpy reference, with guard bytes around its buffers, before it may be timed.

The error bound of the anchor is the standard one of a dot product computed in float32 (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., section 3.1): |got - want| <= gamma(K) * (|x| * |w|), with
gamma(K) = eps * (2 sqrt(K) + 8), the probabilistic form for K independent roundings (Higham and Mary 2019), times a
tactic's stated error factor (Winograd). It is carried through the epilogue by evaluating the epilogue at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from temper.dtypes import CODED, NARROW_INTS, storage
from temper.ir.dims import evaluate
from temper.ir.evaluate import bind_attr
from temper.ir.opdef import Attrs
from temper.ir.types import TensorType
from temper.reference import REFERENCES, run
from temper.reference.formats import encode, numbers, range_of
from temper.reference.numeric import float32_to_bfloat16
from temper.tactics.base import Workload, chained
from temper.tactics.epilogue_reference import epilogue_reference
from temper.tune.program_bounds import as_numbers, difference, integer_bounds, program_bounds
from temper.tune.recurrent_bounds import recurrent_bounds
from temper.tune.rows import cut_inputs, cut_operands, picked_rows

Arrays = Sequence["np.ndarray | None"]

_EPS = float(np.finfo(np.float32).eps)

#: Relative error of a product of two float32 numbers cut to TF32, whose mantissa has 10 bits.
_TF32 = 2 * 2.0**-10
#: The same for sums of products of 8-bit floats: a GPU's tensor cores add 32 of them to a sum of 14 bits at a time.
_SUMS8 = 2.0**-10

#: What rounding to a half changes of a number, relatively.
_HALVES = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Problem:
    """Concrete data for a workload: anchor inputs, epilogue operands (index 0 is None with an anchor), wanted outputs
    and bounds.

    rows: indices of the first axis that `want` and `bounds` are of; None for all of them. size: of that axis.
    """

    env: Mapping[str, int]
    inputs: tuple[np.ndarray | None, ...]
    operands: tuple[np.ndarray | None, ...]
    want: tuple[np.ndarray, ...]
    bounds: tuple[np.ndarray, ...]
    rows: np.ndarray | None = None
    size: int = 0

    def whole(self) -> list[np.ndarray]:
        """Arrays of whole outputs' shapes and types."""
        if self.rows is None:
            return list(self.want)
        return [np.broadcast_to(y[:1], (self.size, *y.shape[1:])) for y in self.want]


#: Elements of random data that are made; longer arrays repeat them. It is a prime number, so that no stride through an
#: array meets the same ones again soon.
_DRAWN = 4_000_037


def sample(t: TensorType, env: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Random data of a type: normal floats, small integers."""
    shape = tuple(evaluate(d, env) for d in t.shape)
    if (count := int(np.prod(shape, dtype=np.int64))) > _DRAWN:
        return np.resize(sample(TensorType(t.dtype, (_DRAWN,)), env, rng), count).reshape(shape)
    if t.dtype == "bool":
        return rng.random(shape) < 0.5
    if t.dtype in CODED:
        return encode(rng.standard_normal(shape, np.float32), t.dtype)
    if t.dtype in NARROW_INTS:
        low, high = range_of(t.dtype)
        return rng.integers(low, high, shape, endpoint=True).astype(storage(t.dtype))
    if t.dtype in ("int8", "uint8"):
        return rng.integers(0, 256, shape, np.uint8).view(t.dtype)
    if t.dtype.startswith(("int", "uint")):
        return rng.integers(0, 2, shape).astype(t.dtype)
    normal = rng.standard_normal(shape, np.float32)
    return float32_to_bfloat16(normal) if t.dtype == "bfloat16" else normal.astype(t.dtype)


#: ops whose kernels compute in double, in any order
_DOUBLE = frozenset(
    {"CumSum", "CumProd", "Einsum", "GridSample", "DFT", "Det", "Col2Im", "DeformConv", "RoiAlign", "MaxRoiPool"}
)

#: ops whose second operand holds positions in the first
_INDEXED = frozenset({"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"})


def _indices(w: Workload, t: TensorType, env: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Random legal indices."""
    assert w.inputs[0] is not None
    sizes, shape = (tuple(evaluate(d, env) for d in x.shape) for x in (w.inputs[0].type, t))
    if w.op.endswith("ND"):
        batch = int(str(w.attr("batch_dims", 0)))
        limit: int | np.ndarray = np.array(sizes[batch : batch + shape[-1]])
    else:
        limit = sizes[int(str(w.attr("axis", 0)))]
    return rng.integers(0, np.maximum(limit, 1), shape).astype(t.dtype)


def _lengths(w: Workload, t: TensorType, env: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Random numbers of steps."""
    assert w.inputs[0] is not None
    steps = evaluate(w.inputs[0].type.shape[1 if w.attr("batch_first", 0) else 0], env)
    return rng.integers(0, steps + 1, tuple(evaluate(d, env) for d in t.shape)).astype(t.dtype)


def _regions(w: Workload, i: int, t: TensorType, env: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Random regions of images, or the numbers of the images they are in."""
    assert w.inputs[0] is not None
    images, _, height, width = (evaluate(d, env) for d in w.inputs[0].type.shape)
    shape = tuple(evaluate(d, env) for d in t.shape)
    if i == 2:
        return rng.integers(0, max(images, 1), shape)
    rois = rng.uniform(0, max(height, width) / float(str(w.attr("spatial_scale"))), shape)
    if w.op == "MaxRoiPool":
        rois[:, 0] = rng.integers(0, max(images, 1), shape[0])
    return rois.astype(t.dtype)


def reduction_length(w: Workload, env: Mapping[str, int]) -> int:
    """How many terms one output element sums."""
    if w.op in ("Conv", "ConvInt8", "ConvTranspose", "ConvBfloat16") and w.inputs[1] is not None:
        count = evaluate(w.inputs[1].type.count, env)
        out = w.inputs[1].type.shape[-1] if w.attr("channels_last", 0) else w.inputs[1].type.shape[0]
        return max(1, count // max(1, evaluate(out, env)))
    if w.op in ("MatMul", "MatMulInt8", "MatMulBfloat16") and w.inputs[0] is not None:
        return evaluate(w.inputs[0].type.shape[-2 if w.attr("transA", 0) else -1], env)
    if w.links:
        return sum(reduction_length(link, env) for link in w.links)
    if w.inputs and w.inputs[0] is not None:
        return max(1, evaluate(w.inputs[0].type.count, env) // max(1, evaluate(w.outputs[0].type.count, env)))
    return 1


#: What a step of a program costs the reference for an element, in multiplications of a product of matrices.
_STEP = 16


def _effort(w: Workload, env: Mapping[str, int]) -> int:
    """Multiplications, or steps worth as many, that the reference takes for an element of the result."""
    programs = [w.epilogue, *(link.epilogue for link in w.links[:-1])]
    steps = sum(1 + len(p.instrs) for p in programs)
    seen = sum(i.dtype.startswith(("float", "bfloat")) for i in w.epilogue.instrs)  # each is moved to see what it moves
    return reduction_length(w, env) + _STEP * steps * (1 + seen)


def make_problem(
    w: Workload,
    constants: Mapping[int, np.ndarray],
    env: Mapping[str, int],
    seed: int = 0,
    operand_constants: Mapping[int, np.ndarray] | None = None,
    most: float = math.inf,
) -> Problem:
    """Random inputs (constants as given), the reference's outputs, and the elementwise error bounds. most: about how
    many multiplications the reference may take: of a larger workload it computes some indices of the first axis."""
    rng = np.random.default_rng(seed)
    inputs = tuple(
        None
        if s is None
        else constants[i]
        if i in constants
        else _indices(w, s.type, env, rng)
        if i == 1 and w.op in _INDEXED
        else _lengths(w, s.type, env, rng)
        if i == 3 and w.op == "Recurrence"
        else _regions(w, i, s.type, env, rng)
        if i > 0 and w.op in ("RoiAlign", "MaxRoiPool")
        else sample(s.type, env, rng)
        for i, s in enumerate(w.inputs)
    )
    out_shape = tuple(evaluate(d, env) for d in w.outputs[0].type.shape)
    operands: list[np.ndarray | None] = []
    for i, o in enumerate(w.epilogue.operands):
        if i == 0 and w.op != "Pointwise":
            operands.append(None)
        elif operand_constants is not None and i in operand_constants:
            operands.append(operand_constants[i])
        else:
            shape = tuple(d if m else 1 for d, m in zip(out_shape, o.mask, strict=True))
            operands.append(sample(TensorType(o.dtype, shape), env, rng))
    rows = picked_rows(w, inputs, env, _effort(w, env), most)
    if rows is None:
        return _answered(w, env, inputs, operands)
    cut = cut_operands(operands, rows, out_shape[0], len(out_shape))
    part = _answered(w, env, cut_inputs(w, inputs, rows, out_shape[0]), list(cut))
    return replace(part, inputs=inputs, operands=tuple(operands), rows=rows, size=out_shape[0])


def _answered(
    w: Workload, env: Mapping[str, int], inputs: tuple[np.ndarray | None, ...], operands: list[np.ndarray | None]
) -> Problem:
    """The problem with the reference's outputs and their bounds."""
    if w.op == "Pointwise":
        want = tuple(epilogue_reference(w.epilogue, operands))
        return Problem(env, inputs, tuple(operands), want, tuple(program_bounds(w, operands, want)))
    attrs = {k: bind_attr(v, env) for k, v in w.attrs}
    wide = widened_inputs(w, inputs)
    results = _anchor(w, wide, attrs)
    if w.op == "Recurrence":
        return Problem(env, inputs, tuple(operands), tuple(results), recurrent_bounds(wide, attrs, results))
    if len(results) == 1 and results[0].dtype.kind in "iub" and w.epilogue.instrs:
        coded: list[np.ndarray | None] = [results[0], *operands[1:]]
        want = tuple(epilogue_reference(w.epilogue, coded))
        allowed = tuple(integer_bounds(w, coded, want))
        if len(w.outputs) > len(want):  # of a chain that keeps what its last link reads
            kept = _last_inputs(w, wide)[0]
            assert kept is not None
            want, allowed = (*want, kept), (*allowed, np.zeros(()))
        return Problem(env, inputs, (None, *operands[1:]), want, allowed)
    if len(results) > 1 or results[0].dtype not in (np.float32, np.float64):
        return Problem(env, inputs, tuple(operands), tuple(results), tuple(np.zeros((), np.float64) for _ in results))
    acc = results[0]
    if acc.dtype == np.float64:
        slack = np.finfo(np.float64).eps * (2 * np.sqrt(reduction_length(w, env)) + 64) * _extent(acc)
    elif w.op in ("Conv", "ConvTranspose", "MatMul", "ConvBfloat16", "MatMulBfloat16"):
        slack = _product_slack(w, wide, env)
    elif w.op == "SqueezeExcite":
        slack = _gates_slack(wide, attrs, acc, 2 * _TF32 * w.tf32)
    elif w.links and w.links[-1].op == "MaxPool":
        slack = _pooled_slack(w, wide, acc)
    elif w.links and w.links[-1].op == "Conv":
        slack = _product_slack(w.links[-1], _last_inputs(w, wide), env)
    elif w.links:
        # of a chain what the last link is off by, and what its data is: rounded to the next narrow float, behind steps
        # that need not be exact
        last = w.links[-1]
        read, given = _last_inputs(w, wide), dict(last.attrs)
        assert last.inputs[0] is not None
        slack = _gates_slack(read, given, acc, rounded=2 * _HALVES.get(last.inputs[0].type.dtype, 8 * _EPS))
        slack = slack + 16 * _EPS * _extent(acc)
    elif w.op == "Attention":
        values = w.inputs[2].type.dtype if 2 in w.widened and w.inputs[2] is not None else "float32"
        slack = attention_slack(wide, attrs, _TF32 * w.tf32, _HALVES.get(values, 0.0))
    elif w.op.startswith("Reduce") or w.op in (
        "AveragePool",
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "RMSNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LpPool",
        "Resize",
    ):
        slack = _EPS * (2 * np.sqrt(reduction_length(w, env)) + 16) * (np.abs(acc.astype(np.float64)) + 1)
    elif w.op in _DOUBLE:
        slack = 4 * _EPS * np.abs(acc.astype(np.float64)) + 1e-9 * _extent(acc)
    else:
        slack = 4 * _EPS * np.abs(acc.astype(np.float64))
    slack = np.where(np.isfinite(acc), slack, 0.0)  # an infinity moved by an infinity is not a number
    want = tuple(epilogue_reference(w.epilogue, [acc, *operands[1:]]))
    inner = program_bounds(w, [acc, *operands[1:]], want)
    ends = [
        [as_numbers(y, w.epilogue.dtype_of(r)) for y, r in zip(found, w.epilogue.results, strict=True)]
        for found in (
            epilogue_reference(w.epilogue, [(acc + d).astype(acc.dtype), *operands[1:]]) for d in (-slack, 0, slack)
        )
    ]
    bounds = [
        2 * np.maximum(difference(high, mid), difference(low, mid)) + own
        for low, mid, high, own in zip(*ends, inner, strict=True)
    ]
    return Problem(env, inputs, tuple(operands), want, tuple(bounds))


def _product_slack(w: Workload, inputs: Arrays, env: Mapping[str, int]) -> np.ndarray:
    """Error bound of a product's sums. inputs: widened."""
    attrs = {k: bind_attr(v, env) for k, v in w.attrs}
    size = _anchor(w, [None if x is None else _magnitude(x) for x in inputs], attrs)[0].astype(np.float64)
    coarse = _TF32 * w.tf32 + _SUMS8 * any(s is not None and s.type.dtype.startswith("float8") for s in w.inputs)
    slack: np.ndarray = (_EPS * (2 * np.sqrt(reduction_length(w, env)) + 8) + coarse) * size
    return slack


def _pooled_slack(w: Workload, inputs: Arrays, acc: np.ndarray) -> np.ndarray:
    """What the maximum of a product's results moves by where its sums move by their error bound: what lies between
    never falls where they rise."""
    data, operands = _link_inputs(w, inputs, len(w.links) - 2)
    product = w.links[-2]
    (sums,) = _anchor(product, data, {k: bind_attr(v, {}) for k, v in product.attrs})
    slack = _product_slack(product, data, {})
    pool = w.links[-1]
    ends = []
    for d in (-slack, slack):
        (y,) = epilogue_reference(product.epilogue, [(sums + d).astype(np.float32), *operands])
        (end,) = _anchor(pool, widened_inputs(pool, [y]), {k: bind_attr(v, {}) for k, v in pool.attrs})
        ends.append(np.abs(end.astype(np.float64) - acc))
    return np.maximum(*ends)


def _gates_slack(
    inputs: Arrays, attrs: Attrs, acc: np.ndarray, coarse: float = 0.0, rounded: float = 0.0
) -> np.ndarray:
    """Error bound of squeeze-excite. coarse: relative error of each product besides float32's; rounded: of its data,
    whose errors are as many as pixels and have either sign."""
    # activations and gates are no steeper than 1.2: the sums of magnitudes bound what rounding in either product
    # can move
    plain = {**attrs, "activation": "Relu", "gate": "Identity", "apply": 0}
    sizes = [None if x is None else np.abs(x) for x in inputs]
    size = REFERENCES["SqueezeExcite"](sizes, plain)[0].astype(np.float64)
    terms = sum(x.size for x in inputs[1:] if x is not None) ** 0.5
    assert inputs[0] is not None
    coarse += 4 * rounded * (size.size / inputs[0].size) ** 0.5
    slack: np.ndarray = 1.5 * (_EPS * (2 * np.sqrt(terms) + 16) + coarse) * (size + 1)
    if attrs.get("apply"):
        slack = slack * np.abs(inputs[0]) + (4 * _EPS + rounded) * np.abs(acc.astype(np.float64))
    return slack


def _magnitude(x: np.ndarray) -> np.ndarray:
    """|x| of floats, or of bfloat16 as its bits."""
    return x & np.uint16(0x7FFF) if x.dtype == np.uint16 else np.abs(x)


def _extent(y: np.ndarray) -> np.ndarray:
    """|y| plus the largest magnitude there is, at least 1: what cancels may have been that large."""
    size = np.abs(np.nan_to_num(y.astype(np.float64), posinf=0, neginf=0))
    extent: np.ndarray = size + max(1.0, float(size.max(initial=0)))
    return extent


def _anchor(w: Workload, inputs: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """What the anchor alone gives: of a chain, the last one."""
    if w.links:
        return _anchor(w.links[-1], _last_inputs(w, inputs), {k: bind_attr(v, {}) for k, v in w.links[-1].attrs})
    made = [s.type.dtype for s in w.outputs] if not w.epilogue.instrs else [w.epilogue.operands[0].dtype]
    read = [
        None if s is None else "float32" if i in w.widened else s.type.dtype for i, s in enumerate(w.inputs)
    ]
    return run(w.op, inputs, attrs, read, made)


def _last_inputs(w: Workload, inputs: Arrays) -> list[np.ndarray | None]:
    """What the last anchor of a chain computes with."""
    return _link_inputs(w, inputs, len(w.links) - 1)[0]


def _link_inputs(w: Workload, inputs: Arrays, last: int) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
    """What the anchor of a chain's link computes with, and the operands of its program from the second on."""
    data, given, behind = inputs[0], [], []
    for i, (link, (own, operands)) in enumerate(zip(w.links[: last + 1], chained(w), strict=False)):
        given = widened_inputs(link, [data, *(inputs[k] for k in own)])
        behind = [inputs[k] for k in operands]
        if i < last:
            (acc,) = _anchor(link, given, {k: bind_attr(v, {}) for k, v in link.attrs})
            (data,) = epilogue_reference(link.epilogue, [acc, *behind])
    return given, behind


def widened_inputs(w: Workload, inputs: Arrays) -> list[np.ndarray | None]:
    """What the anchor computes with: inputs that are stored narrower, as float32."""
    return [
        numbers(x, s.type.dtype).astype(np.float32) if x is not None and s is not None and i in w.widened else x
        for i, (x, s) in enumerate(zip(inputs, w.inputs, strict=True))
    ]


def attention_slack(
    inputs: Arrays, attrs: Mapping[str, Any], products: float = 0.0, weights: float = 0.0
) -> np.ndarray:
    """Error bound of attention: a score is off by gamma of its products, and moves its weight by as much relatively.
    products: relative error of each besides that of their sum. weights: of each weight, which is rounded to the type of
    the values where that is a half; the smallest of float16's are 2^-24."""
    q, k, v = inputs[:3]
    assert q is not None and k is not None and v is not None
    weighted = np.nan_to_num(REFERENCES["Attention"]([q, k, np.abs(v), *inputs[3:]], attrs)[0].astype(np.float64))
    width = int(q.shape[-1]) // (attrs["heads"] if attrs["layout"][0] == "r" else 1)
    keys = int(k.shape[1 if attrs["layout"][1] == "r" else 2])
    score = width * float(np.abs(q).max(initial=0)) * float(np.abs(k).max(initial=0)) * abs(attrs["scale"])
    shifted = max((float(np.abs(m[np.isfinite(m)]).max(initial=0)) for m in inputs[3:] if m is not None), default=0.0)
    gamma = _EPS * (4 * (2 * np.sqrt(width) + 8) * (score + shifted) + 2 * np.sqrt(keys) + 16)
    gamma += products * (4 * score + 1) + weights
    bound: np.ndarray = gamma * (weighted + 1e-3)
    if weights:
        bound += keys * 2.0**-25 * float(np.abs(v).max(initial=0))
    return bound


def mismatch(
    got: np.ndarray, want: np.ndarray, bound: np.ndarray, factor: float = 1.0, dtype: str = ""
) -> str | None:
    """None when within bounds (NaN equals NaN, infinities must agree); else where and by how much it is off.

    dtype: of the results, where numpy's does not tell.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"result is {got.dtype}{list(got.shape)}, the reference {want.dtype}{list(want.shape)}"
    if want.dtype.kind not in "fc" and np.array_equal(got, want):
        return None
    got, want = as_numbers(got, dtype), as_numbers(want, dtype)
    if want.dtype.kind not in "fc":
        error = difference(got, want)
        bad = (got != want) & ~((bound > 0) & (error <= bound))
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(got.astype(np.float64) - want.astype(np.float64))
            bad = ~((error <= factor * bound) | (got == want) | (np.isnan(got) & np.isnan(want)))
    if not bad.any():
        return None
    at = tuple(
        int(i) for i in np.unravel_index(int(np.argmax(np.where(bad, np.nan_to_num(error, nan=np.inf), -1))), bad.shape)
    )
    return f"{int(bad.sum())} of {bad.size} elements differ; worst at {at}: got {got[at]}, reference {want[at]}"
