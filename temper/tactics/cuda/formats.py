"""Triton functions that convert element types for which Triton has no arithmetic; CPU: tactics/cpu/templates/formats.h.

In memory and in programs such elements are bits: floats of at most 8 bits in uint8, integers narrower than a byte in
int8 or uint8 (temper/dtypes.py). Conversions give exactly what the references give, NaN's bits included, on every chip.
"""

from __future__ import annotations

from collections.abc import Mapping

from temper.dtypes import NARROW_INTS
from temper.reference.formats import MINI_FLOATS, SCALE_ROUNDS
from temper.tactics.epilogue import Attr

HELPERS: Mapping[str, str] = {
    "from_mini": """
def from_mini(x, BITS: tl.constexpr, M: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr,
              INFINITY: tl.constexpr, UNSIGNED_ZERO: tl.constexpr):
    c = x.to(tl.int32) & 255
    code = c & ((1 << (BITS - 1)) - 1)
    e = code >> M
    f = code & ((1 << M) - 1)
    normal = (((e - BIAS + 127) << 23) | (f << (23 - M))).to(tl.float32, bitcast=True)
    size = tl.where(e > 0, normal, f.to(tl.float32) * 2.0 ** (1 - BIAS - M))
    if UNSIGNED_ZERO:
        size = tl.where(c == 1 << (BITS - 1), float("nan"), size)
    else:
        size = tl.where(code > LARGEST, tl.where(code == INFINITY, float("inf"), float("nan")), size)
    return tl.where((c >> (BITS - 1)) & 1 != 0, -size, size)
""",
    "to_mini": """
def to_mini(x, BITS: tl.constexpr, M: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr, OVER: tl.constexpr,
            NAN: tl.constexpr, UNSIGNED_ZERO: tl.constexpr):
    # one number counts normal and subnormal codes alike, so that a carry of the mantissa reaches the exponent
    b = x.to(tl.int32, bitcast=True)
    a = b & 2147483647
    sign = (b >> 31) & 1
    e = tl.maximum((a >> 23) - 127, 1 - BIAS)
    finite = tl.where(a >= 2139095040, 0, a).to(tl.float32, bitcast=True)
    t = finite * ((127 + M - e) << 23).to(tl.float32, bitcast=True)
    code = ((t + 8388608.0) - 8388608.0).to(tl.int32) + ((e - 1 + BIAS) << M)
    code = tl.where((code > LARGEST) | (a == 2139095040), OVER, code)
    if NAN < 0:
        sign = tl.where(a > 2139095040, 0, sign)
        code = tl.where(a > 2139095040, 0, code)
    else:
        code = tl.where(a > 2139095040, NAN, code)
    if UNSIGNED_ZERO:
        sign = tl.where((code == 0) | (code == NAN), 0, sign)
    return (code | (sign << (BITS - 1))).to(tl.uint8)
""",
    "from_scale": """
def from_scale(x):
    c = x.to(tl.int32) & 255
    return tl.where(c == 255, 2143289344, tl.where(c == 0, 4194304, c << 23)).to(tl.float32, bitcast=True)
""",
    "to_scale": """
def to_scale(x, SATURATE: tl.constexpr, LEAST: tl.constexpr):
    a = x.to(tl.int32, bitcast=True) & 2147483647
    f = a & 8388607
    e = a >> 23
    # below 2^-126 the leading bit is stored: 2^-127 is 2^22, and half of what follows counts
    up = tl.where(e > 0, (f >= LEAST).to(tl.int32), (f - 4194304 >= (LEAST + 1) // 2).to(tl.int32))
    code = e + up
    if SATURATE:
        code = tl.where(code == 255, 254, code)
    code = tl.where(a < 4194304, 0 if SATURATE else 255, code)
    code = tl.where(a == 2139095040, 254 if SATURATE else 255, code)
    return tl.where(a > 2139095040, 255, code).to(tl.uint8)
""",
    "to_odd": """
def to_odd(x):
    # float64 to float32, rounded to odd: a second rounding then gives what one would
    y = x.to(tl.float32)
    back = y.to(tl.float64)
    bits = y.to(tl.int32, bitcast=True)
    odd = tl.where(tl.abs(back) > tl.abs(x), bits - 1, bits) | 1
    kept = (back == x) | (x != x) | (tl.abs(x) > 3.4028234663852886e38)
    return tl.where(kept, bits, odd).to(tl.float32, bitcast=True)
""",
}


def decoded(source: str, arg: str) -> str:
    """float32 text of the number that bits of a float type `source` stand for."""
    if source == "float8e8m0":
        return f"from_scale({arg})"
    return f"from_mini({arg}, {', '.join(map(str, MINI_FLOATS[source].decoding))})"


def encoded(target: str, number: str, saturate: bool, round_mode: Attr) -> str:
    """Text of a float32 as the bits of a float type `target`."""
    if target == "float8e8m0":
        return f"to_scale({number}, {saturate}, {SCALE_ROUNDS[str(round_mode)]})"
    return f"to_mini({number}, {', '.join(map(str, MINI_FLOATS[target].encoding(saturate)))})"


def narrowed(integer: str, target: str) -> str:
    """Text of an int32's low bits as a value of a type in `NARROW_INTS`."""
    bits, signed = NARROW_INTS[target]
    if not signed:
        return f"(({integer}) & {(1 << bits) - 1}).to(tl.uint8)"
    return f"((({integer}) << {32 - bits}) >> {32 - bits}).to(tl.int8)"
