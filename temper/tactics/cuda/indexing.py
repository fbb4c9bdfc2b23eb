"""Triton functions of index arithmetic, as the numpy references do it."""

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
}
