"""Number formats that numpy lacks: their conversions from and to numbers. How arrays hold them: temper/dtypes.py.

float8e4m3fn, float8e5m2: OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023. The fnuz forms: B. Noune et al.,
"8-bit Numerical Formats for Deep Neural Networks" (2022); one zero, no infinity, NaN is the code of -0.
float4e2m1, float8e8m0: OCP Microscaling Formats (MX) Specification 1.0, 2023. Casts: ONNX, Cast-25.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from temper.dtypes import CODED, ML_FLOATS, NARROW_INTS, storage


@dataclass(frozen=True)
class MiniFloat:
    """A float of at most 8 bits: a sign, an exponent field of value e and `mantissa` bits of value m.

    e > 0: (1 + m / 2^mantissa) 2^(e - bias); e = 0: m / 2^mantissa 2^(1 - bias).

    largest: code of the largest finite number.
    infinity, nan: codes without sign, None where there is none (and a number beyond the largest then becomes NaN, or
        the largest).
    unsigned_zero: code 2^(bits-1) is NaN, not -0.
    """

    bits: int
    mantissa: int
    bias: int
    largest: int
    infinity: int | None
    nan: int | None
    unsigned_zero: bool = False

    @property
    def decoding(self) -> tuple[int, ...]:
        """What kernels need to decode it: bits, mantissa, bias, largest, infinity (-1: none), unsigned_zero."""
        infinity = -1 if self.infinity is None else self.infinity
        return self.bits, self.mantissa, self.bias, self.largest, infinity, self.unsigned_zero

    def encoding(self, saturate: bool) -> tuple[int, ...]:
        """And to encode it: bits, mantissa, bias, largest, what is beyond it, NaN (-1: none), unsigned_zero."""
        nan = -1 if self.nan is None else self.nan
        over = self.largest if saturate or self.nan is None else nan if self.infinity is None else self.infinity
        return self.bits, self.mantissa, self.bias, self.largest, over, nan, self.unsigned_zero


#: Of a float8e8m0 scale: bits of a float32's mantissa from which it is rounded up.
SCALE_ROUNDS: Mapping[str, int] = MappingProxyType({"up": 1, "nearest": 1 << 22, "down": 1 << 23})

MINI_FLOATS: Mapping[str, MiniFloat] = MappingProxyType(
    {
        "float8e4m3fn": MiniFloat(8, 3, 7, 0x7E, None, 0x7F),
        "float8e4m3fnuz": MiniFloat(8, 3, 8, 0x7F, None, 0x80, True),
        "float8e5m2": MiniFloat(8, 2, 15, 0x7B, 0x7C, 0x7E),
        "float8e5m2fnuz": MiniFloat(8, 2, 16, 0x7F, None, 0x80, True),
        "float4e2m1": MiniFloat(4, 1, 1, 0x7, None, None),
    }
)

#: Types whose numpy dtype does not say what they are: a constant of one has to state it.
UNNAMED = CODED | frozenset(NARROW_INTS) | {"bfloat16"}

#: how the ml_dtypes package names them
ML_DTYPES: Mapping[str, str] = MappingProxyType({**ML_FLOATS, **{name: name for name in NARROW_INTS}})


def bits_of(dtype: str) -> int:
    """Width of one element in a packed tensor."""
    if dtype in NARROW_INTS:
        return NARROW_INTS[dtype][0]
    return MINI_FLOATS[dtype].bits if dtype in MINI_FLOATS else 8 * storage(dtype).itemsize


def range_of(dtype: str) -> tuple[int, int]:
    """(least, largest) value of an integer type."""
    if dtype in NARROW_INTS:
        bits, signed = NARROW_INTS[dtype]
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """uint16 words holding bfloat16 -> float32, exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 -> uint16 words holding bfloat16, ties to even; NaN stays a quiet NaN."""
    bits = np.ascontiguousarray(x, np.float32).reshape(x.shape).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(x), quiet, rounded)


def number(value: float | np.ndarray, dtype: str) -> np.ndarray:
    """A number, or an array of them, as an array of `dtype` holds it."""
    if dtype == "bfloat16":
        return float32_to_bfloat16(np.asarray(value, np.float32))
    return encode(np.asarray(value), dtype) if dtype in CODED else np.asarray(value).astype(storage(dtype))


def numbers(array: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers that elements of `dtype` stand for; the array itself where they are its elements."""
    if dtype == "bfloat16":
        return bfloat16_to_float32(array)
    return decode(array, dtype) if dtype in CODED else array


