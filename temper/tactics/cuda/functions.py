"""Triton functions that elementwise programs call: the common ones in float32, rarely used ones in float64.

Float32 exponentials use the GPU's approximate 2^x: relative error up to 2^-22 + |x| 2^-24. Functions in float64 are
good to a few ulp of float64 over all finite arguments; a float32 result is rounded from them once.
"""

from __future__ import annotations

from collections.abc import Mapping

#: In an order in which each calls only earlier ones. Polynomials are those of cpu/templates/vmath.h and rare.h.
HELPERS: Mapping[str, str] = {
    "at_least": """
def at_least(x, bound):
    return tl.maximum(x, bound, propagate_nan=tl.PropagateNan.ALL)
""",
    "at_most": """
def at_most(x, bound):
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)
""",
    "sign": """
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
""",
    "round_half_even": """
def round_half_even(x):
    size = tl.abs(x)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)  # float32 has no fraction from 2^23 on
    return tl.where(x < 0, -whole, whole)
""",
    "floor": """
def floor(x):
    # the instruction takes subnormal numbers for zero
    y = tl.floor(x)
    return tl.where((x < 0) & (y == 0), -1.0, y)
""",
    "ceil": """
def ceil(x):
    y = tl.ceil(x)
    return tl.where((x > 0) & (y == 0), 1.0, y)
""",
    "to_code": """
def to_code(x, low, high, zero):
    # clipped before rounding; NaN gives the least code (which a minimum of a maximum does not promise: Triton makes one
    # instruction of the two). 1.5 * 2^23 has no fraction: adding it rounds half to even and leaves the whole number, in
    # two's complement, in the lower half of the bits; zero: even, and so added by the way
    return (tl.minimum(tl.where(x > low, x, low), high) + (12582912.0 + zero)).to(tl.int32, bitcast=True)
""",
    "hard_sigmoid": """
def hard_sigmoid(x, alpha, alpha_lo, beta):
    # alpha_lo is what float32 loses of alpha: near the zero the product and beta cancel
    small = tl.maximum(tl.minimum(x, 1e6), -1e6)
    line = tl.fma(x, tl.full(x.shape, alpha, tl.float32), tl.full(x.shape, beta, tl.float32))
    return at_most(at_least(tl.fma(small, tl.full(x.shape, alpha_lo, tl.float32), line), 0.0), 1.0)
""",
    "sigmoid": """
def sigmoid(x):
    # the quick division gives 0 for divisors above 2^126, where the quotient is subnormal
    return libdevice.fast_dividef(tl.full(x.shape, 1.0, tl.float32), 1.0 + tl.exp(-x))
""",
    "log": """
def log(x):
    # the library's logarithm takes subnormal numbers for zero
    tiny = x < 1.1754943508222875e-38
    y = tl.log(tl.where(tiny, x * 8388608.0, x))
    return tl.where(tiny, y - 15.942384719848633, y)
""",
    "expm1_negative": """
def expm1_negative(x):
    # e^x - 1 for x <= 0: near zero the difference would cancel
    c = 0.0013814467238262296 * x + 0.008368780836462975
    c = c * x + 0.04166839271783829
    c = c * x + 0.1666651964187622
    c = c * x + 0.4999999403953552
    return tl.where(x > -0.34657, c * x * x + x, tl.exp(x) - 1.0)
""",
    "tanh": """
def tanh(x):
    t = expm1_negative(-2.0 * tl.abs(x))
    y = -t / (2.0 + t)
    return tl.where(x < 0, -y, y)
""",
    "softplus": """
def softplus(x):
    # max(x, 0) + log(1 + z); log(u) * z / (u - 1) corrects for the rounding of u = 1 + z
    z = tl.exp(-tl.abs(x))
    u = 1.0 + z
    y = tl.where(u == 1.0, z, tl.log(u) * (z / (u - 1.0)))
    return at_least(x, 0.0) + y
""",
    "mish": """
def mish(x):
    # tanh(log(1 + w)) = n / (n + 2) for n = w (w + 2), w = e^x
    w = tl.exp(at_most(x, 20.0))
    n = w * (w + 2.0)
    return x * (n / (n + 2.0))
""",
    "gelu": """
def gelu(x):
    # max(x, 0) - a * Phi(-a), a = |x|, Phi(-a) = e^(-a^2 / 2) * r(u), u = 1 / (1 + a / 4): x < 0 cancels nothing
    a = at_most(tl.abs(x), 15.0)
    u = 1.0 / (a * 0.25 + 1.0)
    r = 0.032915133982896805 * u - 0.19065138697624207
    r = r * u + 0.3821832835674286
    r = r * u - 0.31659936904907227
    r = r * u + 0.29062819480895996
    r = r * u - 0.01302616111934185
    r = r * u + 0.11904683709144592
    r = r * u + 0.09535721689462662
    r = r * u + 0.10016454011201859
    r = r * u - 1.82778894668445e-05
    square = a * a
    error = tl.fma(a, a, -square)
    return at_least(x, 0.0) - a * (tl.exp(-0.5 * square) * (r - 0.5 * r * error))
""",
    "gelu_half": """
def gelu_half(x):
    # max(x, 0) - a * 2^p, a = |x|, p fitted to log2(Phi(-a)); the error is at most 2^-14 (|y| + 2^-10). Products'
    # tiles wait for the unit that makes exponentials: it is asked once an element. -1.0 times costs nothing, 0 - a does
    a = tl.minimum(tl.abs(x), 15.0)
    p = tl.fma(a, tl.full(x.shape, -0.00037712333141826093, tl.float32), 0.006351357325911522)
    p = tl.fma(a, p, -0.04990556091070175)
    p = tl.fma(a, p, -0.4620049297809601)
    p = tl.fma(a, p, -1.1500766277313232)
    p = tl.fma(a, p, -1.0000702142715454)
    return tl.fma(a * -1.0, tl.exp2(p), at_least(x, 0.0))
""",
    "rough_quotient": """
def rough_quotient(x, s):
    # x / s to 2 ulp, s > 0 and not so small that its reciprocal is infinite
    return x * tl.minimum(tl.div_rn(1.0, s), 3e38)
""",
    "code_quotient": """
def code_quotient(x, s):
    # x / s rounded once, s > 0: a faithful quotient's remainder corrects it (Markstein). What no code tells apart is
    # cut first, NaN to the least; both are scaled so that remainders are normal
    k = tl.where(s < 2.0**-60, 2.0**80, 1.0)
    d = s * k
    r = tl.div_rn(1.0, d)
    limit = d * 1024.0
    y = tl.minimum(tl.maximum(x * k, -limit), limit)
    q = y * r
    q = tl.fma(tl.fma(-q, d, y), r, q)
    return tl.fma(tl.fma(-q, d, y), r, q)
""",
    "gelu_tanh": """
def gelu_tanh(x):
    return x * sigmoid(1.5957691669464111 * (x + x * x * x * 0.044714998453855515))
""",
    "at_least64": """
def at_least64(x, bound):
    return tl.where((x > bound) | (x != x), x, bound)
""",
    "at_most64": """
def at_most64(x, bound):
    return tl.where((x < bound) | (x != x), x, bound)
""",
    "round64": """
def round64(x):
    size = tl.abs(x)
    whole = tl.where(size < 4503599627370496.0, (size + 4503599627370496.0) - 4503599627370496.0, size)
    return tl.where(x < 0, -whole, whole)
""",
    "quotient": """
def quotient(a, b):
    # toward zero; 0 where the divisor is 0, and what wraps at the least number over -1
    one = (b == 0) | (b == -1)
    return tl.where(b == 0, 0, tl.where(b == -1, 0 - a, a // tl.where(one, 1, b)))
""",
    "unsigned_quotient": """
def unsigned_quotient(a, b):
    return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))
""",
    "remainder": """
def remainder(a, b):
    # with the sign of a
    one = (b == 0) | (b == -1)
    return tl.where(one, 0, a % tl.where(one, 1, b))
""",
    "unsigned_remainder": """
def unsigned_remainder(a, b):
    return tl.where(b == 0, 0, a % tl.where(b == 0, 1, b))
""",
    "modulo": """
def modulo(a, b):
    # with the sign of b
    r = remainder(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
""",
    "remainder64": """
def remainder64(x, y):
    # of float32 values: long division by 2^23 a step, every product and difference exact in float64
    x, y = tl.broadcast(x, y)
    a = tl.abs(x)
    b = tl.abs(y)
    for _ in range(13):
        gap = ((a.to(tl.int64, bitcast=True) >> 52) - (b.to(tl.int64, bitcast=True) >> 52)).to(tl.int32) - 23
        factor = ((tl.maximum(gap, 0).to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
        step = b * factor
        r = a - tl.floor(a / step) * step
        r = tl.where(r < 0, r + step, tl.where(r >= step, r - step, r))
        a = tl.where(a >= b, r, a)
    a = tl.where((tl.abs(x) == float("inf")) | (y == 0) | (x != x) | (y != y), float("nan"), a)
    return tl.where(x.to(tl.int64, bitcast=True) < 0, -a, a)
""",
    "modulo64": """
def modulo64(x, y):
    r = remainder64(x, y)
    zero = tl.where(y.to(tl.int64, bitcast=True) < 0, -0.0, 0.0)
    return tl.where(r == 0, zero, tl.where((r < 0) != (y < 0), r + y, r))
""",
    "power64": """
def power64(x, y):
    # whole exponents by squaring, exact where every product is
    x, y = tl.broadcast(x, y)
    a = tl.abs(x)
    n = tl.abs(y)
    whole = tl.floor(y) == y
    small = whole & (n < 2147483648.0)
    k = tl.where(small, n, 0.0).to(tl.int64)
    odd = whole & (n < 9007199254740992.0) & (tl.where(n < 9007199254740992.0, n, 0.0).to(tl.int64) % 2 == 1)
    r = tl.full(x.shape, 1.0, tl.float64)
    b = x
    for _ in range(31):
        r = tl.where(k % 2 == 1, r * b, r)
        b = b * b
        k = k // 2
    squared = tl.where(y < 0, 1.0 / r, r)
    zero = tl.where(y < 0, float("inf"), 0.0)
    far = tl.where(y < 0, 0.0, float("inf"))
    other = tl.where(a == 0, zero, tl.where(a == float("inf"), far, tl.exp(y * tl.log(a))))
    other = tl.where(odd & (x.to(tl.int64, bitcast=True) < 0), -other, other)
    other = tl.where((x < 0) & (whole == 0) & (a < float("inf")), float("nan"), other)
    other = tl.where((x == -1) & (n == float("inf")), 1.0, other)
    out = tl.where(small, squared, other)
    out = tl.where((x != x) | (y != y), float("nan"), out)
    return tl.where((y == 0) | (x == 1), 1.0, out)
""",
    "whole64": """
def whole64(x):
    # what rounding moved off a whole number goes back to it
    r = round64(x)
    return tl.where(tl.abs(x - r) <= 1e-14 * tl.abs(x), r, x)
""",
    "integer_power": """
def integer_power(x, y):
    # modulo 2^64
    b, n = tl.broadcast(x, y)
    r = tl.full(b.shape, 1, tl.int64)
    k = tl.maximum(n, 0)
    for _ in range(63):
        r = tl.where(k % 2 == 1, r * b, r)
        b = b * b
        k = k // 2
    sign = tl.where(x == 1, 1, tl.where(x == -1, tl.where(n % 2 == 0, 1, -1), 0))
    return tl.where(n < 0, sign.to(tl.int64), r)
""",
    "shift_left": """
def shift_left(x, by, BITS: tl.constexpr):
    beyond = (by < 0) | (by >= BITS)
    return tl.where(beyond, 0, x << tl.where(beyond, 0, by))
""",
    "shift_right": """
def shift_right(x, by, BITS: tl.constexpr):
    beyond = (by < 0) | (by >= BITS)
    return tl.where(beyond, tl.where(x < 0, -1, 0), x >> tl.where(beyond, 0, by))
""",
    "unsigned_shift_left": """
def unsigned_shift_left(x, by, BITS: tl.constexpr):
    return tl.where(by >= BITS, 0, x << tl.where(by >= BITS, 0, by))
""",
    "unsigned_shift_right": """
def unsigned_shift_right(x, by, BITS: tl.constexpr):
    return tl.where(by >= BITS, 0, x >> tl.where(by >= BITS, 0, by))
""",
    "negative64": """
def negative64(x):
    return x.to(tl.int64, bitcast=True) < 0
""",
    "log1p64": """
def log1p64(y):
    # relative to y
    u = 1.0 + y
    return tl.where(u == 1.0, y, tl.where(u == float("inf"), u, tl.log(u) * (y / (u - 1.0))))
""",
    "atan64": """
def atan64(x):
    a = tl.abs(x)
    t = tl.where(a > 1.0, 1.0 / a, a)
    high = t > 0.2679491924311227
    t = tl.where(high, (t * 1.7320508075688772 - 1.0) / (1.7320508075688772 + t), t)
    z = t * t
    p = tl.full(x.shape, 0.030303030303030304, tl.float64)
    for k in tl.static_range(15):
        p = 1.0 / (31.0 - 2.0 * k) - z * p
    r = t - t * z * p
    r = tl.where(high, 0.52359877559829887 + r, r)
    r = tl.where(a > 1.0, 1.5707963267948966 - r, r)
    return tl.where(x != x, x, tl.where(negative64(x), -r, r))
""",
    "asin64": """
def asin64(x):
    a = tl.abs(x)
    inner = atan64(x / tl.sqrt((1.0 - x) * (1.0 + x)))
    return tl.where(a > 1.0, float("nan"), tl.where(a == 1.0, x * 1.5707963267948966, inner))
""",
    "acos64": """
def acos64(x):
    inner = 2.0 * atan64(tl.sqrt((1.0 - x) / (1.0 + x)))
    return tl.where((tl.abs(x) > 1.0) | (x != x), float("nan"), tl.where(x == -1.0, 3.1415926535897931, inner))
""",
    "sinh64": """
def sinh64(x):
    h = tl.exp(0.5 * tl.abs(x))
    s = tl.where(tl.abs(x) > 40.0, 0.5 * h * h, 0.5 * (h * h - 1.0 / (h * h)))
    z = x * x
    p = z * 1.6059043836821613e-10 + 2.505210838544172e-08
    p = z * p + 2.7557319223985893e-06
    p = z * p + 0.0001984126984126984
    p = z * p + 0.008333333333333333
    p = z * p + 0.16666666666666666
    return tl.where(tl.abs(x) > 0.5, tl.where(x < 0, -s, s), x + x * z * p)
""",
    "cosh64": """
def cosh64(x):
    h = tl.exp(0.5 * tl.abs(x))
    return 0.5 * h * h + 0.5 / (h * h)
""",
    "asinh64": """
def asinh64(x):
    a = tl.abs(x)
    near = log1p64(a + a * a / (1.0 + tl.sqrt(a * a + 1.0)))
    r = tl.where(a > 1e15, tl.log(a) + 0.69314718055994531, near)
    return tl.where(negative64(x), -r, r)
""",
    "acosh64": """
def acosh64(x):
    t = x - 1.0
    near = log1p64(t + tl.sqrt(2.0 * t + t * t))
    return tl.where(x < 1.0, float("nan"), tl.where(x > 1e15, tl.log(x) + 0.69314718055994531, near))
""",
    "atanh64": """
def atanh64(x):
    a = tl.abs(x)
    r = tl.where(a > 1.0, float("nan"), 0.5 * log1p64(2.0 * a / (1.0 - a)))
    return tl.where(negative64(x), -r, r)
""",
    "tan64": """
def tan64(x):
    return tl.sin(x) / tl.cos(x)
""",
    "sigmoid64": """
def sigmoid64(x):
    z = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0 / (1.0 + z), z / (1.0 + z))
""",
}
