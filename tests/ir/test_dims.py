"""Quotients of symbolic dimensions: exact ones are polynomials, others stay as they are."""

from __future__ import annotations

import pytest

from temper.ir.dims import Dim, DimLike, evaluate, opaque

N, W = Dim.symbol("N"), Dim.symbol("W")
HALF = opaque("//", W - 2, 2)

EXACT: list[tuple[DimLike, DimLike, DimLike]] = [
    # what a line reader's LSTM leaves of [W', N, 48] where its exporter writes sizes as quotients
    ((HALF * N + N) * 48, HALF * N + N, 48),
    ((HALF + 1) * N * 48, 12 * (HALF + 1), 4 * N),
    ((N + 1) * (N - 1), N - 1, N + 1),
    ((N + W) * (N - W) * 3, 3 * N + 3 * W, N - W),
]


@pytest.mark.parametrize(("a", "b", "quotient"), EXACT)
def test_exact_quotients(a: Dim, b: Dim, quotient: DimLike) -> None:
    assert a // b == quotient


@pytest.mark.parametrize(("a", "b"), [(N * N + 1, N - 1), (N * 5 + W * 5, 2 * N + 2 * W), (W, N + W), (N, N * W)])
def test_other_quotients_keep_their_meaning(a: Dim, b: Dim) -> None:
    found = a // b
    for n, w in ((3, 8), (7, 2), (5, 31)):
        env = {"N": n, "W": w}
        assert evaluate(found, env) == evaluate(a, env) // evaluate(b, env)
