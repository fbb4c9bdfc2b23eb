"""References of elementwise ops.

Operations IEEE rounds correctly (add, multiply, divide, max ...) run in the operands' dtype, half precision in float32
and rounded; functions (exp, tanh, gelu ...) run in float64 and are rounded once. Integers wrap; division truncates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.dtypes import CODED, NARROW_INTS
from temper.reference.formats import encode, reinterpret, wrap
from temper.reference.numeric import (
    Arrays,
    Attrs,
    ReferenceFn,
    erf,
    erfc_negative,
    exact,
    float32_to_bfloat16,
    present,
    rounded_once,
    saturate,
)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Floats: IEEE; integers: toward zero (0 where the divisor is 0)."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    q = np.floor_divide(a, b)
    inexact = (b != 0) & (a != q * b) & ((a < 0) != (b < 0))
    return (q + inexact).astype(a.dtype)


def _mod(a: np.ndarray, b: np.ndarray, fmod: int = 0) -> np.ndarray:
    return np.fmod(a, b) if fmod else np.mod(a, b)


def _pow(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    base, exponent = present(arrays)
    with np.errstate(all="ignore"):
        if base.dtype.kind in "iu" and exponent.dtype.kind in "iu":
            positive = np.power(base, np.maximum(exponent, 0).astype(base.dtype), dtype=base.dtype)
            odd = (exponent % 2).astype(bool)
            negative = np.where(base == 1, 1, np.where(base == base.dtype.type(0) - 1, np.where(odd, -1, 1), 0))
            negative = np.where((base.dtype.kind == "u") & (base != 1), 0, negative)
            return [np.asarray(np.where(exponent < 0, negative, positive)).astype(base.dtype)]
        out = np.asarray(np.power(base.astype(np.float64), exponent.astype(np.float64)))
        return [out.astype(base.dtype)]


def _clip(x: np.ndarray, min: float | None = None, max: float | None = None) -> np.ndarray:
    out = x
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        low = None if min is None else int(np.clip(min, info.min, info.max))
        high = None if max is None else int(np.clip(max, info.min, info.max))
    else:
        low, high = min, max  # type: ignore[assignment]
    if low is not None:
        out = np.maximum(out, x.dtype.type(low))
    if high is not None:
        out = np.minimum(out, x.dtype.type(high))
    return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + z), z / (1.0 + z))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _silu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """x * sigmoid(alpha * x); NaN at -inf, like the product it stands for (so for Mish and Gelu)."""
    return x * _sigmoid(alpha * x)


def _mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(_softplus(x))


def _gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    if approximate == "tanh":
        # 0.5 * (1 + tanh u) = sigmoid(2u), which keeps its precision in the left tail
        gate = _sigmoid(2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x * x * x))
    else:
        gate = 0.5 * erfc_negative(x / np.sqrt(2.0))
    return x * gate


def _hard_sigmoid(x: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _selu(
    x: np.ndarray, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> np.ndarray:
    return gamma * _elu(x, alpha)


def _celu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _shrink(x: np.ndarray, lambd: float = 0.5, bias: float = 0.0) -> np.ndarray:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, np.zeros_like(x)))


def _leaky_relu(x: np.ndarray, alpha: float = 0.01) -> np.ndarray:
    return np.where(x < 0, alpha * x, x)


def _prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x * slope, x)


def _is_inf(x: np.ndarray, detect_positive: int = 1, detect_negative: int = 1) -> np.ndarray:
    return (np.isposinf(x) & bool(detect_positive)) | (np.isneginf(x) & bool(detect_negative))


def _bit_shift(x: np.ndarray, by: np.ndarray, direction: str) -> np.ndarray:
    return np.left_shift(x, by) if direction == "LEFT" else np.right_shift(x, by)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, x.dtype.type(0))


def text_of(x: np.ndarray) -> np.ndarray:
    """Numbers as ONNX prints them: shortest text that reads back, INF and NaN spelled so."""

    def one(v: Any) -> str:
        if isinstance(v, np.floating):
            return (
                "NaN"
                if np.isnan(v)
                else ("INF" if v > 0 else "-INF")
                if np.isinf(v)
                else np.format_float_positional(v, trim="-")
            )
        return str(int(v)) if isinstance(v, (np.integer, np.bool_)) else str(v)

    return np.array([one(v) for v in x.reshape(-1)], dtype=object).reshape(x.shape)


def _cast(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Floats to integers truncate, out-of-range values being unspecified, as in ONNX; integers wrap.

    Types numpy lacks leave as formats.py has them. saturate, round_mode: of the 8- and 4-bit floats.
    """
    (x,), to = present(arrays), attrs["to"]
    with np.errstate(all="ignore"):
        if to == "string":
            return [text_of(x)]
        if x.dtype.kind in "OUS":
            x = np.array([float(v) for v in x.reshape(-1)], dtype=np.float64).reshape(x.shape)
        if to == "bfloat16":
            return [float32_to_bfloat16(x.astype(np.float32))]
        if to in CODED:
            return [encode(x, to, bool(attrs.get("saturate", 1)), attrs.get("round_mode", "up"))]
        if to in NARROW_INTS:
            return [wrap(x, to)]
        return [x.astype(np.dtype(to))]


