"""Buffers whose surroundings are watched: every byte of a tensor may change, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from temper.tune.measure import Guarded


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((3, 5), None), ((3, 5), 9), ((1, 5), 9), ((2, 2, 3), 4), ((5,), None), ((), None), ((0, 5), 9), ((4, 0), 3)],
)
@pytest.mark.parametrize("skewed", [False, True])
def test_every_byte_outside_counts_and_none_inside(shape: tuple[int, ...], stride: int | None, skewed: bool) -> None:
    x = np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)
    g = Guarded(x, stride, skewed)
    assert g.intact and np.array_equal(g.array, x)
    inside = 0
    for i in range(len(g.block)):
        g.block[i] ^= 1
        changed = not np.array_equal(g.array, x)
        assert g.intact == changed, "a byte is the tensor's or is watched"
        inside += changed
        g.block[i] ^= 1
    assert inside == x.nbytes