@cache
def _values(dtype: str) -> np.ndarray:
    """The number of every code, as float32."""
    codes = np.arange(256)
    if dtype == "float8e8m0":
        out = np.ldexp(1.0, codes - 127)
        out[255] = np.nan
        return out.astype(np.float32)
    f = MINI_FLOATS[dtype]
    code = codes & ((1 << f.bits - 1) - 1)
    e, m = code >> f.mantissa, code & ((1 << f.mantissa) - 1)
    out = np.ldexp(np.where(e > 0, m + (1 << f.mantissa), m).astype(np.float64), np.maximum(e, 1) - f.bias - f.mantissa)
    out = np.where(codes >> (f.bits - 1) & 1, -out, out)
    if f.unsigned_zero:
        out[codes == f.nan] = np.nan
    elif f.nan is not None:
        out[code > f.largest] = np.nan
        if f.infinity is not None:
            out[codes == f.infinity] = np.inf
            out[codes == f.infinity + (1 << f.bits - 1)] = -np.inf
    return out.astype(np.float32)


def decode(codes: np.ndarray, dtype: str) -> np.ndarray:
    """Codes of a type in `CODED` -> float32, exact."""
    return np.asarray(_values(dtype)[codes])


def encode(x: np.ndarray, dtype: str, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """Real numbers -> codes of a type in `CODED`.

    saturate: beyond the largest number comes the largest, and infinity with it; else infinity where there is one, NaN
    elsewhere. round_mode: of float8e8m0; the others round to nearest, ties to even. What has no NaN makes it 0.
    """
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = x.astype(np.float64)
    if dtype == "float8e8m0":
        return _encode_scale(np.abs(wide), saturate, round_mode)
    f = MINI_FLOATS[dtype]
    negative, size = np.signbit(wide), np.abs(wide)
    finite = np.where(np.isfinite(size), size, 0.0)
    e = np.maximum(np.frexp(np.where(finite > 0, finite, 2.0**-200))[1] - 1, 1 - f.bias)
    # one number counts normal and subnormal codes alike: a mantissa of 2^mantissa carries into the exponent field
    steps = np.rint(np.ldexp(finite, f.mantissa - e))
    code = np.where(np.isinf(size), np.inf, steps + (e - (1 - f.bias)) * float(1 << f.mantissa))
    beyond = code > f.largest
    nan = 0 if f.nan is None else f.nan
    over = f.largest if saturate or f.nan is None else nan if f.infinity is None else f.infinity
    code = np.where(np.isnan(size), nan, np.where(beyond, over, code)).astype(np.uint8)
    sign = negative & ~(f.unsigned_zero & ((code == 0) | (code == f.nan))) & ~(np.isnan(size) & (f.nan is None))
    return np.asarray(code | (sign.astype(np.uint8) << np.uint8(f.bits - 1)), np.uint8)


def _encode_scale(size: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """Magnitudes -> exponents of float8e8m0, whose numbers are 2^-127 .. 2^127."""
    if round_mode not in ("up", "down", "nearest"):
        raise ValueError(f"round_mode {round_mode!r} is not up, down or nearest")
    m, e = np.frexp(np.where(np.isfinite(size) & (size > 0), size, 1.0))  # m in [1/2, 1): size = 2m 2^(e-1)
    up = m > 0.5 if round_mode == "up" else m >= 0.75 if round_mode == "nearest" else np.zeros(m.shape, bool)
    code = np.where(size > 0, e - 1 + up + 127, -1)
    code = np.where(np.isinf(size), 255, code)
    least = 2.0**-127
    code = np.where(size < least, 0 if saturate else 255, np.clip(code, 0, 254 if saturate else 255))
    return np.where(np.isnan(size), 255, code).astype(np.uint8)


def wrap(x: np.ndarray, dtype: str) -> np.ndarray:
    """Integers -> their low bits as a value of a type in `NARROW_INTS`."""
    bits, signed = NARROW_INTS[dtype]
    low = x.astype(np.int64) & ((1 << bits) - 1)
    return np.where(signed & (low >> (bits - 1) == 1), low - (1 << bits), low).astype(storage(dtype))


def reinterpret(x: np.ndarray, target: str) -> np.ndarray:
    """The same bits as `target`, a type as wide as the one `x` holds."""
    if target in NARROW_INTS:
        return wrap(x, target)
    if bits_of(target) < 8:
        return np.asarray(x.astype(np.int64) & ((1 << bits_of(target)) - 1)).astype(np.uint8)
    return np.ascontiguousarray(x).reshape(x.shape).view(storage(target))


def unpack(data: bytes | bytearray, dtype: str, count: int) -> np.ndarray:
    """`count` elements of ONNX's packed form: the first element in the lowest bits, the last byte filled with zeros."""
    bits = bits_of(dtype)
    octets = np.frombuffer(data, np.uint8)
    fields = (octets[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    flat = fields.reshape(-1)[:count]
    return wrap(flat, dtype) if dtype in NARROW_INTS else flat