def _bit_cast(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [reinterpret(x, attrs["to"])]


def _where(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    condition, a, b = present(arrays)
    return [np.asarray(np.where(condition, a, b)).astype(a.dtype, copy=False)]


def along_axis(parameter: np.ndarray, x: np.ndarray, axis: int, block_size: int = 0) -> np.ndarray:
    """A scale or zero point shaped to broadcast against `x`: scalar, one per index, or one per block of `axis`."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if block_size:
        index = [slice(None)] * x.ndim
        index[axis] = slice(0, x.shape[axis])
        return np.repeat(parameter, block_size, axis=axis)[tuple(index)]
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _quantize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """saturate(round_half_even(x / scale) + zero_point); the division is IEEE float32 (float64 for float64 input).

    To a float of at most 8 bits: x / scale + zero_point in that precision, rounded once; `saturate` as in a cast.
    """
    x, scale = present(arrays[:2])
    zero = arrays[2] if len(arrays) > 2 else None
    to = attrs.get("to") or (str(zero.dtype) if zero is not None else "uint8")
    axis, block = attrs.get("axis", 1), attrs.get("block_size", 0)
    work = np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        q = x.astype(work) / along_axis(scale, x, axis, block).astype(work)
        if to in CODED:
            if zero is not None:
                q = q + along_axis(zero, x, axis, block).astype(work)
            return [encode(q, to, bool(attrs.get("saturate", 1)))]
        q = np.rint(q).astype(np.float64)
        if zero is not None:
            q = q + along_axis(zero, x, axis, block)
    return [saturate(q, to)]


def _saturate(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """saturate(round_half_even(x) + zero_point); NaN becomes the lowest code."""
    (x,) = present(arrays)
    with np.errstate(all="ignore"):
        return [saturate(np.rint(x).astype(np.float64) + attrs.get("zero_point", 0), attrs["to"])]


def _fake_quantize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """clip(round_half_even(x / scale), low, low + 255) * scale, each step in float32; x where the scale is 0."""
    x, scale, low = present(arrays)
    with np.errstate(all="ignore"):
        code = np.clip(np.rint(x / scale), low, low + np.float32(255))
        return [np.where(scale > 0, code * scale, x).astype(np.float32)]


def _dequantize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """float32(x - zero_point) * scale, the difference exact, in the scale's dtype."""
    x, scale = present(arrays[:2])
    zero = arrays[2] if len(arrays) > 2 else None
    axis, block = attrs.get("axis", 1), attrs.get("block_size", 0)
    q = x if x.dtype.kind == "f" else x.astype(np.int64)
    if zero is not None:
        q = q - along_axis(zero, x, axis, block)
    work = np.float64 if scale.dtype == np.float64 else np.float32
    y = np.asarray(q.astype(work) * along_axis(scale, x, axis, block).astype(work))
    to = attrs.get("to") or str(scale.dtype)
    return [y.astype("float32" if to == "bfloat16" else to)]


def _half(fn: Callable[..., np.ndarray]) -> ReferenceFn:
    """Own-dtype arithmetic, with float16 evaluated in float32 and rounded."""

    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        inputs = present(arrays)
        dtype = inputs[0].dtype
        if dtype == np.float16:
            inputs = [a.astype(np.float32) for a in inputs]
        with np.errstate(all="ignore"):
            return [np.asarray(fn(*inputs, **attrs)).astype(dtype, copy=False)]

    return reference


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        # own dtype
        "Add": _half(np.add),
        "Sub": _half(np.subtract),
        "Mul": _half(np.multiply),
        "Div": _half(divide),
        "Mod": _half(_mod),
        "Max": exact(np.maximum),
        "Min": exact(np.minimum),
        "Neg": exact(np.negative),
        "Abs": exact(np.abs),
        "Sign": exact(np.sign),
        "Floor": exact(np.floor),
        "Ceil": exact(np.ceil),
        "Round": exact(np.rint),
        "Sqrt": _half(np.sqrt),
        "Reciprocal": _half(lambda x: x.dtype.type(1) / x),
        "Relu": exact(_relu),
        "Identity": exact(np.copy),
        "Clip": exact(_clip),
        "LeakyRelu": rounded_once(_leaky_relu),
        "PRelu": _half(_prelu),
        "Pow": _pow,
        "Where": _where,
        "Cast": _cast,
        "BitCast": _bit_cast,
        # functions
        "Exp": rounded_once(np.exp),
        "Log": rounded_once(np.log),
        "Erf": rounded_once(erf),
        "Sigmoid": rounded_once(_sigmoid),
        "Sin": rounded_once(np.sin),
        "Cos": rounded_once(np.cos),
        "Tan": rounded_once(np.tan),
        "Asin": rounded_once(np.arcsin),
        "Acos": rounded_once(np.arccos),
        "Atan": rounded_once(np.arctan),
        "Sinh": rounded_once(np.sinh),
        "Cosh": rounded_once(np.cosh),
        "Tanh": rounded_once(np.tanh),
        "Asinh": rounded_once(np.arcsinh),
        "Acosh": rounded_once(np.arccosh),
        "Atanh": rounded_once(np.arctanh),
        "HardSigmoid": rounded_once(_hard_sigmoid),
        "HardSwish": rounded_once(lambda x: x * _hard_sigmoid(x, 1.0 / 6.0, 0.5)),
        "Softplus": rounded_once(_softplus),
        "Softsign": rounded_once(lambda x: x / (1.0 + np.abs(x))),
        "Silu": rounded_once(_silu),
        "Mish": rounded_once(_mish),
        "Gelu": rounded_once(_gelu),
        "Elu": rounded_once(_elu),
        "Selu": rounded_once(_selu),
        "Celu": rounded_once(_celu),
        "Shrink": rounded_once(_shrink),
        "ThresholdedRelu": rounded_once(lambda x, alpha=1.0: np.where(x > alpha, x, np.zeros_like(x))),
        # bool and bits
        "Equal": exact(np.equal),
        "Less": exact(np.less),
        "LessOrEqual": exact(np.less_equal),
        "Greater": exact(np.greater),
        "GreaterOrEqual": exact(np.greater_equal),
        "And": exact(np.logical_and),
        "Or": exact(np.logical_or),
        "Xor": exact(np.logical_xor),
        "Not": exact(np.logical_not),
        "IsNaN": exact(np.isnan),
        "IsInf": exact(_is_inf),
        "BitwiseAnd": exact(np.bitwise_and),
        "BitwiseOr": exact(np.bitwise_or),
        "BitwiseXor": exact(np.bitwise_xor),
        "BitwiseNot": exact(np.bitwise_not),
        "BitShift": exact(_bit_shift),
        # quantization
        "QuantizeLinear": _quantize,
        "Saturate": _saturate,
        "FakeQuantize": _fake_quantize,
        "DequantizeLinear": _dequantize,
    }
)
