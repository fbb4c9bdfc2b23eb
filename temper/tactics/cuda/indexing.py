"""Triton functions of index arithmetic, rounding as the numpy references do."""

from __future__ import annotations

from collections.abc import Mapping

#: In an order in which each calls only earlier ones.
HELPERS: Mapping[str, str] = {
    "limited": """
def limited(i, n):
    return tl.minimum(tl.maximum(i, 0), n - 1)
""",
    "wrapped_into": """
def wrapped_into(i, n):
    r = i % n
    return tl.where(r < 0, r + n, r)
""",
    "reflected": """
def reflected(i, n):
    # mirrored at both ends, which are not repeated, as often as it takes
    period = tl.maximum(2 * n - 2, 1)
    m = wrapped_into(i, period)
    return tl.minimum(m, period - m)
""",
    "tie": """
def tie(at):
    # what lies within 1e-6 of a tie is the tie
    half = tl.floor(at) + 0.5
    off = at - half
    return tl.where((off < 1e-6) & (off > -1e-6), half, at)
""",
    "position": """
def position(i, n):
    # an index counted from the front, -1 for one that is outside
    j = i.to(tl.int64)
    j = tl.where(j < 0, j + n, j)
    return tl.where((j >= 0) & (j < n), j, -1)
""",
    "within_reach": """
def within_reach(x):
    # beyond every axis, and exact in int64; NaN counts as below
    return tl.where(x > -1e9, tl.where(x < 1e9, x, 1e9), -1e9)
""",
    "nearest_of": """
def nearest_of(x):
    # ties to the even integer
    r = tl.floor(x + 0.5)
    return tl.where((r - x == 0.5) & (r.to(tl.int64) % 2 != 0), r - 1.0, r)
""",
    "keys": """
def keys(d):
    # Keys' cubic convolution kernel with a = -0.75 at distance d
    far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    return tl.where(d <= 1, (1.25 * d - 2.25) * d * d + 1.0, tl.where(d < 2, far, 0.0))
""",
    "mirrored": """
def mirrored(x, low, high):
    # folded into [low, high] as by mirrors at both ends
    span = high - low
    period = 2.0 * tl.where(span > 0, span, 1.0)
    r = tl.abs(x - low)
    r = r - tl.floor(r / period) * period
    r = tl.where(r < 0, r + period, tl.where(r >= period, r - period, r))
    return tl.where(span > 0, tl.where(r > span, period - r, r) + low, low)
""",
    "whole_of": """
def whole_of(x):
    # to the nearest integer, halves away from zero
    a = tl.floor(within_reach(tl.abs(x.to(tl.float64)) + 0.5))
    return tl.where(x < 0, -a, a).to(tl.int64)
""",
}
